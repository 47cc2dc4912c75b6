"""What QED and qcow2 have in common: a first table of second tables of clusters.

A format says how an entry reads (:meth:`TwoLevelImage.decode`), which entries are refused and which clusters
they own; here the tables are loaded, checked against each other, and turned into extents, whole slices of a
table at a time. Time and memory follow what the file really holds: empty parts of the first table and tables
that lie in holes cost nothing. Checked once, on opening: every cluster has one owner. Checked at every load
of a table: its entries.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray

from overlaysync.errors import ImageError
from overlaysync.formats.cache import ByteCache
from overlaysync.formats.claims import ClusterSet, TooScattered
from overlaysync.formats.files import next_data, next_hole, pread_exact, read_padded
from overlaysync.formats.image import Backing, Extent, Geometry, Image, check_range
from overlaysync.model.digest import Kind, Kinds
from overlaysync.units import KIB, MIB

Entries: TypeAlias = NDArray[np.uint64]
"""Table entries, shape (entries, words), native byte order."""

Offsets: TypeAlias = NDArray[np.int64]

_READ = MIB
"""Bytes of tables looked at together while an image is checked."""

_PART = 256 * KIB
"""Tables are loaded and cached in parts of at most this size."""

_CLAIMED_TABLES = 1 << 16
_CACHE = 16 * MIB
_SLICE_UNITS = 1 << 15
"""Units turned into extents at a time."""


@dataclass(frozen=True, slots=True)
class Units:
    """Consecutive clusters (or subclusters) of a layer; arrays of shape (units,).

    Attributes:
        kinds: kind of each.
        host: file offset of each DATA unit; the start of a compressed cluster's bytes; else 0.
        stored: for units of compressed clusters, the most bytes the cluster takes in the file; else 0.
    """

    kinds: Kinds
    host: Offsets
    stored: Offsets


@dataclass(frozen=True, slots=True)
class Tables:
    """Where an image's tables are.

    Attributes:
        dtype: of a word: ``<u8`` or ``>u8``.
        words: 8-byte words in an entry of a second table.
        entries: entries in a second table.
        table_bytes: size of a second table.
        l1_offset: file offset of the first table.
        l1_needed: how many of its entries the disk needs.
    """

    dtype: str
    words: int
    entries: int
    table_bytes: int
    l1_offset: int
    l1_needed: int


class TwoLevelImage(Image):
    """An image with two levels of tables; own layer only."""

    def __init__(
        self,
        path: str,
        fd: int,
        geometry: Geometry,
        tables: Tables,
        virtual_size: int,
        backing: Backing | None,
    ) -> None:
        self.path = path
        self.fd = fd
        self.geometry = geometry
        self.tables = tables
        self.virtual_size = virtual_size
        self.backing = backing
        self.file_size = os.fstat(fd).st_size
        self._cache: ByteCache[Entries] = ByteCache(_CACHE)
        # Number (rising) and file offset of the tables there are, without those that lie in holes.
        self._numbers: Offsets = np.empty(0, dtype=np.int64)
        self._offsets: Offsets = np.empty(0, dtype=np.int64)

    # -- what a format says --------------------------------------------------------------------------

    @abstractmethod
    def metadata(self) -> Iterator[tuple[str, Offsets]]:
        """Yield (what, cluster numbers) of everything but second tables and data."""

    @abstractmethod
    def table_offsets(self, entries: NDArray[np.uint64], places: Offsets) -> Offsets:
        """File offsets of second tables, checked.

        Args:
            entries: non-zero words of the first table.
            places: file offset of each.
        """

    @abstractmethod
    def check_entries(self, entries: Entries, places: Offsets) -> None:
        """Refuse entries that cannot be; ``places`` are the file offsets of the parts they come from."""

    @abstractmethod
    def claim_entries(self, entries: Entries, owned: ClusterSet) -> int | None:
        """Claim the clusters that checked entries own; return one that was taken."""

    @abstractmethod
    def decode(self, entries: Entries) -> Units:
        """Return what checked entries say, one unit for each cluster (or subcluster)."""

    # -- opening -------------------------------------------------------------------------------------

    def load(self) -> None:
        """Read the first table and check every table; call once, before anything else.

        Raises:
            ImageError: any table is damaged.
        """
        self._load_l1()
        try:
            self._check_owners()
        except TooScattered:
            self.refuse("its clusters are too scattered in the file to be checked")

    def _load_l1(self) -> None:
        first = self.tables.l1_offset
        end = first + self.tables.l1_needed * 8
        numbers, offsets = [], []
        for place in range(first, end, _READ):
            data = pread_exact(self.fd, min(_READ, end - place), place, path=self.path)
            words = np.frombuffer(data, dtype=self.tables.dtype)
            used = np.flatnonzero(words)
            if len(used):
                places = place + used * 8
                numbers.append((places - first) // 8)
                offsets.append(self.table_offsets(words[used].astype(np.uint64), places))
        if numbers:
            self._numbers, self._offsets = np.concatenate(numbers), np.concatenate(offsets)
            self._forget(self._offsets == 0)

    def _forget(self, absent: NDArray[np.bool_]) -> None:
        self._numbers, self._offsets = self._numbers[~absent], self._offsets[~absent]

    def _check_owners(self) -> None:
        owned = ClusterSet()
        for what, clusters in self.metadata():
            self._claimed(owned.claim(clusters), what)
        for at in range(0, len(self._offsets), _CLAIMED_TABLES):
            tables = self._offsets[at : at + _CLAIMED_TABLES, None] // self._cluster
            clusters = tables + np.arange(self.tables.table_bytes // self._cluster)
            self._claimed(owned.claim(clusters.ravel()), "a table")
        order = np.argsort(self._offsets)
        tables = self._offsets[order]
        empty = np.ones(len(tables), dtype=np.bool_)
        for parts in self._parts_with_data():
            empty[order[np.searchsorted(tables, parts, side="right") - 1]] = False
            entries = self._read_parts(parts)
            self.check_entries(entries, parts)
            self._claimed(self.claim_entries(entries, owned), "a data cluster")
        self._claimed(self.left_to_claim(owned), "a compressed cluster")
        self._forget(empty)

    def left_to_claim(self, owned: ClusterSet) -> int | None:
        """Return what a format can check only when all tables have been seen.

        Return a cluster that was taken.
        """
        return None

    def _claimed(self, taken: int | None, what: str) -> None:
        if taken is not None:
            self.refuse(f"{what} overlaps something else in the file", taken * self._cluster)

    def _parts_with_data(self) -> Iterator[Offsets]:
        """Batches of rising offsets of parts of tables, without those that lie in holes: they are empty."""
        size, file_size = self._part_bytes, self.file_size
        starts = np.arange(0, self.tables.table_bytes, size)
        offsets = (np.sort(self._offsets)[:, None] + starts).ravel()
        at = 0
        while at < len(offsets):
            data = next_data(self.fd, int(offsets[at]))
            if data is None:
                return
            at = int(np.searchsorted(offsets, data - size, side="right"))
            stop = int(np.searchsorted(offsets, next_hole(self.fd, data, file_size)))
            for first in range(at, stop, _READ // size):
                yield offsets[first : min(stop, first + _READ // size)]
            at = max(at, stop)

    # -- reading tables ------------------------------------------------------------------------------

    @property
    def _part_bytes(self) -> int:
        return min(_PART, self.tables.table_bytes)

    def _read_parts(self, offsets: Offsets) -> Entries:
        """Entries of the parts at rising ``offsets``, joined; neighbours are read together."""
        size = self._part_bytes
        breaks = np.flatnonzero(offsets[1:] != offsets[:-1] + size) + 1
        edges = [0, *breaks.tolist(), len(offsets)]
        runs = [
            pread_exact(self.fd, (stop - start) * size, int(offsets[start]), path=self.path)
            for start, stop in pairwise(edges)
        ]
        words = np.frombuffer(b"".join(runs), dtype=self.tables.dtype)
        return words.astype(np.uint64).reshape(-1, self.tables.words)

    def _part(self, offset: int) -> Entries:
        entries = self._cache.get(offset)
        if entries is None:
            places = np.array([offset], dtype=np.int64)
            entries = self._read_parts(places)
            self.check_entries(entries, places)
            self._cache.put(offset, entries, entries.nbytes)
        return entries

    # -- the contract --------------------------------------------------------------------------------

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """See :class:`Image`."""
        check_range(offset, length, self.virtual_size)
        held: Extent | None = None
        for extent in self._pieces(offset, offset + length):
            if held is not None and _continues(held, extent):
                held = Extent(held.offset, held.length + extent.length, held.kind, held.host, held.stored)
                continue
            if held is not None:
                yield held
            held = extent
        if held is not None:
            yield held

    def read_into(self, extent: Extent, buffer: memoryview) -> None:
        """See :class:`Image`."""
        read_padded(self.fd, extent.host, buffer, path=self.path, guest=extent.offset)

    @property
    def _cluster(self) -> int:
        return self.geometry.cluster_size

    def _pieces(self, offset: int, end: int) -> Iterator[Extent]:
        """Extents that cover the range, not yet joined across slices."""
        span = self.tables.entries * self._cluster
        step = min(_SLICE_UNITS * self.geometry.subcluster_size, self._part_span)
        while offset < end:
            number = offset // span
            at = int(np.searchsorted(self._numbers, number))
            following = int(self._numbers[at]) if at < len(self._numbers) else None
            if following == number:
                stop = min(end, offset // step * step + step)
                yield from self._slice(offset, stop, int(self._offsets[at]))
            else:
                stop = end if following is None else min(end, following * span)
                yield Extent(offset, stop - offset, Kind.UNALLOCATED)
            offset = stop

    @property
    def _part_span(self) -> int:
        """Guest bytes that a part maps."""
        return self._part_bytes // (8 * self.tables.words) * self._cluster

    def _slice(self, offset: int, stop: int, table: int) -> Iterator[Extent]:
        """Extents of ``offset`` .. ``stop``, which one part of the table at file offset ``table`` maps."""
        span = self._part_span
        base = offset // span * span
        part = base // span % (self.tables.table_bytes // self._part_bytes)
        first, last = (offset - base) // self._cluster, (stop - 1 - base) // self._cluster
        units = self.decode(self._part(table + part * self._part_bytes)[first : last + 1])
        return _join_units(units, base + first * self._cluster, self.geometry.subcluster_size, offset, stop)

    def refuse(self, reason: str, offset: int | None = None) -> NoReturn:
        """Raise the error that this image cannot be used."""
        raise ImageError(reason, path=self.path, offset=offset, hint="try 'qemu-img check' on it")

    def refuse_if(self, bad: NDArray[np.bool_], reason: str, places: Offsets) -> None:
        """Refuse the image when any entry is ``bad``.

        Args:
            bad: shape (entries of all tables,).
            reason: what is wrong with such an entry.
            places: file offset of every part they come from; shape (parts,).
        """
        if bad.any():
            index = int(np.argmax(bad))
            part, entry = divmod(index, len(bad) // len(places))
            self.refuse(reason, int(places[part]) + entry * 8 * self.tables.words)


def _continues(left: Extent, right: Extent) -> bool:
    """Whether two neighbours are one extent."""
    if left.kind is not right.kind:
        return False
    return left.kind is not Kind.DATA or (
        not left.stored and not right.stored and right.host == left.host + left.length
    )


def _join_units(units: Units, start: int, size: int, offset: int, stop: int) -> Iterator[Extent]:
    """Extents of ``offset`` .. ``stop`` from units of ``size`` bytes; the first unit begins at ``start``."""
    first, last = (offset - start) // size, (stop - 1 - start) // size + 1
    kinds, host, stored = units.kinds[first:last], units.host[first:last], units.stored[first:last]
    start += first * size
    # In a run of plain data the host offset moves on with every unit; within a compressed cluster it stays.
    moves = np.where(stored[1:] > 0, 0, size)
    cut = (kinds[1:] != kinds[:-1]) | (stored[1:] != stored[:-1])
    cut |= (kinds[1:] == Kind.DATA) & (host[1:] - host[:-1] != moves)
    firsts = np.concatenate(([0], np.flatnonzero(cut) + 1))
    begins = start + firsts * size
    ends = np.append(begins[1:], start + len(kinds) * size)
    skipped = np.maximum(offset - begins, 0)
    plain = (kinds[firsts] == Kind.DATA) & (stored[firsts] == 0)
    hosts = host[firsts] + np.where(plain, skipped, 0)
    begins += skipped
    lengths = np.minimum(ends, stop) - begins
    columns = (begins, lengths, kinds[firsts], hosts, stored[firsts])
    for begin, length, kind, at, size_in_file in zip(*(column.tolist() for column in columns), strict=True):
        yield Extent(begin, length, _KINDS[kind], at, size_in_file)


_KINDS = tuple(Kind)
