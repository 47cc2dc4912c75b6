"""The journal beside a file that is being written: which of its slots are on disk.

A hint, not a proof: whoever resumes hashes what it claims. Layout, little-endian:

    header   magic "OSJ1", length of the path (u16), key (32 bytes), inode of the part file (u64), path of the
             target (for display), CRC-32 of all that
    record   first slot (u64), slot count (u64), CRC-32 of the 16 bytes, seeded with the header's

Reading stops at the first record that does not check; a torn tail is cut off before more is appended.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from zlib import crc32

from overlaysync.store.files import sync_directory, write_all

MAX_JOURNAL = 8 << 20
"""Our limit in bytes, 400,000 records. A full journal is rewritten with its runs joined."""

MAX_PATH = 4096
KEY_SIZE = 32

_PREFIX = struct.Struct("<4sH32sQ")
_MAGIC = b"OSJ1"
_CRC = struct.Struct("<I")
_RUN = struct.Struct("<QQ")
_RECORD_SIZE = _RUN.size + _CRC.size
_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_APPEND | os.O_NONBLOCK

Run: TypeAlias = tuple[int, int]
"""(first slot, slot count)."""


@dataclass(frozen=True, slots=True)
class JournalHeader:
    """Which file a journal speaks of.

    Attributes:
        key: what is being written (manifest and layout), 32 bytes.
        inode: of the part file. Its device is left out: device numbers change between boots.
        target: path of the finished file.
    """

    key: bytes
    inode: int
    target: bytes

    def encode(self) -> bytes:
        head = _PREFIX.pack(_MAGIC, len(self.target), self.key, self.inode) + self.target
        return head + _CRC.pack(crc32(head))

    @classmethod
    def decode(cls, data: bytes) -> JournalHeader | None:
        """Return the header at the start of ``data``; None when there is none that checks."""
        if len(data) < _PREFIX.size:
            return None
        magic, length, key, inode = _PREFIX.unpack_from(data)
        end = _PREFIX.size + length
        if magic != _MAGIC or length > MAX_PATH or len(data) < end + _CRC.size:
            return None
        if _CRC.unpack_from(data, end)[0] != crc32(data[:end]):
            return None
        return cls(key, inode, data[_PREFIX.size : end])


class Journal:
    """An open journal. One process has it open: the one that holds the part file's lock."""

    def __init__(self, path: Path, fd: int, header: JournalHeader, size: int) -> None:
        self._path = path
        self._fd = fd
        self._header = header.encode()
        self._size = size
        self._given_up = False

    @classmethod
    def create(cls, path: Path, header: JournalHeader) -> Journal:
        """Return a journal without claims, on disk with its name, instead of an older one."""
        path.unlink(missing_ok=True)
        fd = os.open(path, _OPEN | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            write_all(fd, header.encode())
            os.fsync(fd)
            sync_directory(path.parent)
        except BaseException:
            os.close(fd)
            raise
        return cls(path, fd, header, len(header.encode()))

    @classmethod
    def resume(cls, path: Path, *, key: bytes, inode: int) -> tuple[Journal, list[Run]] | None:
        """Return the journal at ``path`` and the slots it claims; None when it is not about that file."""
        try:
            fd = os.open(path, _OPEN)
        except FileNotFoundError:
            return None
        try:
            data = _read(fd, MAX_JOURNAL)
            header = JournalHeader.decode(data)
            if header is None or (header.key, header.inode) != (key, inode):
                os.close(fd)
                return None
            runs = list(_records(data, header.encode()))
            end = len(header.encode()) + len(runs) * _RECORD_SIZE
            os.ftruncate(fd, end)
        except BaseException:
            os.close(fd)
            raise
        return cls(path, fd, header, end), merge_runs(runs)

    def append(self, runs: Iterable[Run]) -> None:
        """Add claims, and return when they are on disk."""
        if self._given_up:
            return
        data = _encode(runs, self._header)
        if self._size + len(data) > MAX_JOURNAL:
            self._rewrite(runs)
            return
        write_all(self._fd, data)
        os.fsync(self._fd)
        self._size += len(data)

    def remove(self) -> None:
        """Delete the journal and close it."""
        self._path.with_suffix(".new").unlink(missing_ok=True)
        self._path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Leave the journal for a later run."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _rewrite(self, runs: Iterable[Run]) -> None:
        """Replace the journal by one with the old and new claims joined.

        When that hardly helps (slots came in no order at all) later claims are dropped: after a crash they
        would be fetched again, nothing worse.
        """
        old = _records(_read(self._fd, MAX_JOURNAL), self._header)
        data = self._header + _encode(merge_runs([*old, *runs]), self._header)
        if len(data) > MAX_JOURNAL // 2:
            self._given_up = True
            return
        new = self._path.with_suffix(".new")
        new.unlink(missing_ok=True)
        fd = os.open(new, _OPEN | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            write_all(fd, data)
            os.fsync(fd)
            os.rename(new, self._path)
            sync_directory(self._path.parent)
        except BaseException:
            os.close(fd)
            raise
        os.close(self._fd)
        self._fd, self._size = fd, len(data)


def merge_runs(runs: Iterable[Run]) -> list[Run]:
    """Return the same slots as rising runs that neither touch nor overlap."""
    merged: list[Run] = []
    for first, count in sorted(runs):
        if count and merged and first <= sum(merged[-1]):
            start, length = merged[-1]
            merged[-1] = (start, max(length, first + count - start))
        elif count:
            merged.append((first, count))
    return merged


def _encode(runs: Iterable[Run], header: bytes) -> bytes:
    seed = _seed(header)
    bodies = (_RUN.pack(*run) for run in runs)
    return b"".join(body + _CRC.pack(crc32(body, seed)) for body in bodies)


def _records(data: bytes, header: bytes) -> Iterator[Run]:
    """Yield the runs after the header, up to the first record that is cut short or does not check."""
    seed = _seed(header)
    for offset in range(len(header), len(data) - _RECORD_SIZE + 1, _RECORD_SIZE):
        if _CRC.unpack_from(data, offset + _RUN.size)[0] != crc32(data[offset : offset + _RUN.size], seed):
            return
        yield _RUN.unpack_from(data, offset)


def _seed(header: bytes) -> int:
    """Return the header's CRC.

    Not the CRC of the whole header: over data and their own CRC that is a constant.
    """
    return int(_CRC.unpack_from(header, len(header) - _CRC.size)[0])


def _read(fd: int, limit: int) -> bytes:
    """At most ``limit`` bytes from the start; nothing when it is not a regular file."""
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        return b""
    parts = []
    offset = 0
    while offset < limit and (part := os.pread(fd, limit - offset, offset)):
        parts.append(part)
        offset += len(part)
    return b"".join(parts)
