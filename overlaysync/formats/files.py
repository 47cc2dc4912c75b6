"""Regular files, opened and read with care: no devices, no FIFOs, no short reads, no late symlinks.

Leaves out everything about formats. Rules: the user's path may be a symlink and is resolved once; a name that
was found in a directory may not. What is then opened must be a regular file, and is never opened again by
name.
"""

from __future__ import annotations

import errno
import os
import shlex
import stat
from itertools import islice

import numpy as np

from overlaysync.errors import ImageError, NotAllowedError, NotFoundError
from overlaysync.model.names import meant

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_ON_THE_WAY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_LOOKED_AT = 10_000
"""Names of a directory, at most, that are compared with one that is not there."""

_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISBLK, "a block device"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISLNK, "a symlink"),
)


def open_regular(path: str) -> int:
    """Open the regular file at ``path`` for reading and return its descriptor; see :func:`open_named`."""
    return open_named(path)[0]


def open_named(path: str) -> tuple[int, str]:
    """Open the regular file at ``path`` for reading; return its descriptor and its real path.

    Raises:
        ImageError: it is something else than a regular file.
        NotFoundError: there is nothing.
        NotAllowedError: permissions forbid it.
    """
    try:
        real = os.path.realpath(path)
        return _open(real, None, path), real
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(f"There is no file {path}", why=_near(path), hint=_to_look(path)) from error
    except PermissionError as error:
        raise NotAllowedError(f"Cannot read {path}", why="permission denied", hint=may_read(path)) from error
    except (OSError, ValueError) as error:
        reason = error.strerror or "" if isinstance(error, OSError) else str(error)
        raise ImageError(f"it cannot be opened ({reason})", path=path) from error


def open_in(folder: int | None, name: str, path: str) -> int:
    """Open the regular file ``name`` for reading, as it was found: a link there now is not followed.

    Args:
        folder: a descriptor of its directory; None where ``name`` is a real path.
        name: of the file.
        path: of the file, for errors.

    Raises:
        ImageError, NotFoundError, NotAllowedError: as :func:`open_regular`.
    """
    try:
        return _open(name, folder, path)
    except (FileNotFoundError, NotADirectoryError) as error:
        if folder is not None:  # in a directory, it was seen a moment ago
            raise NotFoundError(f"There is no file {path} any more", hint=_to_look(path)) from error
        raise NotFoundError(f"There is no file {path}", why=_near(path), hint=_to_look(path)) from error
    except PermissionError as error:
        raise NotAllowedError(f"Cannot read {path}", why="permission denied", hint=may_read(path)) from error
    except OSError as error:
        raise ImageError(f"it cannot be opened ({error.strerror})", path=path) from error


def open_again(fd: int) -> int:
    """Return a second descriptor of an open file, to read it with: its locks and leases are its own."""
    return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)


def leads_to(path: str, fd: int) -> bool:
    """Return whether ``path`` still is the name of the open file, and no link."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(fd))
    except OSError:
        return False


def _open(name: str, folder: int | None, path: str) -> int:
    if folder is None:
        directory, name = os.path.split(name)
        name = name or "."
        above = _enter(directory)
        try:
            return _open(name, above, path)
        finally:
            os.close(above)
    # Looked at before it is opened: opening alone can move a tape or wake a device.
    _require_regular(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode, path)
    fd = os.open(name, _FLAGS, dir_fd=folder)
    try:
        _require_regular(os.fstat(fd).st_mode, path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _enter(directory: str) -> int:
    """Open a directory by its real path, on which nothing may be a link any more: it has been resolved.

    Raises:
        OSError: there is none, or a link; whoever may write one of the directories may have put it there.
    """
    fd = os.open("/", _ON_THE_WAY)
    for name in filter(None, directory.split("/")):
        try:
            inner = os.open(name, _ON_THE_WAY, dir_fd=fd)
        finally:
            os.close(fd)
        fd = inner
    return fd


def _near(path: str) -> str:
    """Return the question whether a file beside was meant, whose name looks like this one; "" for none."""
    folder, name = os.path.split(path)
    try:
        with os.scandir(folder or ".") as entries:
            return meant(
                name, [entry.name for entry in islice(entries, _LOOKED_AT) if entry.name.isprintable()]
            )
    except (OSError, ValueError):
        return ""


def _to_look(path: str) -> str:
    """Return what to type to see what there is instead of a file."""
    directory = os.path.dirname(path) or "."
    while not os.path.isdir(directory) and directory not in ("/", ""):
        directory = os.path.dirname(directory)
    return f"see what is there: ls {shlex.quote(directory or '.')}; known images: overlaysync tree"


def may_read(path: str) -> str:
    """Return what to do about a file or directory that may not be read."""
    return f"chmod u+rX '{path}', or ask its owner to let you read it"


def _require_regular(mode: int, path: str) -> None:
    if stat.S_ISREG(mode):
        return
    kind = next((name for test, name in _KINDS if test(mode)), "not a file")
    raise ImageError(f"it is {kind}, not a regular file", path=path, hint="name an image file")


def pread_exact(fd: int, length: int, offset: int, *, path: str) -> bytes:
    """Read exactly ``length`` bytes at ``offset``.

    The caller bounds ``length``; it is allocated.

    Raises:
        ImageError: the file ends before, or its disk cannot read it.
    """
    parts = []
    missing = length
    while missing:
        part = pread_some(fd, missing, offset + length - missing, path=path)
        if not part:
            raise ImageError("the file ends too early", path=path, offset=offset + length - missing)
        parts.append(part)
        missing -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def pread_some(fd: int, length: int, offset: int, *, path: str) -> bytes:
    """Read at most ``length`` bytes at ``offset``, none at the end of the file.

    Raises:
        ImageError: the disk cannot read them.
    """
    try:
        return os.pread(fd, length, offset)
    except OSError as error:
        raise _failing(f"the disk cannot read the file at byte {offset} ({error.strerror})", path) from error


def read_padded(fd: int, offset: int, buffer: memoryview, *, path: str, guest: int) -> None:
    """Fill ``buffer`` from ``offset``; what lies past the end of the file is zero.

    Args:
        fd: the open file.
        offset: where in the file.
        buffer: what is filled.
        path, guest: the file and the guest offset that ``offset`` holds, for an error.

    Raises:
        ImageError: the disk cannot read it; it names the guest offset.
    """
    filled = 0
    while filled < len(buffer):
        try:
            count = os.preadv(fd, [buffer[filled:]], offset + filled)
        except OSError as error:
            raise unreadable(error, path, guest + filled) from error
        if count == len(buffer):
            return
        if not count:
            break
        filled += count
    fill_zeros(buffer[filled:])


def unreadable(error: OSError, path: str, guest: int) -> ImageError:
    """Return the error for bytes of a guest's disk that cannot be read."""
    return _failing(f"the disk cannot read the data at guest offset {guest:#x} ({error.strerror})", path)


def _failing(reason: str, path: str) -> ImageError:
    heal = f"overlaysync verify --repair {shlex.quote(path)}"
    hint = f"the disk may be failing: see dmesg; to heal the image: {heal}"
    return ImageError(reason, path=path, hint=hint)


def fill_zeros(buffer: memoryview) -> None:
    """Set every byte of ``buffer`` to zero, without a second buffer of zeros."""
    np.frombuffer(buffer, dtype=np.uint8)[:] = 0


def next_data(fd: int, offset: int) -> int | None:
    """Where data begin at or after ``offset``; None when only a hole is left.

    Holes are a hint that a file system may withhold: every odd answer means data.
    """
    try:
        return max(offset, os.lseek(fd, offset, os.SEEK_DATA))
    except OSError as error:
        # ENXIO also means "past the end of the file", where there is nothing to read either.
        return None if error.errno == errno.ENXIO else offset


def next_hole(fd: int, offset: int, end: int) -> int:
    """Where the data at ``offset`` end, at most ``end``."""
    try:
        hole = os.lseek(fd, offset, os.SEEK_HOLE)
    except OSError:
        return end
    return hole if offset < hole < end else end
