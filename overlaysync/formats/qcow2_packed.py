"""A new qcow2 master (version 3) with compressed clusters, written from front to back in guest order.

Where a cluster goes depends on how short the ones before it became, so nothing is planned: clusters follow
each other, compressed ones to the byte, an L2 table follows the last cluster that it maps, and L1 table and
refcounts come last. In memory are one L2 table, the L1 table, and two bytes for each cluster of the file.
Left out: compressing, and writing, which is the caller's; overlays, whose guests write to them anyway.
Source: docs/interop/qcow2.rst of QEMU, "Compressed Clusters Descriptor"; block/qcow2-refcount.c,
qcow2_alloc_bytes().
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from overlaysync.formats.image import Compression
from overlaysync.formats.layout import Target
from overlaysync.formats.qcow2_layout import COPIED, header, l1_entries, refcount_clusters, refcount_table
from overlaysync.formats.table_layout import ENTRY_SIZE
from overlaysync.units import MIB, SECTOR, ceil_div, round_up

_COMPRESSED = 1 << 62
_COUNTED = MIB
"""Clusters for whose refcounts room is made at a time."""


class PackedImage:
    """A qcow2 image that grows at its end.

    Attributes:
        size: bytes of the file so far; whole clusters.
    """

    def __init__(self, target: Target, compression: Compression) -> None:
        """Begin an image.

        Raises:
            ImageError: qcow2 cannot hold ``target``.
        """
        self._target = target
        self._compression = compression
        self._cluster = target.cluster_size
        self._entries = target.cluster_size // ENTRY_SIZE
        self._l1: NDArray[np.uint64] = np.zeros(l1_entries(target), dtype=np.uint64)
        self._l2: NDArray[np.uint64] = np.zeros(self._entries, dtype=np.uint64)
        self._table = -1
        self._counts: NDArray[np.uint16] = np.zeros(0, dtype=np.uint16)
        self._clusters = 0
        self._free = 0
        """Where the next compressed cluster may begin: in a file cluster that is not full; 0 for in none."""
        self._take(1)

    @property
    def size(self) -> int:
        return self._clusters * self._cluster

    def add(self, clusters: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
        """Give (number, stored bytes) of guest clusters their places, as (file offset, bytes) to be written.

        The numbers rise, from call to call as well; bytes as many as a cluster has are stored as they are,
        fewer are a compressed cluster. Tables that are complete come in between.
        """
        for number, body in clusters:
            table, row = divmod(number, self._entries)
            if table != self._table:
                yield from self._end_table()
                self._table = table
            place = self._store(len(body))
            self._l2[row] = self._entry(place, len(body))
            yield place, body

    def end(self) -> Iterator[tuple[int, bytes]]:
        """Yield what is left to write when all clusters are added: the last tables, then the header."""
        yield from self._end_table()
        l1_offset = self._take(ceil_div(self._l1.nbytes, self._cluster)) * self._cluster
        yield l1_offset, self._l1.astype(">u8").tobytes()
        table_clusters, blocks = refcount_clusters(self._clusters, self._cluster)
        table_offset = self._take(table_clusters) * self._cluster
        blocks_offset = self._take(blocks) * self._cluster
        yield table_offset, refcount_table(blocks_offset, blocks, self._cluster)
        yield blocks_offset, self._counts[: self._clusters].astype(">u2").tobytes()
        yield (
            0,
            header(
                self._target,
                l1_entries=len(self._l1),
                l1_offset=l1_offset,
                refcounts_offset=table_offset,
                refcount_table_clusters=table_clusters,
                compression=self._compression,
            ),
        )

    def _store(self, length: int) -> int:
        """Return the place of a cluster of which so many bytes are stored."""
        if length == self._cluster:
            return self._take(1) * self._cluster
        start = self._free or self.size
        edge = round_up(start, self._cluster)
        if start + length > edge != self.size:
            start = self.size  # something else lies behind the cluster that is not full
        stop = start + length
        if stop > self.size:
            self._take(ceil_div(stop - self.size, self._cluster), counted=False)
        # At most cluster size / shortest stream: 2 MiB in zstd take 74 bytes, so 16 bits are enough.
        self._counts[start // self._cluster : (stop - 1) // self._cluster + 1] += 1
        self._free = stop if stop % self._cluster else 0
        return start

    def _entry(self, place: int, length: int) -> int:
        if length == self._cluster:
            return place | COPIED
        sectors = (place + length - 1) // SECTOR - place // SECTOR
        return _COMPRESSED | sectors << 62 - (self._cluster.bit_length() - 9) | place

    def _end_table(self) -> Iterator[tuple[int, bytes]]:
        if self._table >= 0:
            place = self._take(1) * self._cluster
            self._l1[self._table] = place | COPIED
            yield place, self._l2.astype(">u8").tobytes()
            self._l2[:] = 0

    def _take(self, count: int, *, counted: bool = True) -> int:
        """Return the first of so many new clusters at the end of the file."""
        first, self._clusters = self._clusters, self._clusters + count
        if self._clusters > len(self._counts):
            more = max(_COUNTED, count)
            self._counts = np.concatenate([self._counts, np.zeros(more, dtype=np.uint16)])
        if counted:
            self._counts[first : self._clusters] = 1
        return first
