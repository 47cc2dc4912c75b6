"""The guest's file systems are frozen for the moment of a copy, and thawed whatever happens to us."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from overlaysync.live.capture import capture
from overlaysync.live.guest_agent import Freeze
from overlaysync.live.running import Copies, Running
from overlaysync.units import MIB
from tests.guest import Guest, make_disks
from tests.images import run
from tests.live.vms import QMP, Between, copied, running
from tests.qmp import left_in

pytestmark = [pytest.mark.qemu, pytest.mark.guest, pytest.mark.slow, pytest.mark.holds("D10")]

WAKES_S = 20.0


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """A guest that writes numbers to a file, on a file system that can be frozen."""
    directory = tmp_path_factory.mktemp("vm")
    (disk,) = make_disks(directory, "a.qcow2")
    flat = directory / "flat.raw"
    with flat.open("wb") as file:
        file.truncate(64 * MIB)
    run("mkfs.ext4", "-q", "-O", "^has_journal", str(flat))
    run("qemu-img", "convert", "-n", "-O", "qcow2", str(flat), str(disk))
    with Guest.boot(directory, [disk], *QMP, agent=True) as made:
        made.ask("mount vda", "MOUNTED")
        made.ask("agent", "AGENT")
        made.ask("files", "files")
        while made.counter() < 3:
            pass
        yield made


def goes_on(guest: Guest) -> bool:
    """Whether the guest writes to its file system."""
    number, deadline = guest.counter(), time.monotonic() + WAKES_S
    while guest.counter() < number + 2:
        if time.monotonic() > deadline:
            return False
    return True


def vm(guest: Guest) -> Running:
    return running([guest.directory / "a.qcow2"])


def checked(copies: Copies, guest: Guest) -> str:
    """What the file system in a copy says; it is closed."""
    ((path, captured),) = copies.files.items()
    copy = copied(captured.file, guest.directory, Path(path))
    flat = copy.with_suffix(".raw")
    run("qemu-img", "convert", "-O", "raw", str(copy), str(flat))
    os.close(captured.file)
    said = subprocess.run(["fsck.ext4", "-n", "-f", str(flat)], capture_output=True, text=True, check=False)
    return "clean" if said.returncode == 0 else said.stdout


def test_a_frozen_file_system_is_whole_in_the_copy(guest: Guest, tmp_path: Path) -> None:
    """It has no journal: without the freeze, a check finds what was under way."""
    for _ in range(3):
        copies = capture([vm(guest)], tmp_path, lambda _: None)
        assert copies.moments[0].frozen
        assert checked(copies, guest) == "clean"
    assert goes_on(guest)
    assert left_in(guest.directory / "qmp") == []


def at_transaction(vm: Running, act: Any) -> Running:
    """The VM, with a monitor at which something happens while the guest is frozen."""

    async def connect() -> Between:
        def before(_number: int, command: str, _arguments: Mapping[str, Any]) -> None:
            if command == "transaction":
                act()

        return Between(await vm.connect(), before=before)

    return replace(vm, connect=connect)


@pytest.mark.red_without("D10", "the process that freezes a guest does not thaw it when its parent has ended")
def test_thawed_when_the_tool_is_killed(guest: Guest, tmp_path: Path) -> None:
    child = os.fork()
    if not child:
        os.setsid()
        capture(
            [at_transaction(vm(guest), lambda: os.killpg(os.getpgrp(), signal.SIGKILL))],
            tmp_path,
            lambda _: None,
        )
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert goes_on(guest)


def test_thawed_in_time_if_the_tool_hangs(guest: Guest, tmp_path: Path) -> None:
    """A copy that began after the file systems were thawed is not said to be of frozen ones."""

    def hang() -> None:
        deadline = time.monotonic() + Freeze.held_s + 2
        while time.monotonic() < deadline:
            time.sleep(0.1)

    copies = capture([at_transaction(vm(guest), hang)], tmp_path, lambda _: None)
    for copy in copies.files.values():
        os.close(copy.file)
    assert not copies.moments[0].frozen
    assert goes_on(guest)


def test_thawed_when_qemu_refuses(guest: Guest, tmp_path: Path) -> None:
    def fail() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        capture([at_transaction(vm(guest), fail)], tmp_path, lambda _: None)
    assert goes_on(guest)
    assert left_in(guest.directory / "qmp") == []


@pytest.mark.red_without("D10", "the process that thaws is looked for in the current directory")
def test_no_program_of_the_current_directory_is_run(
    guest: Guest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "overlaysync"
    package.mkdir()
    (package / "__init__.py").write_text("open('run', 'w')\n")
    monkeypatch.chdir(tmp_path)
    copies = capture([vm(guest)], tmp_path, lambda _: None)
    for copy in copies.files.values():
        os.close(copy.file)
    assert copies.moments[0].frozen
    assert not (tmp_path / "run").exists()


def test_an_agent_that_does_not_answer_is_none(guest: Guest, tmp_path: Path) -> None:
    """Nobody listens at the socket: the copy is taken as a power failure would have left it."""
    copies = capture(
        [replace(vm(guest), agent=("agent", str(tmp_path / "none"), "0"))], tmp_path, lambda _: None
    )
    for copy in copies.files.values():
        os.close(copy.file)
    assert not copies.moments[0].frozen
