"""Opening a part file safely: its name may mean anything by now, and others may want it too.

The lock is a flock on the part file itself. A name is believed only while it means the locked file: another
process may publish or remove the file between our open and our lock.
"""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from overlaysync.errors import InUseError, NotAllowedError

Entry: TypeAlias = tuple[int, int]
"""What a name in a directory means: device and inode, of a link itself."""


def entry_at(path: str | Path) -> Entry | None:
    """Return what ``path`` means at present; None when nothing has that name."""
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino


@dataclass(frozen=True, slots=True)
class Place:
    """A target, its part file, and a descriptor of their directory, so that no swapped path is followed."""

    target: Path
    part: Path
    directory: int

    @classmethod
    def of(cls, target: str | Path) -> Place:
        given = Path(target)
        if given.name in ("", ".."):
            raise ValueError(f"'{target}' does not name a file")
        parent = Path(os.path.realpath(given.parent))
        directory = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return cls(parent / given.name, part_path(parent / given.name), directory)

    def holds(self, fd: int) -> bool:
        """Whether the part file's name still means the file open as ``fd``."""
        return self.means(self.part.name, fd)

    def means(self, name: str, fd: int) -> bool:
        """Whether a name in the directory means the file open as ``fd``."""
        status = self._stat(name)
        return status is not None and os.path.samestat(status, os.fstat(fd))

    def status(self) -> os.stat_result | None:
        """Of the part file's name; None when there is none."""
        return self._stat(self.part.name)

    def entry(self) -> Entry | None:
        """Return what the target's name means at present."""
        status = self._stat(self.target.name)
        return (status.st_dev, status.st_ino) if status else None

    def finish_link(self, status: os.stat_result) -> bool:
        """Drop the part file's name if it is a second one of the target.

        That is what a crash leaves between the two steps of a rename where it takes two.
        """
        target = self._stat(self.target.name)
        if target is None or not os.path.samestat(target, status):
            return False
        # Another process may have published it just now, and a third begun anew under that name.
        part = self._stat(self.part.name)
        if part is not None and os.path.samestat(part, status):
            with suppress(FileNotFoundError):
                os.unlink(self.part.name, dir_fd=self.directory)
        return True

    @property
    def pack(self) -> str:
        """The name of the file that is written anew from the part file."""
        return f".{self.target.name}.pack"

    def drop_pack(self) -> None:
        """Remove the file that a run left which was killed while it wrote the image anew.

        Raises:
            NotAllowedError: what has that name is not a plain file of our own.
        """
        status = self._stat(self.pack)
        if status is None:
            return
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            raise in_the_way(self.target, self.target.with_name(self.pack))
        os.unlink(self.pack, dir_fd=self.directory)

    def close(self) -> None:
        os.close(self.directory)

    def _stat(self, name: str) -> os.stat_result | None:
        try:
            return os.stat(name, dir_fd=self.directory, follow_symlinks=False)
        except FileNotFoundError:
            return None


def open_locked(place: Place) -> int:
    """Return a descriptor of the part file, new or old, with its lock held."""
    while True:
        fd = _create(place) if place.status() is None else _open_old(place)
        if fd is None:
            continue  # another process was quicker; look again
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if place.holds(fd):
                os.fchmod(fd, 0o600)
                return fd
        except BlockingIOError as error:
            os.close(fd)
            raise InUseError(
                f"Another overlaysync is writing {place.target}",
                hint="wait for it, or stop it, then try again",
            ) from error
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # published or removed between open and lock


def _create(place: Place) -> int | None:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(place.part.name, flags, 0o600, dir_fd=place.directory)
    except FileExistsError:
        return None


def _open_old(place: Place) -> int | None:
    """Open what lies there if it can be ours: a regular file with one name, of our own user."""
    status = place.status()
    if status is None or place.finish_link(status):
        return None
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or status.st_uid != os.geteuid():
        raise in_the_way(place.target, place.part)
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(place.part.name, flags, dir_fd=place.directory)
    except FileNotFoundError:
        return None
    if not os.path.samestat(os.fstat(fd), status):
        os.close(fd)
        return None
    return fd


def in_the_way(target: Path, path: Path) -> NotAllowedError:
    """Return the error for what has the name of a file that we want to write."""
    return NotAllowedError(
        f"Cannot write {target}",
        why=f"{path} is in the way and is not a plain file of your own",
        hint="look at it, and remove it if it is not needed",
    )


def part_path(target: Path) -> Path:
    """Where the part file of ``target`` lies."""
    return target.with_name(f".{target.name}.part")
