"""What of a share a VM has in use: its last published versions, listed without their data."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from overlaysync.formats.locks import in_use_for_writing
from overlaysync.ops.in_use import InUse


def is_written(path: str, fd: int | None = None) -> bool:
    """Return whether a VM has the file at ``path`` open for writing; ``fd``: it is this one that is meant."""
    try:
        opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        same = fd is None or os.path.samestat(os.fstat(fd), os.fstat(opened))
        return same and in_use_for_writing(opened)
    finally:
        os.close(opened)


@dataclass(frozen=True, slots=True)
class Used:
    """A file in use, and the version that it held last."""

    path: str
    entry: InUse


class UsedFiles:
    """The files of a share that are in use, by path. Changed from a thread, read from the event loop."""

    def __init__(self) -> None:
        self._files: dict[str, Used] = {}

    def add(self, path: str, entry: InUse) -> bool:
        """Note a file; whether that is news."""
        if path in self._files:
            return False
        self._files[path] = Used(path, entry)
        return True

    def all(self) -> tuple[Used, ...]:
        """Every file."""
        return tuple(self._files.values())

    def keep(self, still: Callable[[str], bool]) -> bool:
        """Forget the files that are not in use any more; whether there were any."""
        gone = [path for path in self._files if not still(path)]
        for path in gone:
            del self._files[path]
        return bool(gone)

    def clear(self) -> None:
        """Forget all."""
        self._files.clear()
