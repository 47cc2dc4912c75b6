"""Space: whether a file fits where it shall be, found out before it is written."""

from __future__ import annotations

import os
from pathlib import Path

from overlaysync.errors import NoSpaceError
from overlaysync.store.clone import can_share
from overlaysync.store.files import allocated, preallocate
from overlaysync.store.target import part_path
from overlaysync.units import MIB, format_size

RESERVE = 64 * MIB
"""Bytes to leave free for others on the file system."""


def check_room(target: Path, size: int, *, reserve: int = RESERVE) -> None:
    """Find out, before anything is asked for, whether a file of ``size`` bytes fits where it shall be.

    What its part file has already counts, and ``reserve`` bytes must stay free.

    Raises:
        NoSpaceError: it does not fit.
    """
    part = part_path(target)
    have = allocated(part.lstat()) if os.path.lexists(part) else 0
    directory = next(parent for parent in target.absolute().parents if parent.is_dir())
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        check_free_room(fd, target, missing=size - have, reserve=reserve)
    finally:
        os.close(fd)


def check_free_room(fd: int, target: Path, *, missing: int, reserve: int) -> None:
    """Find out now, not at 99 %, whether the file fits.

    What will be shared with other files needs no room, but how much that is nobody knows yet.

    Raises:
        NoSpaceError: ``missing`` more bytes do not fit.
    """
    room = os.fstatvfs(fd)
    free = room.f_bavail * room.f_frsize
    if missing > 0 and missing + reserve > free:
        raise NoSpaceError(
            f"Not enough space for {target}",
            why=f"{format_size(missing)} and a reserve of {format_size(reserve)} are needed; "
            f"{format_size(free)} is free",
            hint=f"free {format_size(missing + reserve - free)}, or choose another place",
        )


def reserve_blocks(fd: int, size: int) -> None:
    """Reserve the blocks of a file that is nearly all data, as QED and qcow2 are.

    In a sparse raw file it is not known here where the data will lie. Not where blocks can be shared: btrfs
    keeps what was reserved in one piece until nothing of it is used.
    Reserving costs nothing: measured on ext4 (4 GiB in 1 MiB writes), fallocate took 1 to 6 ms, then 5.6 to
    6.5 GB/s were written in rising or random order, against 5.4 to 5.8 GB/s without; 1.8 to 2.2 GB/s with
    fdatasync either way.

    Raises:
        OSError: ENOSPC or EDQUOT.
    """
    if not can_share(fd):
        preallocate(fd, size)
