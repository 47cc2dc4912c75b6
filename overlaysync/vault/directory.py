"""A vault in a directory: the embedded default, a USB disk, an NFS export.

An object is a file of its name. It is written beside, made to last, and then renamed: a crash leaves at most
a temporary file, and of two that write one object at once each leaves the same bytes. A file that has rotted
gives way to a good one.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from overlaysync.errors import (
    NoSpaceError,
    NotAllowedError,
    OverlaysyncError,
)
from overlaysync.units import MIB
from overlaysync.vault.objects import Part, Stored, is_whole, may_begin, missing, parse_name

_TEMPORARY = ".new-"
_PART = MIB
"""Bytes that are read at a time: they stay in a processor's cache until they are dealt with."""
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP}


class DirectoryObjects:
    """Objects as files below ``root``, which need not exist before something is stored."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, name: str, data: bytes) -> bool:
        return self.store(name, (data,))

    def store(self, name: str, parts: Iterable[Part]) -> bool:
        path = self._path(name)
        try:
            if os.path.lexists(path) and is_whole(self, name):
                return False
            self._make_directories(path.parent)
            while (left := self._put(path, parts)) is not None:
                parts = left
            _sync(path.parent)
        except OSError as error:
            raise self._error(error, "write to") from error
        return True

    def parts(self, name: str) -> Iterator[Part]:
        with self._reading(name) as fd:
            yield from _parts(fd)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        with self._reading(name) as fd:
            size = os.fstat(fd).st_size
            wanted = max(0, size - offset) if length is None else min(length, max(0, size - offset))
            return _read(fd, offset, wanted)

    def size(self, name: str) -> int | None:
        try:
            return os.stat(self._path(name), follow_symlinks=False).st_size
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._error(error, "read") from error

    def list(self, prefix: str) -> Iterator[Stored]:
        try:
            for below, name in self._files(prefix):
                if parse_name(below + name):
                    with suppress(FileNotFoundError):  # removed meanwhile
                        status = os.stat(self.root / below / name, follow_symlinks=False)
                        if stat.S_ISREG(status.st_mode):
                            yield Stored(below + name, status.st_size)
        except OSError as error:
            raise self._error(error, "read") from error

    def delete(self, name: str) -> bool:
        path = self._path(name)
        try:
            path.unlink(missing_ok=True)
            if path.parent.exists():
                _sync(path.parent)
        except OSError as error:
            raise self._error(error, "remove files from") from error
        return True

    def drop_temporaries(self) -> int:
        """Remove what writers left that were killed; returns how many files.

        One that is writing just now begins its file again.
        """
        count = 0
        with suppress(OSError):
            for below, name in self._files(""):
                if name.startswith(_TEMPORARY):
                    with suppress(OSError):
                        os.unlink(self.root / below / name)
                        count += 1
        return count

    def _path(self, name: str) -> Path:
        assert parse_name(name) is not None, name
        return self.root / name

    @contextmanager
    def _reading(self, name: str) -> Iterator[int]:
        try:
            fd = os.open(self._path(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                yield fd
            finally:
                os.close(fd)
        except FileNotFoundError:
            raise missing(name) from None
        except OSError as error:
            raise self._error(error, "read") from error

    def _put(self, path: Path, parts: Iterable[Part]) -> Iterable[Part] | None:
        """Write a file; returns what is to be written again where another has removed the temporary one.

        It has taken that for the file of a killed writer.
        """
        temporary = path.parent / f"{_TEMPORARY}{secrets.token_hex(8)}"
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            _write(fd, parts)
            try:
                os.rename(temporary, path)
            except FileNotFoundError:
                return list(map(bytes, _parts(fd)))
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        finally:
            os.close(fd)
        return None

    def _files(self, prefix: str) -> Iterator[tuple[str, str]]:
        """Yield what is in the directories where objects can lie, by name: where each is, and its own name.

        Others may write to an archive: whatever else they put there is not looked into, however deep it is.
        """
        if not may_begin(prefix):
            return
        try:
            names = sorted(os.listdir(self.root / prefix))
        except (FileNotFoundError, NotADirectoryError):
            return
        for name in names:
            below = f"{prefix}{name}/"
            if may_begin(below) and not os.path.islink(self.root / below[:-1]):
                yield from self._files(below)
            else:
                yield prefix, name

    def _make_directories(self, directory: Path) -> None:
        """Make the directories that are missing, for the owner alone, so that they last."""
        if directory.is_dir():
            return
        self._make_directories(directory.parent)
        with suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        _sync(directory.parent)

    def _error(self, error: OSError, doing: str) -> OverlaysyncError:
        what, why = f"Cannot {doing} the vault {self.root}", os.strerror(error.errno or 0)
        if error.errno in _NO_SPACE:
            hint = "free some space and repeat the command; what is stored already is not stored again"
            return NoSpaceError(what, why=why, hint=hint)
        if error.errno in _NOT_ALLOWED:
            return NotAllowedError(what, why=why, hint=f"ls -ld '{self.root}'")
        return OverlaysyncError(
            what, why=why, hint="the disk may be failing; to see what the kernel says: dmesg"
        )


def _write(fd: int, parts: Iterable[Part]) -> None:
    for part in parts:
        view = memoryview(part)
        while view:
            view = view[os.write(fd, view) :]
    os.fsync(fd)


def _parts(fd: int) -> Iterator[memoryview]:
    buffer, offset = memoryview(bytearray(min(_PART, os.fstat(fd).st_size))), 0
    while size := os.preadv(fd, [buffer], offset):
        yield buffer[:size]
        offset += size


def _read(fd: int, offset: int, length: int) -> bytes:
    data = os.pread(fd, length, offset)
    while len(data) < length and (more := os.pread(fd, length - len(data), offset + len(data))):
        data += more
    return data


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
