"""Finds the QEMU process that writes to an image, and where its monitors are.

Files are compared by device and inode: QEMU was told names that may be relative to a directory that it has
left (``-daemonize``). What belongs to other users cannot be seen. Source: proc(5).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from overlaysync.live.arguments import Arguments, Channel, parse_arguments

Identity = tuple[int, int]
"""Device and inode of a file."""

_LIMIT = 1 << 20
"""Bytes of a command line that are read."""
_STARTED = 19
"""The start time among the fields behind the name in /proc/PID/stat."""


@dataclass(frozen=True, slots=True)
class Process:
    """A QEMU process.

    Attributes:
        pid: of the process.
        name: of its program, as far as the kernel keeps it.
        started: when, in clock ticks since the machine was booted: with the pid it names the process.
        directory: its current directory, "" where that cannot be seen.
        files: paths of the files that it has open for writing, by identity.
        arguments: of its command line.
    """

    pid: int
    name: str
    started: int
    directory: str
    files: Mapping[Identity, str]
    arguments: Arguments

    @property
    def is_vm(self) -> bool:
        """Whether it runs a VM: other programs of QEMU write to images, too."""
        return self.name.startswith(("qemu-system", "kvm", "qemu-kvm"))

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return start_of(self.pid) == self.started

    def paths_of(self, channel: Channel, near: Iterable[str]) -> Iterator[str]:
        """Yield where the socket of a channel may lie, the likeliest first.

        Args:
            channel: of this process.
            near: directories to look in if QEMU was told a relative name, and has left its directory.
        """
        if channel.path:
            for directory in dict.fromkeys((self.directory, *near)):
                path = os.path.join(directory, channel.path)
                if os.path.exists(path):
                    yield path


def writers_of(identities: Iterable[Identity]) -> Iterator[Process]:
    """Yield the processes, other than this one, that have one of these files open for writing."""
    wanted = set(identities)
    for name in _listed("/proc"):
        if name.isdecimal() and int(name) != os.getpid():
            files = dict(_written(name))
            if wanted & files.keys():
                process = _process(int(name), files)
                if process is not None:
                    yield process


def start_of(pid: int) -> int:
    """Return when a process was started, in clock ticks since the machine was booted; 0 if there is none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read(_LIMIT).rpartition(")")[2].split()
            return 0 if fields[0] in "ZX" else int(fields[_STARTED])
    except (OSError, IndexError, ValueError):
        return 0


def _process(pid: int, files: Mapping[Identity, str]) -> Process | None:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = [os.fsdecode(word) for word in file.read(_LIMIT).split(b"\0")]
        directory = os.readlink(f"/proc/{pid}/cwd")
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as comm:
            name = comm.read(_LIMIT).strip()
    except OSError:
        return None
    return Process(pid, name, start_of(pid), directory, files, parse_arguments(words))


def _written(pid: str) -> Iterator[tuple[Identity, str]]:
    """Yield (identity, path) of the plain files that a process has open for writing."""
    for number in _listed(f"/proc/{pid}/fd"):
        with suppress(OSError, ValueError, IndexError):
            path = os.readlink(f"/proc/{pid}/fd/{number}")
            if not path.startswith("/"):
                continue
            with open(f"/proc/{pid}/fdinfo/{number}", encoding="ascii", errors="replace") as file:
                flags = int(file.read(4096).partition("flags:")[2].split()[0], 8)
            if flags & os.O_ACCMODE != os.O_RDONLY:
                status = os.stat(f"/proc/{pid}/fd/{number}")
                yield (status.st_dev, status.st_ino), path


def _listed(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []
