"""QEMU's image locks: who writes an image, and how to keep QEMU from writing it while it is read.

Open-file-description locks on single bytes of the image: byte 100 + i says "I use permission i", byte 200 + i
"I let nobody else have it" (0 consistent read, 1 write, 3 resize). QEMU takes read locks only and tests for
write locks. A lock is proof of use; no lock proves nothing (locking=off, other hosts, file systems without
locks). Source: QEMU block/file-posix.c (raw_apply_lock_bytes, raw_check_lock_bytes).
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterable, Iterator

from overlaysync.errors import InUseError

_FLOCK = struct.Struct("@hhqqi0q")
"""struct flock: type, whence, start, length, pid."""

_USES_READ, _USES_WRITE, _USES_RESIZE = 100, 101, 103
_DENIES_READ, _DENIES_WRITE, _DENIES_RESIZE = 200, 201, 203
_WRITERS = (_USES_WRITE, _USES_RESIZE)
_USERS = range(100, 104)
_HELD_BY_READER = (_USES_READ, _DENIES_WRITE, _DENIES_RESIZE)
_AGAINST_READER = (_USES_WRITE, _USES_RESIZE, _DENIES_READ)

_UNSUPPORTED = {errno.ENOLCK, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS}
_CONFLICT = {errno.EAGAIN, errno.EACCES}


def in_use_for_writing(fd: int) -> bool:
    """Whether a program such as QEMU has the image open for writing; False where that cannot be known."""
    return any(_taken(fd, byte) for byte in _WRITERS)


def in_use(fd: int) -> bool:
    """Whether a program has the image open at all; False where that cannot be known."""
    return any(_taken(fd, byte) for byte in _USERS)


def hold_read_lock(fd: int, *, path: str = "") -> bool:
    """Keep QEMU from opening the image for writing, until the last copy of ``fd`` is closed.

    QEMU can still open it for reading, and so can others that hold this lock.

    Returns:
        False where the file system knows no such locks.

    Raises:
        InUseError: somebody writes it already.
    """
    # First take, then test, as QEMU does: of two programs that start together, at least one notices.
    try:
        for byte in _HELD_BY_READER:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_RDLCK, byte))
    except OSError as error:
        release(fd)
        if error.errno in _UNSUPPORTED:
            return False
        if error.errno not in _CONFLICT:
            raise
        raise _in_use(fd, path) from error
    if any(_taken(fd, byte) for byte in _AGAINST_READER):
        release(fd)
        raise _in_use(fd, path)
    return True


def release(fd: int) -> None:
    """Give up what :func:`hold_read_lock` took."""
    for byte in _HELD_BY_READER:
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_UNLCK, byte))
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise


def writer_of(fd: int) -> str:
    """Who writes the image, as far as this user may know: ``qemu-system-x86 (pid 1234)``, or "".

    Looks at the open files of all processes; meant for error messages.
    """
    status = os.fstat(fd)
    for pid, number in _open_files(status.st_dev, status.st_ino):
        if pid != os.getpid() and _locks(pid, number, _WRITERS):
            return f"{_read(f'/proc/{pid}/comm').strip()} (pid {pid})"
    return ""


def user_of(fd: int) -> str:
    """Return which program has the image open, for people; "another program" where that cannot be known.

    A share of this user's is named as what it is: ``overlaysync share (pid 1234)``.
    """
    status = os.fstat(fd)
    for pid, number in _open_files(status.st_dev, status.st_ino):
        if pid != os.getpid() and _locks(pid, number, _USERS):
            return f"{_own_command(pid) or _read(f'/proc/{pid}/comm').strip()} (pid {pid})"
    return "another program"


def _own_command(pid: int) -> str:
    """``overlaysync share``, where a process is a command of this program; else ""."""
    words = _read(f"/proc/{pid}/cmdline").split("\0")
    for index, word in enumerate(words[:4]):
        if os.path.basename(word) == "overlaysync" or word.endswith("overlaysync/__main__.py"):
            command = next((other for other in words[index + 1 :] if other.isalpha()), "")
            return f"overlaysync {command}".strip()
    return ""


def _in_use(fd: int, path: str) -> InUseError:
    return InUseError(
        f"{path or 'The image'} is open for writing",
        why=f"by {writer_of(fd) or 'another program'}",
        hint="shut the VM down first",
    )


def _taken(fd: int, byte: int) -> bool | None:
    """Whether someone else holds a lock on ``byte``; None where locks are not known."""
    try:
        answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK, byte))
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return None
        raise
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def _flock(kind: int, byte: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0)


def _open_files(device: int, inode: int) -> Iterator[tuple[int, str]]:
    """(pid, descriptor) of every process that has the file open."""
    for pid in _list("/proc"):
        if not pid.isdigit():
            continue
        for number in _list(f"/proc/{pid}/fd"):
            try:
                status = os.stat(f"/proc/{pid}/fd/{number}")
            except OSError:
                continue
            if (status.st_dev, status.st_ino) == (device, inode):
                yield int(pid), number


def _locks(pid: int, number: str, wanted: Iterable[int]) -> bool:
    """Whether a descriptor holds a lock on one of the ``wanted`` bytes (``lock:`` lines of fdinfo)."""
    for line in _read(f"/proc/{pid}/fdinfo/{number}").splitlines():
        words = line.split()
        if words[:1] == ["lock:"] and "OFDLCK" in words and words[-1].isdigit():
            first, last = int(words[-2]), int(words[-1])
            if any(first <= byte <= last for byte in wanted):
                return True
    return False


def _list(directory: str) -> list[str]:
    """Names in a directory of /proc; none when it is gone or closed to us."""
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _read(path: str) -> str:
    """Text of a file of /proc; "" when it is gone or closed to us."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
