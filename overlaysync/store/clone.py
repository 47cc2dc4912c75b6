"""Clones: ranges of another file that a new file shares instead of holding a copy of them (reflinks).

A clone is a snapshot that takes neither room nor time: what is written to either file afterwards is not seen
in the other. Which file systems can (btrfs, XFS, bcachefs, some network ones) is found out by asking; between
which files and ranges is theirs to say. Left out: whether the bytes are right, which only reading them tells.
Source: ioctl_ficlonerange(2), linux/fs.h.
"""

from __future__ import annotations

import fcntl
import os
import struct

_FICLONERANGE = 0x4020940D
"""As on most machines; where the number is another, the answer is ENOTTY, and everything is copied."""

_RANGE = struct.Struct("=qQQQ")
"""struct file_clone_range: source descriptor, its offset, length, offset in the new file; bytes."""


def can_share(fd: int) -> bool:
    """Whether files can share blocks where the open file ``fd`` lies; nothing is done.

    Asked with the empty range at the file's end: nobody else may be making the file longer.
    """
    end = os.fstat(fd).st_size
    try:
        fcntl.ioctl(fd, _FICLONERANGE, _RANGE.pack(fd, end, 0, end))
    except OSError:
        return False
    return True


def clone_whole(source: int, target: int) -> bool:
    """Let the empty open file ``target`` share all of the open file ``source``; whether that was done."""
    try:
        fcntl.ioctl(target, _FICLONERANGE, _RANGE.pack(source, 0, 0, 0))
    except OSError:
        return False
    return True


class Cloner:
    """Lets the open file ``fd`` share ranges of others. Several threads may use it.

    Attributes:
        works: whether a range has been shared.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._block = os.fstatvfs(fd).f_frsize
        self._able: dict[int, bool] = {}
        self.works = False

    def may(self, source: int) -> bool:
        """Whether a clone from the open file ``source`` has not been refused yet."""
        return self._able.get(os.fstat(source).st_dev, True)

    def clone(self, source: int, source_offset: int, length: int, offset: int) -> bool:
        """Share ``length`` bytes of the open file ``source``; whether that was done.

        After a refusal the range holds anything. If the first from a device is refused, no other is tried.
        """
        if not self.may(source) or not length or (source_offset | length | offset) % self._block:
            return False
        device = os.fstat(source).st_dev
        try:
            fcntl.ioctl(self._fd, _FICLONERANGE, _RANGE.pack(source, source_offset, length, offset))
        except OSError:
            # Not what it says: whatever is wrong with the file shows itself when it is written.
            self._able.setdefault(device, False)
            return False
        self._able[device] = self.works = True
        return True
