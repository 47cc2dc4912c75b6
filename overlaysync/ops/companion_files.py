"""Companions put in place: the small files of a VM beside its disks, when it is fetched or restored."""

from __future__ import annotations

import os
import stat

from overlaysync.errors import VerificationError, WouldDestroyError
from overlaysync.formats.alone import OPENED, not_alone
from overlaysync.formats.folders import descended
from overlaysync.store.files import put_file, translate, write_all_at
from overlaysync.vault.limits import is_inner_path

MAKE_ROOM = "choose another directory with --to DIR, or move the file away"
"""What to do about a file that is in the way."""


def put_companion(directory: str, file: str, data: bytes, role: str, *, replaces: bool = False) -> bool:
    """Write a companion below ``directory``; False if it is there already, and the same.

    No link is followed below the directory.

    Args:
        directory: exists.
        file: its name there, see :func:`~overlaysync.vault.limits.is_inner_path`.
        data: what it holds.
        role: what it is.
        replaces: whether it takes the place of another file of that name.

    Raises:
        VerificationError: it would lead QEMU to other files.
        WouldDestroyError: another file has the name, and is not to be replaced.
        OverlaysyncError: it cannot be written.
    """
    assert is_inner_path(file), file
    *folders, name = file.split("/")
    path = os.path.join(directory, file)
    _check_alone(data, role, path)
    try:
        start = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        with descended(start, folders, make=True) as parent:
            present = _present(parent, name, len(data))
            if present is not None:
                if present == data:
                    return False
                if replaces:
                    put_file(parent, name, data, replaces=True)
                    return True
                raise WouldDestroyError(
                    f"{path} exists, and has other content",
                    hint=MAKE_ROOM,
                )
            put_file(parent, name, data, replaces=False)
    except FileExistsError:
        raise WouldDestroyError(f"{path} exists", hint=MAKE_ROOM) from None
    except OSError as error:
        raise translate(error, f"Cannot write {path}", directory=directory) from error
    return True


def _check_alone(data: bytes, role: str, path: str) -> None:
    """Refuse a companion of another machine that would lead QEMU to other files.

    Raises:
        VerificationError: it is one.
    """
    if role not in OPENED:
        return
    fd = os.memfd_create("companion", os.MFD_CLOEXEC)
    try:
        write_all_at(fd, [memoryview(data)], 0)
        reason = not_alone(fd, path)
    finally:
        os.close(fd)
    if reason:
        raise VerificationError(
            f"{path} was not written",
            why=f"it is {reason}, and QEMU could open other files of this machine because of it",
            hint="take another state or version, and ask the member who made this one",
        )


def _present(parent: int, name: str, size: int) -> bytes | None:
    """Return the beginning of what has the name, one byte more than ``size`` at most; None for nothing."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
    except FileNotFoundError:
        return None
    with open(fd, "rb") as file:
        return file.read(size + 1) if stat.S_ISREG(os.fstat(fd).st_mode) else b"\0" * (size + 1)
