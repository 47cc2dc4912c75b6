"""The layout of a new qcow2 image (version 3): header cluster, refcounts, L1, L2 tables, data.

Every cluster of the file is used exactly once, so all refcounts are 1 and all offsets carry COPIED.
Compressed images are in :mod:`overlaysync.formats.qcow2_packed`. Left out: all other
optional features (extended L2 entries, bitmaps, snapshots, encryption).
Source: docs/interop/qcow2.rst of QEMU; limits beyond it are those of block/qcow2.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from overlaysync.errors import ImageError
from overlaysync.formats.image import MAGIC, Compression, Format
from overlaysync.formats.layout import Target, UnitMap
from overlaysync.formats.table_layout import ENTRY_SIZE, TableLayout
from overlaysync.units import KIB, MIB, ceil_div, round_up

HEADER = struct.Struct(">4sIQIIQIIQQIIQQQQII")
"""magic, version, backing file offset and size, cluster_bits, size, crypt_method, l1_size, l1_table_offset,
refcount_table offset and clusters, nb_snapshots, snapshots_offset, features (incompatible, compatible,
autoclear), refcount_order, header_length."""

EXTENSION = struct.Struct(">II")
"""type, length in bytes; its data follow, padded to 8 bytes."""

VERSION = 3
REFCOUNT_ORDER = 4
REFCOUNT_SIZE = 2
EXTENSION_END = 0
EXTENSION_BACKING_FORMAT = 0xE2792ACA
COPIED = 1 << 63
_COMPRESSION = 1 << 3
"""Incompatible feature: the header says how clusters are compressed."""

MAX_L1_SIZE = 32 * MIB
MAX_REFCOUNT_TABLE_SIZE = 8 * MIB
"""QEMU's limits, in bytes."""

_REFCOUNT_RUN = 128 * KIB


def refcount_clusters(other: int, cluster_size: int) -> tuple[int, int]:
    """Return the fewest refcount table clusters and blocks that cover themselves and ``other`` clusters."""
    table = blocks = 0
    while True:
        needed = ceil_div(other + table + blocks, cluster_size // REFCOUNT_SIZE)
        needed_table = ceil_div(needed, cluster_size // ENTRY_SIZE)
        if (needed_table, needed) == (table, blocks):
            return table, blocks
        table, blocks = needed_table, needed


def l1_entries(target: Target) -> int:
    """How many L1 entries the virtual size needs; at least one.

    Raises:
        ImageError: more than QEMU takes.
    """
    reach = target.cluster_size // ENTRY_SIZE * target.cluster_size
    entries = max(1, ceil_div(target.virtual_size, reach))
    if entries * ENTRY_SIZE > MAX_L1_SIZE:
        raise _too_large(target)
    return entries


def _too_large(target: Target) -> ImageError:
    return ImageError(
        f"qcow2 cannot hold {target.virtual_size} bytes in clusters of {target.cluster_size}",
        hint="choose larger clusters",
    )


class Qcow2Layout(TableLayout):
    """A qcow2 image; see :class:`TableLayout`.

    Raises:
        ImageError: the target is out of qcow2's bounds, or its backing name does not fit into the header.
    """

    entry_type = np.dtype(">u8")
    offset_flag = COPIED

    def __init__(self, target: Target, units: UnitMap) -> None:
        cluster_size = target.cluster_size
        super().__init__(target, units, table_size=cluster_size)
        self.l1_entries = l1_entries(target)
        l1_clusters = ceil_div(self.l1_entries * ENTRY_SIZE, cluster_size)
        other = 1 + l1_clusters + len(self.clusters.tables) + self.clusters.data_count
        self.refcount_table_clusters, self.refcount_blocks = refcount_clusters(other, cluster_size)
        if self.refcount_table_clusters * cluster_size > MAX_REFCOUNT_TABLE_SIZE:
            raise _too_large(target)
        self.blocks_offset = cluster_size * (1 + self.refcount_table_clusters)
        l1_offset = self.blocks_offset + self.refcount_blocks * cluster_size
        self.place(l1_offset=l1_offset, l2_offset=l1_offset + l1_clusters * cluster_size)
        self._head = header(
            target,
            l1_entries=self.l1_entries,
            l1_offset=self.l1_offset,
            refcounts_offset=cluster_size,
            refcount_table_clusters=self.refcount_table_clusters,
        )
        if len(self._head) > cluster_size:
            raise ImageError("the backing file's name does not fit", hint="choose larger clusters")

    def metadata(self) -> Iterator[tuple[int, bytes]]:
        yield from self.tables()
        yield from self._refcounts()
        yield 0, self._head

    def _refcounts(self) -> Iterator[tuple[int, bytes]]:
        """Yield the blocks, all ones and back to back, a run at a time; then their table."""
        cluster_size = self.target.cluster_size
        count = self.file_size // cluster_size
        for first in range(0, count, _REFCOUNT_RUN):
            ones = b"\0\1" * min(_REFCOUNT_RUN, count - first)
            yield self.blocks_offset + first * REFCOUNT_SIZE, ones
        yield cluster_size, refcount_table(self.blocks_offset, self.refcount_blocks, cluster_size)


def header(
    target: Target,
    *,
    l1_entries: int,
    l1_offset: int,
    refcounts_offset: int,
    refcount_table_clusters: int,
    compression: Compression = Compression.ZLIB,
) -> bytes:
    """Return header, extensions and backing name of an image whose tables lie at these file offsets."""
    name = target.backing_name or b""
    extensions = _extension(EXTENSION_BACKING_FORMAT, target.backing_format) if name else b""
    extensions += EXTENSION.pack(EXTENSION_END, 0)
    # The field is left out for zlib, as QEMU before 5.1 did.
    more = bytes([compression]).ljust(8, b"\0") if compression else b""
    size = HEADER.size + len(more)
    fields = HEADER.pack(
        MAGIC[Format.QCOW2],
        VERSION,
        size + len(extensions) if name else 0,
        len(name),
        target.cluster_size.bit_length() - 1,
        target.virtual_size,
        0,
        l1_entries,
        l1_offset,
        refcounts_offset,
        refcount_table_clusters,
        0,
        0,
        _COMPRESSION if compression else 0,
        0,
        0,
        REFCOUNT_ORDER,
        size,
    )
    return fields + more + extensions + name


def refcount_table(offset: int, blocks: int, cluster_size: int) -> bytes:
    """Return the table of so many refcount blocks that lie back to back from ``offset`` on."""
    return (np.arange(blocks, dtype=np.uint64) * cluster_size + offset).astype(">u8").tobytes()


def _extension(kind: int, format: Format | None) -> bytes:
    text = str(format).encode()
    return EXTENSION.pack(kind, len(text)) + text.ljust(round_up(len(text), 8), b"\0")
