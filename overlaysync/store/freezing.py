"""Frozen copies: what a file holds at this moment, in a file without a name.

Where the file system lets files share blocks a frozen copy takes neither time nor room; elsewhere what the
file has allocated is copied. It has no name, so nothing is left of it when its last descriptor is closed, or
when its process is killed. Source: ioctl_ficlonerange(2), open(2) "O_TMPFILE", lseek(2) "SEEK_DATA".
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path

from overlaysync.store.clone import clone_whole
from overlaysync.store.files import translate
from overlaysync.units import MIB

_STEP = 64 * MIB
"""Bytes copied between two looks at whether to go on."""
_BUFFER = 4 * MIB
"""Bytes copied at once where the kernel does not copy itself."""
_RANGE_UNKNOWN = {errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
_UNNAMED_UNKNOWN = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT}


Range = tuple[int, int]
"""Of a file: the first byte, and that after the last."""


def freeze_shared(source: int, directory: Path) -> int | None:
    """Return a descriptor of a frozen copy that shares the blocks of the open file ``source``.

    The caller closes it. None where the file system cannot do that: see :func:`freeze`.

    Raises:
        OverlaysyncError: ``directory`` cannot be written to.
    """
    fd = unnamed(directory)
    if clone_whole(source, fd):
        return fd
    os.close(fd)
    return None


def freeze(
    source: int,
    directory: Path,
    progress: Callable[[int], None] = lambda _: None,
    *,
    without: Sequence[Range] = (),
) -> int:
    """Return a descriptor of a frozen copy of the open file ``source``; the caller closes it.

    Args:
        source: nobody may write to it meanwhile.
        directory: where the copy takes room, if it does.
        progress: told of the bytes copied; may end the copying with an exception.
        without: what of it nobody will read, in order: not copied.

    Raises:
        NoSpaceError: there is no room for it.
        OverlaysyncError: it cannot be made or read.
    """
    fd = unnamed(directory)
    try:
        if not clone_whole(source, fd):
            _copy(source, fd, progress, without)
    except OSError as error:
        os.close(fd)
        raise translate(error, f"Cannot copy the image to {directory}", directory=str(directory)) from error
    except BaseException:
        os.close(fd)
        raise
    return fd


def unnamed(directory: Path) -> int:
    """Return a descriptor of a new file without a name.

    Raises:
        OverlaysyncError: ``directory`` cannot be written to.
    """
    try:
        return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in _UNNAMED_UNKNOWN:
            raise translate(error, f"Cannot write to {directory}", directory=str(directory)) from error
    # A file system that knows no files without a name: it loses its name at once.
    path = directory / f".frozen-{secrets.token_hex(8)}"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        os.unlink(path)
    except OSError as error:
        raise translate(error, f"Cannot write to {directory}", directory=str(directory)) from error
    return fd


def _copy(source: int, target: int, progress: Callable[[int], None], without: Sequence[Range]) -> None:
    """Copy what is allocated; holes stay holes."""
    size = os.fstat(source).st_size
    os.ftruncate(target, size)
    # What lies between the parts that are left out.
    for start, end in zip(
        [0, *(end for _, end in without)], [*(start for start, _ in without), size], strict=True
    ):
        if not _copy_part(source, target, start, min(end, size), progress):
            return


def _copy_part(source: int, target: int, offset: int, stop: int, progress: Callable[[int], None]) -> bool:
    """Copy what is allocated of a part; False when the file ends in it."""
    while offset < stop:
        try:
            start = os.lseek(source, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole follows
                return False
            raise
        if start >= stop:
            return True
        offset = end = min(stop, os.lseek(source, start, os.SEEK_HOLE))
        while start < end:
            copied = _copy_range(source, target, start, min(_STEP, end - start))
            if not copied:  # cut off meanwhile
                return False
            start += copied
            progress(copied)
    return True


def _copy_range(source: int, target: int, start: int, length: int) -> int:
    """Copy bytes to where they were; returns how many, 0 at the end of the file."""
    try:
        return os.copy_file_range(source, target, length, start, start)
    except OSError as error:  # the kernel copies between file systems of some kinds only
        if error.errno not in _RANGE_UNKNOWN:
            raise
    data = memoryview(os.pread(source, min(_BUFFER, length), start))
    done = 0
    while done < len(data):
        done += os.pwrite(target, data[done:], start + done)
    return done
