"""The file that is written anew from a whole part file, and gets the name in its place: ``.NAME.pack``.

It is written by the one process that has the part file locked, from one thread. Until it is published the
part file stays as it is: a run that is killed meanwhile leaves that, and the next one begins this file anew.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress

from overlaysync.store.files import translate, write_all_at
from overlaysync.store.place import Place


class PackFile:
    """An open file of that kind; made by :meth:`overlaysync.store.partial.PartFile.begin_pack`."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._path = place.target.with_name(place.pack)
        place.drop_pack()
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self.fd = os.open(place.pack, flags, 0o600, dir_fd=place.directory)

    def write(self, pieces: Iterable[tuple[int, bytes]]) -> None:
        """Write (offset, bytes); those that follow each other in the file go together.

        Raises:
            NoSpaceError: the disk or a quota is full.
            OverlaysyncError: the disk failed.
        """
        try:
            start, length = 0, 0
            waiting: list[memoryview] = []
            for offset, body in pieces:
                if waiting and offset != start + length:
                    write_all_at(self.fd, waiting, start)
                    waiting, length = [], 0
                if not waiting:
                    start = offset
                waiting.append(memoryview(body))
                length += len(body)
            write_all_at(self.fd, waiting, start)
        except OSError as error:
            raise translate(error, f"Cannot write {self._path}") from error

    def end(self, size: int) -> None:
        """Note how many bytes the file has."""
        try:
            os.ftruncate(self.fd, size)
        except OSError as error:
            raise translate(error, f"Cannot write {self._path}") from error

    def open_reader(self) -> int:
        """Return a descriptor of its own to read with, which outlives this object."""
        return os.open(f"/proc/self/fd/{self.fd}", os.O_RDONLY | os.O_CLOEXEC)

    def holds(self) -> bool:
        """Whether its name still means this file."""
        return self._place.means(self._place.pack, self.fd)

    def drop(self) -> None:
        """Remove it, unless it has its name already; does nothing when it is closed."""
        if self.fd >= 0:
            if self.holds():
                with suppress(OSError):
                    os.unlink(self._place.pack, dir_fd=self._place.directory)
            self.close()

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
