"""Fingerprints: what tells cheaply that a file is still the one that was hashed."""

from __future__ import annotations

import os
from typing import NamedTuple


class Fingerprint(NamedTuple):
    """A file's identity and state; times in nanoseconds."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @property
    def entry(self) -> tuple[int, int]:
        """What its name means: device and inode."""
        return self.device, self.inode

    @classmethod
    def of(cls, status: os.stat_result) -> Fingerprint:
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
