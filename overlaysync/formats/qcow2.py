"""qcow2 images, versions 2 and 3: tables, subclusters, compressed clusters. Own layer only.

Reads the active state; internal snapshots and bitmaps are only noted. Refcounts are not used, but the places
of their tables are checked. Source: QEMU docs/interop/qcow2.rst, "Cluster mapping" and "Extended L2 Entries";
which entry counts as allocated: block/qcow2.h.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from overlaysync.formats.cache import ByteCache
from overlaysync.formats.claims import ClusterSet
from overlaysync.formats.compressed import inflate
from overlaysync.formats.files import pread_exact, pread_some, read_padded, unreadable
from overlaysync.formats.image import Extent, Format, Geometry
from overlaysync.formats.qcow2_header import Header, read_header
from overlaysync.formats.qcow2_snapshots import snapshot_names
from overlaysync.formats.tables import Entries, Offsets, Tables, TwoLevelImage, Units
from overlaysync.model.digest import Kind
from overlaysync.units import MIB, SECTOR, ceil_div

_OFFSET = np.uint64(0x00FFFFFFFFFFFE00)
_COPIED = np.uint64(1 << 63)
_COMPRESSED = np.uint64(1 << 62)
_ZERO = np.uint64(1)
_L1_RESERVED = np.uint64(0x7F000000000001FF)
_L2_RESERVED = np.uint64(0x3F000000000001FE)
_REFTABLE_RESERVED = np.uint64(0x1FF)
_SUBCLUSTERS = 32
_ALL_SUBCLUSTERS = np.uint64(0xFFFFFFFF)
_HIGH = np.uint64(32)

_INFLATED_CACHE = 8 * MIB


class Qcow2Image(TwoLevelImage):
    """A qcow2 image; own layer only."""

    header: Header

    @classmethod
    def open(cls, path: str, fd: int, *, tables: bool = True) -> Self:
        """Read the qcow2 image open as ``fd``; without its ``tables``, no data can be read.

        Raises:
            ImageError: it is damaged or of a kind we do not read.
        """
        header = read_header(path, fd, os.fstat(fd).st_size)
        size = header.cluster_size
        places = Tables(
            dtype=">u8",
            words=header.entry_size // 8,
            entries=size // header.entry_size,
            table_bytes=size,
            l1_offset=header.l1_offset,
            l1_needed=header.l1_needed,
        )
        subcluster = size // _SUBCLUSTERS if header.extended_l2 else size
        geometry = Geometry(Format.QCOW2, size, subcluster)
        image = cls(path, fd, geometry, places, header.virtual_size, header.backing)
        image.notes = header.notes
        image.snapshots = header.snapshots
        image.header = header
        image._inflated = ByteCache(_INFLATED_CACHE)
        image._compressed = ClusterSet()
        image._streams = []
        image._has_compressed = False
        if not tables:
            return image
        image.load()
        if image._has_compressed:
            image.geometry = replace(geometry, compression=header.compression)
        return image

    def snapshot_names(self) -> tuple[str, ...]:
        return snapshot_names(self.fd, self.header.snapshots_offset, self.snapshots)

    def compressed_bytes(self) -> int:
        """Return the guest bytes in compressed clusters, of an image that a VM may be writing to.

        An estimate from above: a guest makes no new ones. What is in the middle of a change is passed over.
        """
        count = 0
        for at in range(0, self.header.l1_needed * 8, MIB):
            length = min(MIB, self.header.l1_needed * 8 - at)
            for table in (self._words(self.header.l1_offset + at, length) & _OFFSET).tolist():
                if table:
                    entries = self._words(table, self.header.cluster_size)[:: self.header.entry_size // 8]
                    count += int(np.count_nonzero(entries & _COMPRESSED))
        return count * self.header.cluster_size

    def _words(self, offset: int, length: int) -> NDArray[np.uint64]:
        """Return the whole words of a table, as far as the file has them."""
        data = pread_some(self.fd, length, offset, path=self.path)
        return np.frombuffer(data[: len(data) // 8 * 8], dtype=">u8").astype(np.uint64)

    _inflated: ByteCache[bytes]
    _compressed: ClusterSet
    _streams: list[NDArray[np.int64]]
    _has_compressed: bool

    # -- checks --------------------------------------------------------------------------------------

    def metadata(self) -> Iterator[tuple[str, Offsets]]:
        """Header, L1, refcount table and refcount blocks."""
        size, header = self.header.cluster_size, self.header
        yield "the header", np.arange(1)
        for what, offset, length in (
            ("the L1 table", header.l1_offset, header.l1_entries * 8),
            ("the refcount table", header.reftable_offset, header.reftable_size),
        ):
            yield what, np.arange(offset // size, offset // size + ceil_div(length, size))
        for at in range(0, header.reftable_size, MIB):
            yield (
                "a refcount block",
                self._refblocks(header.reftable_offset + at, min(MIB, header.reftable_size - at)),
            )

    def _refblocks(self, offset: int, length: int) -> Offsets:
        """Cluster numbers of the refcount blocks named in a part of the refcount table."""
        words = np.frombuffer(pread_exact(self.fd, length, offset, path=self.path), dtype=">u8")
        used = np.flatnonzero(words)
        blocks, places = words[used].astype(np.uint64), offset + used * 8
        bad = (blocks & _REFTABLE_RESERVED != 0) | self._misplaced(blocks, self.file_size)
        self.refuse_if(bad, "a refcount table entry is not the offset of a refcount block", places)
        clusters: Offsets = blocks.astype(np.int64) // self.header.cluster_size
        return clusters

    def table_offsets(self, entries: NDArray[np.uint64], places: Offsets) -> Offsets:
        """See the base class; offset 0 is "no table", as in QEMU."""
        offsets = entries & _OFFSET
        end = max(0, self.file_size - self.header.cluster_size + 1)
        self.refuse_if(entries & _L1_RESERVED != 0, "an L1 entry has reserved bits set", places)
        bad = (offsets != 0) & self._misplaced(offsets, end)
        self.refuse_if(bad, "an L1 entry is not the offset of a table", places)
        return offsets.astype(np.int64)

    def check_entries(self, entries: Entries, places: Offsets) -> None:
        """See the base class."""
        words = entries[:, 0]
        compressed = words & _COMPRESSED != 0
        reserved = ~compressed & (words & _L2_RESERVED != 0)
        self.refuse_if(reserved, "an L2 entry has reserved bits set", places)
        misplaced = ~compressed & self._misplaced(words & _OFFSET, self.file_size) & (words & _OFFSET != 0)
        self.refuse_if(misplaced, "an L2 entry is not the offset of a cluster", places)
        if self.header.version == 2:
            bad = ~compressed & (words & _ZERO != 0)
            self.refuse_if(bad, "an L2 entry has the zero flag, which version 2 does not know", places)
        if self.header.extended_l2:
            self._check_subclusters(entries, compressed, places)
        if compressed.any():
            starts = self._compressed_start(words).astype(np.uint64)
            bad = compressed & ((words & _COPIED != 0) | (starts >= self.file_size) | (starts == 0))
            self.refuse_if(
                bad, "a compressed cluster lies past the end of the file or is marked as copied", places
            )

    def _check_subclusters(self, entries: Entries, compressed: NDArray[np.bool_], places: Offsets) -> None:
        words, bitmap = entries[:, 0], entries[:, 1]
        allocated, zero = bitmap & _ALL_SUBCLUSTERS, bitmap >> _HIGH
        bad = (
            (allocated & zero != 0)
            | ((allocated != 0) & (words & _OFFSET == 0))
            | (compressed & (bitmap != 0))
        )
        self.refuse_if(bad, "an L2 entry has subclusters in a state that cannot be", places)

    def _misplaced(self, offsets: NDArray[np.uint64], end: int) -> NDArray[np.bool_]:
        mask = np.uint64(self.header.cluster_size - 1)
        bad: NDArray[np.bool_] = (offsets & mask != 0) | (offsets >= end)
        return bad

    def claim_entries(self, entries: Entries, owned: ClusterSet) -> int | None:
        """See the base class; compressed clusters share host clusters, but with none of another kind."""
        words, size = entries[:, 0], self.header.cluster_size
        compressed = words & _COMPRESSED != 0
        if compressed.any():
            self._has_compressed = True
            starts = self._compressed_start(words[compressed])
            ends = starts + self._compressed_size(words[compressed], starts)
            first, last = starts // size, (ends - 1) // size
            for step in range(int((last - first).max()) + 1):
                self._compressed.add(np.minimum(first + step, last))
            self._streams.append(np.stack([starts, ends]))
        hosts = words[~compressed] & _OFFSET
        return owned.claim(hosts[hosts != 0].astype(np.int64) // size)

    def left_to_claim(self, owned: ClusterSet) -> int | None:
        """See the base class; compressed clusters may share a sector: their ends are rounded up to one."""
        starts, ends = np.concatenate(self._streams or [np.empty((2, 0), dtype=np.int64)], axis=1)
        self._streams = []
        order = np.argsort(starts)
        starts, ends = starts[order], ends[order]
        twice = np.flatnonzero((starts[1:] == starts[:-1]) | (starts[1:] <= ends[:-1] - SECTOR))
        taken = (
            int(starts[twice[0] + 1]) // self.header.cluster_size
            if len(twice)
            else self._compressed.common(owned)
        )
        self._compressed = ClusterSet()
        return taken

    # -- entries -------------------------------------------------------------------------------------

    def decode(self, entries: Entries) -> Units:
        """See the base class."""
        words = entries[:, 0]
        host = (words & _OFFSET).astype(np.int64)
        units = (
            self._decode_subclusters(host, entries[:, 1]) if self.header.extended_l2 else _decode(host, words)
        )
        compressed = words & _COMPRESSED != 0
        if compressed.any():
            per_cluster = len(units.kinds) // len(words)
            starts = self._compressed_start(words)
            where = np.repeat(compressed, per_cluster)
            units.kinds[where] = Kind.DATA
            units.host[where] = np.repeat(starts[compressed], per_cluster)
            units.stored[where] = np.repeat(self._compressed_size(words, starts)[compressed], per_cluster)
        return units

    def _decode_subclusters(self, host: Offsets, bitmap: NDArray[np.uint64]) -> Units:
        bits = np.arange(_SUBCLUSTERS, dtype=np.uint64)
        allocated = bitmap[:, None] >> bits & _ZERO != 0
        zero = bitmap[:, None] >> (bits + _HIGH) & _ZERO != 0
        hosts = host[:, None] + np.arange(_SUBCLUSTERS) * self.geometry.subcluster_size
        kinds = np.where(allocated, Kind.DATA, np.where(zero, Kind.ZERO, Kind.UNALLOCATED)).astype(np.uint8)
        return _units(kinds.ravel(), hosts.ravel())

    def _compressed_start(self, words: NDArray[np.uint64]) -> Offsets:
        """Where the bytes of compressed clusters begin in the file."""
        offset_bits = self._offset_bits
        starts: Offsets = (words & np.uint64((1 << offset_bits) - 1)).astype(np.int64)
        return starts

    def _compressed_size(self, words: NDArray[np.uint64], starts: Offsets) -> Offsets:
        """How many bytes they take at most: up to the end of their last sector."""
        sectors = words >> np.uint64(self._offset_bits) & np.uint64((1 << 62 - self._offset_bits) - 1)
        size: Offsets = (sectors.astype(np.int64) + 1) * SECTOR - starts % SECTOR
        return size

    @property
    def _offset_bits(self) -> int:
        return 62 - (self.header.cluster_size.bit_length() - 9)

    # -- reading -------------------------------------------------------------------------------------

    def read_into(self, extent: Extent, buffer: memoryview) -> None:
        """See :class:`Image`."""
        if not extent.stored:
            read_padded(self.fd, extent.host, buffer, path=self.path, guest=extent.offset)
            return
        start = extent.offset % self.header.cluster_size
        buffer[:] = self._cluster_at(extent)[start : start + extent.length]

    def _cluster_at(self, extent: Extent) -> bytes:
        """Return the bytes of a compressed cluster, whole."""
        data = self._inflated.get(extent.host)
        if data is None:
            # The last sector need not be whole at the end of the file.
            try:
                stored = os.pread(self.fd, extent.stored, extent.host)
            except OSError as error:
                raise unreadable(error, self.path, extent.offset) from error
            data = inflate(stored, self.header.cluster_size, self.header.compression)
            if data is None:
                self.refuse("a compressed cluster does not inflate to its size", extent.host)
            self._inflated.put(extent.host, data, len(data))
        return data


def _decode(host: Offsets, words: NDArray[np.uint64]) -> Units:
    """Entries that are not compressed, one unit each."""
    allocated = np.where(host != 0, Kind.DATA, Kind.UNALLOCATED)
    return _units(np.where(words & _ZERO != 0, Kind.ZERO, allocated).astype(np.uint8), host)


def _units(kinds: NDArray[np.uint8], host: Offsets) -> Units:
    """Units of uncompressed clusters; what is not data has no host."""
    return Units(kinds, np.where(kinds == Kind.DATA, host, 0), np.zeros(len(kinds), dtype=np.int64))
