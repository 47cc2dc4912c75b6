"""The tool or QEMU ends at each step of a capture: the VM runs on, or its image is whole; nothing stays."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from overlaysync.errors import InUseError
from overlaysync.live.capture import capture
from overlaysync.live.running import Running
from overlaysync.units import KIB, MIB
from tests.live.vms import Between, bare, copied, overlay, running, whole
from tests.qmp import Qmp, left_in

pytestmark = [pytest.mark.qemu, pytest.mark.slow, pytest.mark.holds("D10")]

Act = Callable[[], None]


def acting(vm: Running, step: int, act: Act, seen: list[str]) -> Running:
    """The VM, with a monitor at which something happens before the command with that number is sent."""

    async def connect() -> Between:
        def before(number: int, command: str, arguments: Mapping[str, Any]) -> None:
            seen.append(command)
            if command == "transaction":
                for action in arguments["actions"]:
                    action["data"]["speed"] = 4 * MIB
            if number == step:
                act()

        return Between(await vm.connect(), before=before)

    return Running(vm.name, vm.sources, connect, vm.process)


@pytest.fixture
def disks(tmp_path: Path) -> list[Path]:
    return [overlay(tmp_path / "a.qcow2", 512 * KIB), overlay(tmp_path / "b.qed", 512 * KIB)]


@pytest.fixture
def vm(tmp_path: Path, disks: list[Path]) -> Iterator[subprocess.Popen[bytes]]:
    with bare(tmp_path, disks) as process:
        yield process


def steps(disks: list[Path], scratch: Path) -> list[str]:
    """The commands of a capture; those that look at a job under way are counted once."""
    seen: list[str] = []
    copies = capture([acting(running(disks), -1, lambda: None, seen)], scratch, lambda _: None)
    for copy in copies.files.values():
        os.close(copy.file)
    return seen


def is_good(disks: list[Path], scratch: Path) -> None:
    """Capture once more, and compare the copies with the disks, to which nothing was written meanwhile."""
    copies = capture([running(disks)], scratch, lambda _: None)
    for disk in disks:
        copy = copied(copies.files[str(disk)].file, disk.parent, disk)
        whole(copy)
        compared = ["qemu-img", "compare", "-q", "-U", str(copy), str(disk)]
        assert subprocess.run(compared, check=False).returncode == 0
        os.close(copies.files[str(disk)].file)


@pytest.mark.red_without("D10", "what a killed command has left in QEMU is not removed by the next")
def test_killed_at_each_step(vm: subprocess.Popen[bytes], disks: list[Path], tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    commands = steps(disks, scratch)
    assert {"add-fd", "blockdev-add", "transaction", "job-dismiss", "blockdev-del", "remove-fd"} <= {
        *commands
    }
    killed = 0
    for step in range(len(commands)):
        child = os.fork()
        if not child:
            capture([acting(running(disks), step, kill_me, [])], scratch, lambda _: None)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        killed += os.WIFSIGNALED(status)
        assert vm.poll() is None
        assert os.listdir(scratch) == []
    assert killed > commands.index("transaction") + 1, "how often a job is looked at differs"
    is_good(disks, scratch)
    assert left_in(tmp_path / "qmp") == []


def kill_me() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.red_without("D10", "an interruption ends the cleaning up as well")
def test_interrupted_at_each_step(vm: subprocess.Popen[bytes], disks: list[Path], tmp_path: Path) -> None:
    commands = steps(disks, tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    interrupted = 0
    for step in range(len(commands)):
        try:
            copies = capture([acting(running(disks), step, interrupt, [])], tmp_path, lambda _: None)
        except KeyboardInterrupt:
            interrupted += 1
        else:
            for copy in copies.files.values():
                os.close(copy.file)
        assert left_in(tmp_path / "qmp") == [], commands[step]
    assert interrupted > commands.index("transaction") + 1, "how often a job is looked at differs"
    assert len(os.listdir("/proc/self/fd")) == before
    is_good(disks, tmp_path)


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def test_qemu_killed_at_each_step(disks: list[Path], tmp_path: Path) -> None:
    with bare(tmp_path, disks):
        commands = steps(disks, tmp_path)
    for step in range(commands.index("transaction") + 2):
        with bare(tmp_path, disks) as process:

            def kill(process: subprocess.Popen[bytes] = process) -> None:
                process.kill()
                process.wait()

            with pytest.raises(InUseError, match=r"has ended: nothing was captured|answers no more"):
                capture([acting(running(disks), step, kill, [])], tmp_path, lambda _: None)
        for disk in disks:
            whole(disk)


def test_what_another_command_does_is_left_alone(
    vm: subprocess.Popen[bytes], disks: list[Path], tmp_path: Path
) -> None:
    """A living process has names of its own in QEMU; only what the dead have left is removed."""
    mine = f"os-{os.getpid():x}-1-t0"  # of a process with our id that was started at another time
    alive = f"os-{os.getppid():x}-{start(os.getppid()):x}-t0"
    with Qmp(tmp_path / "qmp") as qmp:
        for name in (mine, alive):
            qmp.ask("blockdev-add", driver="null-co", node_name=name, size=MIB)
    is_good(disks, tmp_path)
    assert left_in(tmp_path / "qmp") == [alive]


def start(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
