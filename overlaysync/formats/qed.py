"""QED images: header, two levels of tables, clusters. Own layer only.

Accepts every geometry QEMU opens and a table size of 1, which the specification allows and QEMU does not
open. Source: QEMU docs/interop/qed_spec.rst, "Specification"; bounds from block/qed.h and block/qed.c.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from overlaysync.errors import ImageError
from overlaysync.formats.claims import ClusterSet
from overlaysync.formats.files import pread_exact
from overlaysync.formats.image import MAGIC, Backing, Format, Geometry, check_virtual_size
from overlaysync.formats.tables import Entries, Offsets, Tables, TwoLevelImage, Units
from overlaysync.model.digest import Kind
from overlaysync.units import MIB, SECTOR, ceil_div

_HEADER = struct.Struct("<4s3I5Q2I")
_BACKING_FILE = 1
_NEED_CHECK = 2
_BACKING_IS_RAW = 4

_MIN_CLUSTER = 4096
_MAX_CLUSTER = 4 * MIB
_MAX_TABLE_BYTES = 16 * MIB
"""The largest cluster and tables that QEMU opens: it computes the largest disk in 64 bits."""

_MAX_NAME = 4095
"""QEMU's limit (PATH_MAX)."""


@dataclass(frozen=True, slots=True)
class Header:
    """The 64-byte header; sizes of tables and header in clusters, all else in bytes."""

    magic: bytes
    cluster_size: int
    table_size: int
    header_size: int
    features: int
    compat_features: int
    autoclear_features: int
    l1_offset: int
    image_size: int
    name_offset: int
    name_size: int


class QedImage(TwoLevelImage):
    """A QED image; own layer only."""

    header: Header

    @classmethod
    def open(cls, path: str, fd: int, *, tables: bool = True) -> Self:
        """Read the QED image open as ``fd``; without its ``tables``, no data can be read.

        Raises:
            ImageError: it is damaged or of a kind we do not read.
        """
        header = Header(*_HEADER.unpack(pread_exact(fd, _HEADER.size, 0, path=path)))
        size = header.cluster_size
        _check_header(header, os.fstat(fd).st_size // max(size, 1) * size, path)
        entries = header.table_size * size // 8
        places = Tables(
            dtype="<u8",
            words=1,
            entries=entries,
            table_bytes=header.table_size * size,
            l1_offset=header.l1_offset,
            l1_needed=ceil_div(header.image_size, entries * size),
        )
        backing = _read_backing(header, path, fd)
        image = cls(path, fd, Geometry(Format.QED, size, size), places, header.image_size, backing)
        # A cluster that the file holds only in part is no cluster (unlike in qcow2).
        image.file_size = image.file_size // size * size
        image.header = header
        if not tables:
            return image
        if header.features & _NEED_CHECK:
            image.notes = ("it was not closed cleanly; 'qemu-img check -r all' repairs it",)
        image.load()
        return image

    def metadata(self) -> Iterator[tuple[str, Offsets]]:
        """Header and first table."""
        yield "the header", np.arange(max(1, self.header.header_size))
        first = self.header.l1_offset // self.header.cluster_size
        yield "the L1 table", np.arange(first, first + self.header.table_size)

    def table_offsets(self, entries: NDArray[np.uint64], places: Offsets) -> Offsets:
        """See the base class; an entry is an offset."""
        end = max(0, self.file_size - self.tables.table_bytes + 1)
        self.refuse_if(self._misplaced(entries, end), "an L1 entry is not the offset of a table", places)
        return entries.astype(np.int64)

    def check_entries(self, entries: Entries, places: Offsets) -> None:
        """See the base class; 0 and 1 are markers, all else offsets."""
        words = entries[:, 0]
        bad = (words > 1) & self._misplaced(words, self.file_size)
        self.refuse_if(bad, "an L2 entry is not the offset of a cluster", places)

    def claim_entries(self, entries: Entries, owned: ClusterSet) -> int | None:
        """See the base class."""
        words = entries[:, 0]
        return owned.claim(words[words > 1].astype(np.int64) // self.header.cluster_size)

    def decode(self, entries: Entries) -> Units:
        """See the base class."""
        words = entries[:, 0]
        data = words > 1
        kinds = np.where(data, Kind.DATA, words).astype(np.uint8)
        return Units(kinds, np.where(data, words, 0).astype(np.int64), np.zeros(len(words), dtype=np.int64))

    def _misplaced(self, offsets: NDArray[np.uint64], end: int) -> NDArray[np.bool_]:
        first = self.header.header_size * self.header.cluster_size
        mask = np.uint64(self.header.cluster_size - 1)
        bad: NDArray[np.bool_] = (offsets & mask != 0) | (offsets < first) | (offsets >= end)
        return bad


def _check_header(header: Header, file_size: int, path: str) -> None:
    """Refuse what the specification or our limits forbid; ``file_size`` is rounded down to clusters."""

    def refuse(reason: str) -> NoReturn:
        raise ImageError(reason, path=path)

    size, table_bytes = header.cluster_size, header.table_size * header.cluster_size
    if header.magic != MAGIC[Format.QED]:
        refuse("it has no QED header")
    if not _power_of_two(size) or not _MIN_CLUSTER <= size <= _MAX_CLUSTER:
        refuse(f"its cluster size, {size}, is not a power of two from 4 KiB to 4 MiB")
    if not _power_of_two(header.table_size) or header.table_size > 16 or table_bytes > _MAX_TABLE_BYTES:
        refuse(f"its table size, {header.table_size} clusters, is not 1, 2, 4, 8 or 16, or over 16 MiB")
    if header.features & ~(_BACKING_FILE | _NEED_CHECK | _BACKING_IS_RAW):
        refuse(f"it has features that overlaysync does not know ({header.features:#x})")
    if header.header_size * size > min(file_size, 1 << 32):
        refuse("its header is larger than the file or 4 GiB")
    if header.l1_offset % size or header.l1_offset < max(1, header.header_size) * size:
        refuse("its L1 table is not where a table may be")
    if header.l1_offset + table_bytes > file_size:
        refuse("its L1 table lies past the end of the file")
    if header.image_size % SECTOR:
        refuse(f"its virtual size, {header.image_size} bytes, is not a multiple of 512")
    if header.image_size > (table_bytes // 8) ** 2 * size:
        refuse(f"its virtual size, {header.image_size} bytes, is more than its tables can map")
    check_virtual_size(header.image_size, path)


def _power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0


def _read_backing(header: Header, path: str, fd: int) -> Backing | None:
    if not header.features & _BACKING_FILE or not header.name_size:
        return None
    if (
        header.name_size > _MAX_NAME
        or header.name_offset + header.name_size > header.header_size * header.cluster_size
    ):
        raise ImageError("the name of its backing file does not lie in its header", path=path)
    name = pread_exact(fd, header.name_size, header.name_offset, path=path)
    return Backing(name, Format.RAW.value if header.features & _BACKING_IS_RAW else None)
