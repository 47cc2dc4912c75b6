"""What the standard library lacks for files that must last: rename without clobber, preallocation, errors.

Linux only. Every ``OSError`` of this package becomes one of our errors in :func:`translate`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import shlex
from pathlib import Path

from overlaysync.errors import (
    NoSpaceError,
    NotAllowedError,
    NotFoundError,
    OverlaysyncError,
    UsageError,
    WouldDestroyError,
)

_MAX_BUFFERS = 1024
"""Buffers in one pwritev (IOV_MAX)."""

_RENAME_NOREPLACE = 1
_FALLOC_FL_KEEP_SIZE = 1
_FALLOC_FL_PUNCH_HOLE = 0x02
_BLOCK = 512
"""Unit of ``st_blocks``."""

_NO_SPACE = {
    errno.ENOSPC: "free some space and start again; what is already there is reused",
    errno.EDQUOT: "your quota is used up: free some space and start again; what is there is reused",
    errno.EFBIG: "a file this large is not possible there (FAT: 4 GiB, 'ulimit -f'): choose another place",
}
_REASONS = {
    errno.EACCES: "you may not write to the directory {}",
    errno.EPERM: "you may not write to the directory {}",
    errno.EROFS: "the file system of the directory {} is read-only",
}
_NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP}
_NO_RENAME_FLAGS = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}

_libc = ctypes.CDLL(None, use_errno=True)


def translate(error: OSError, what: str, *, directory: str = "", hint: str = "") -> OverlaysyncError:
    """``error`` as the error a user sees.

    Args:
        error: what the system said.
        what: what could not be done.
        directory: where a file was to be made, if one was.
        hint: what to do where the file or directory itself is the trouble, instead of what is said generally.
    """
    code = error.errno
    why = os.strerror(code) if code else str(error)
    if directory and code in _REASONS:
        why = _REASONS[code].format(directory)
    where = shlex.quote(directory or _name_of(error) or ".")
    elsewhere = (
        "choose another directory, with --to DIR where there is one" if directory else "name another place"
    )
    if code in _NO_SPACE:
        return NoSpaceError(what, why=why, hint=_NO_SPACE[code])
    if code == errno.ENAMETOOLONG:
        return UsageError(
            what, why=why, hint=hint or "choose a shorter name, with --as NAME where there is one"
        )
    if code in _NOT_ALLOWED:
        return NotAllowedError(what, why=why, hint=hint or f"{elsewhere}, or change this one: ls -ld {where}")
    if code in (errno.ENOENT, errno.ENOTDIR):
        return NotFoundError(what, why=why, hint=hint or f"see what is there: ls -ld {where}")
    if code in (errno.EEXIST, errno.EISDIR, errno.ENOTEMPTY):
        return WouldDestroyError(what, why=why, hint=hint or f"choose another name; see: ls -ld {where}")
    failing = "the disk may be failing: look at 'dmesg'"
    return OverlaysyncError(
        what, why=why, hint=hint or (failing if code == errno.EIO else "overlaysync doctor")
    )


def _name_of(error: OSError) -> str:
    """Return the name that the system call was about, "" when that is not known."""
    return os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""


def make_directory(path: str) -> None:
    """Make the directory that a new image goes to, if it is missing.

    Raises:
        UsageError: a file is in the way, or the name is too long.
        NotAllowedError: it may not be made.
    """
    try:
        os.makedirs(path or ".", exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UsageError(
            f"Cannot make the directory {path}",
            why="there is a file of that name",
            hint="name a directory, not the file in it",
        ) from None
    except OSError as error:
        above = os.path.abspath(path)
        while not os.path.isdir(above):
            above = os.path.dirname(above)
        raise translate(error, f"Cannot make the directory {path}", directory=above) from error


def may_write(directory: str) -> bool:
    """Whether files can be made in ``directory``, or the directory itself can be made."""
    path = os.path.abspath(directory)
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    return os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK)


def sync_directory(directory: int | str | os.PathLike[str]) -> None:
    """Make names that were added to or removed from ``directory`` (a path or descriptor) last."""
    if isinstance(directory, int):
        os.fsync(directory)
        return
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def umask() -> int:
    """Return what the user lets nobody else do with new files.

    Read: to ask by umask(2) is to change it for all.
    """
    with open("/proc/self/status", "rb") as status:
        found = re.search(rb"^Umask:\s*([0-7]+)$", status.read(), re.MULTILINE)
    return int(found[1], 8) if found else 0o022


def write_all(fd: int, data: bytes) -> None:
    """Write all of ``data`` at the descriptor's position."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def put_file(directory: int, name: str, data: bytes, *, replaces: bool) -> None:
    """Make a small file that is there as a whole, and lasts, or not at all.

    There is one temporary name for each name, so that what a killed command left is written over, and nothing
    piles up. Of several that write at once each waits for the one before it.

    Args:
        directory: a descriptor of the directory.
        name: in it.
        data: what it holds.
        replaces: whether a file of that name gives way.

    Raises:
        FileExistsError: it does not, and is there.
        OSError: it cannot be written.
    """
    temporary = f".{name}.new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    while True:
        fd = os.open(temporary, flags, 0o600, dir_fd=directory)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if not _is_at(fd, temporary, directory):  # who was before us has given it its name
                continue
            try:
                os.fchmod(fd, 0o600)
                os.ftruncate(fd, 0)
                write_all(fd, data)
                os.fsync(fd)
                if replaces:
                    os.replace(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
                else:
                    rename_new(directory, temporary, name)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=directory)
                raise
            sync_directory(directory)
            return
        finally:
            os.close(fd)


def replace_file(path: Path, data: bytes) -> None:
    """Write a small file anew; it is the old one or the new one, whatever happens meanwhile.

    Raises:
        OSError: it cannot be written.
    """
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        put_file(directory, path.name, data, replaces=True)
    finally:
        os.close(directory)


def _is_at(fd: int, name: str, directory: int) -> bool:
    """Whether an open file still has its name, and no other."""
    try:
        here = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(fd), here)


def write_all_at(fd: int, views: list[memoryview], offset: int) -> None:
    """Write ``views`` one after the other at ``offset``, however often the kernel takes less."""
    for first in range(0, len(views), _MAX_BUFFERS):
        left = views[first : first + _MAX_BUFFERS]
        while left:
            written = os.pwritev(fd, left, offset)
            offset += written
            while left and written >= len(left[0]):
                written -= len(left.pop(0))
            if left:
                left[0] = left[0][written:]


def preallocate(fd: int, size: int) -> None:
    """Reserve the blocks of the first ``size`` bytes where the file system can; the file's size stays.

    Raises:
        OSError: ENOSPC or EDQUOT. Any other failure only means that nothing was reserved.
    """
    arguments = (
        ctypes.c_int(fd),
        ctypes.c_int(_FALLOC_FL_KEEP_SIZE),
        ctypes.c_int64(0),
        ctypes.c_int64(size),
    )
    if size and _libc.fallocate64(*arguments) != 0:
        code = ctypes.get_errno()
        if code in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(code, os.strerror(code))


def allocated(status: os.stat_result) -> int:
    """Return the bytes that a file takes on its disk: those of its blocks, written or only reserved."""
    return status.st_blocks * _BLOCK


def give_back(fd: int) -> None:
    """Give back the blocks that were reserved behind the end of a file, where the file system can."""
    status = os.fstat(fd)
    mode, length = _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE, allocated(status)
    if length:
        _libc.fallocate64(
            ctypes.c_int(fd), ctypes.c_int(mode), ctypes.c_int64(status.st_size), ctypes.c_int64(length)
        )
        # ext4 punches no hole behind the end, but frees what is there when the size is set, even to the same.
        os.ftruncate(fd, status.st_size)


def rename_new(directory: int, source: str, target: str) -> None:
    """Rename within ``directory``; never replaces ``target``.

    Raises:
        OSError: EEXIST when ``target`` exists.
    """
    code = _renameat2(directory, os.fsencode(source), os.fsencode(target))
    if code in _NO_RENAME_FLAGS:  # NFS and some FUSE file systems
        os.link(source, target, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
        with contextlib.suppress(FileNotFoundError):  # another process saw two names and dropped this one
            os.unlink(source, dir_fd=directory)
    elif code:
        raise OSError(code, os.strerror(code), target)


def _renameat2(directory: int, source: bytes, target: bytes) -> int:
    """Return the errno of renameat2 with RENAME_NOREPLACE, 0 when it went well."""
    try:
        call = _libc.renameat2
    except AttributeError:  # a C library without it (glibc < 2.28)
        return errno.ENOSYS
    at = ctypes.c_int(directory)
    done = call(at, ctypes.c_char_p(source), at, ctypes.c_char_p(target), ctypes.c_uint(_RENAME_NOREPLACE))
    return 0 if done == 0 else ctypes.get_errno()
