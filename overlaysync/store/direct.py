"""Direct access: large, aligned pieces go to and come from the disk past the page cache.

A new file's bytes cost a copy into the page cache, its pages and their write-back, which together bound a
fetch; and they push out of the cache what the machine's VMs need. Whatever is small, unaligned or refused by
the file system (tmpfs, some network ones) is left to the usual way: the kernel keeps both coherent.
Source: open(2), O_DIRECT; docs/adr/0008-direct-writes.md has the measurement.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable
from contextlib import suppress

import numpy as np

from overlaysync.units import MIB

ALIGNMENT = 4096
"""Bytes; offset, length and address are multiples. A file system that wants more refuses the first write."""

LEAST = MIB
"""Smaller pieces are left to the page cache, which joins them."""


def aligned_buffer(size: int) -> memoryview:
    """Return a writable buffer of ``size`` bytes that begins on a page."""
    return memoryview(mmap.mmap(-1, size))


class DirectFile:
    """A second way into the open file ``fd``, where its file system allows it."""

    def __init__(self, fd: int) -> None:
        self._fd = -1
        self._refused = False
        with suppress(OSError):
            self._fd = os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)

    def write(self, piece: memoryview, offset: int) -> int:
        """Write the first bytes of ``piece`` at ``offset`` in the file; returns how many, perhaps none.

        Raises:
            OSError: the disk is full, or failed.
        """
        return self._move(os.pwrite, piece, offset)

    def read(self, piece: memoryview, offset: int) -> int:
        """Fill the first bytes of ``piece`` from ``offset`` in the file; returns how many, perhaps none.

        Raises:
            OSError: the disk failed.
        """
        return self._move(_read, piece, offset)

    def close(self) -> None:
        """Close the second descriptor; no thread may be writing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _move(self, call: Callable[[int, memoryview, int], int], piece: memoryview, offset: int) -> int:
        if self._fd < 0 or self._refused or len(piece) < LEAST or not _is_aligned(piece, offset):
            return 0
        try:
            return call(self._fd, piece, offset)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._refused = True  # it wants another alignment
            return 0


def _read(fd: int, piece: memoryview, offset: int) -> int:
    return os.preadv(fd, [piece], offset)


def _is_aligned(piece: memoryview, offset: int) -> bool:
    address = np.frombuffer(piece, dtype=np.uint8).ctypes.data
    return not (address | offset | len(piece)) % ALIGNMENT
