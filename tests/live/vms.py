"""QEMUs for the tests of capturing: with a guest that counts, or with nothing but disks."""

from __future__ import annotations

import subprocess
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from overlaysync.formats.image import Format, Geometry
from overlaysync.live.monitor import Monitor
from overlaysync.live.running import Running
from overlaysync.live.targets import disk_source
from overlaysync.live.ways import machines_of
from overlaysync.ops.recovery.running import RunningDisk
from tests.guest import DIES_WITH_US, DISK_SIZE
from tests.images import run
from tests.qmp import Qmp

QMP = ("-qmp", "unix:qmp,server=on,wait=off")


@contextmanager
def bare(directory: Path, disks: Sequence[Path], *more: str) -> Iterator[subprocess.Popen[bytes]]:
    """A QEMU without a system in it: its firmware waits for something to boot."""
    words = ["qemu-system-x86_64", "-accel", "tcg", "-m", "32", "-nodefaults", "-display", "none"]
    for disk in disks:
        words += ["-drive", f"file={disk},if=virtio,format={disk.suffix[1:]}"]
    with (directory / "qemu.log").open("wb") as log:
        process = subprocess.Popen([*DIES_WITH_US, *words, *(more or QMP)], cwd=directory, stderr=log)
    try:
        if not more:
            Qmp(directory / "qmp").close()  # it answers once it has opened its disks
        yield process
    finally:
        process.kill()
        process.wait()


def whole(disk: Path) -> None:
    """Fail if an image is damaged; clusters that nothing uses are no damage."""
    checked = subprocess.run(["qemu-img", "check", str(disk)], capture_output=True, text=True, check=False)
    assert checked.returncode in (0, 3), checked.stdout + checked.stderr


def overlay(path: Path, data: int) -> Path:
    """A qcow2 or QED overlay of which so many bytes are written."""
    master = path.with_name(f"master-{path.stem}.raw")
    with master.open("wb") as file:
        file.truncate(DISK_SIZE)
    run("qemu-img", "create", "-q", "-f", path.suffix[1:], "-F", "raw", "-b", master.name, str(path))
    run("qemu-io", "-f", path.suffix[1:], "-c", f"write -q -P 7 0 {data}", str(path))
    return path


def running_disk(path: Path) -> RunningDisk:
    """What is known of an overlay of :func:`overlay` or :func:`tests.guest.make_disks`."""
    master = path.with_name(f"master-{path.stem}.raw")
    geometry = Geometry(Format(path.suffix[1:]), 65536, 65536)
    backing = master.name.encode(), Format.RAW
    return RunningDisk(str(path), geometry, master.stat().st_size, backing, None, (), 0)


def running(disks: Sequence[Path], *, connect: Callable[[], Awaitable[Monitor]] | None = None) -> Running:
    """What is to be captured of the QEMU that writes to these disks."""
    sources = tuple(disk_source(running_disk(disk)) for disk in disks)
    (machine,) = machines_of({source.path: source.identity for source in sources})
    return Running("vm", sources, connect or machine.monitor, machine.process, machine.agent, machine.human)


class Between:
    """A monitor that tells of each command before it is sent, and after its answer.

    Args:
        monitor: the real one.
        before, after: called with the number of the command, from 0, its name and its arguments.
    """

    def __init__(
        self,
        monitor: Monitor,
        *,
        before: Callable[[int, str, Mapping[str, Any]], None] = lambda *_: None,
        after: Callable[[int, str, Mapping[str, Any]], None] = lambda *_: None,
    ) -> None:
        self._monitor = monitor
        self._before, self._after = before, after
        self.count = 0

    async def ask(
        self, command: str, arguments: Mapping[str, Any] | None = None, *, file: int | None = None
    ) -> Any:
        number, self.count = self.count, self.count + 1
        self._before(number, command, arguments or {})
        answer = await self._monitor.ask(command, arguments, file=file)
        self._after(number, command, arguments or {})
        return answer

    async def close(self) -> None:
        await self._monitor.close()


def copied(file: int, directory: Path, disk: Path) -> Path:
    """A copy that was captured, as a file beside its master."""
    path = directory / f"copy-{disk.stem}.qcow2"
    path.write_bytes(Path(f"/proc/self/fd/{file}").read_bytes())
    return path
