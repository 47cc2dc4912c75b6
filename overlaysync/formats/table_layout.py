"""What the layouts of QED and qcow2 share: units seen as clusters, and two levels of tables.

The file: header (with what a format keeps beside it), L1 table, the L2 tables that have an entry, back to
back, then the data clusters in guest order. Tables are made when they are written, never kept: in memory are
a number per L2 table and, where clusters are larger than units, a bit per cluster.
Left out: header and refcounts, which are the formats' own.
Source: docs/interop/qed_spec.rst ("Tables") and docs/interop/qcow2.rst ("Cluster mapping") of QEMU.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from overlaysync.errors import ImageError
from overlaysync.formats.layout import Layout, Target, UnitMap, check_target
from overlaysync.model.digest import Kind, Kinds
from overlaysync.model.pages import page_length
from overlaysync.units import PAGE_UNITS, ceil_div

ENTRY_SIZE = 8


class ClusterMap:
    """A unit map as clusters: each UNALLOCATED (entry 0), ZERO (entry 1) or DATA (entry: an offset).

    A cluster with a DATA unit is DATA; its ZERO units stay zeros on disk. Without a backing file, whatever is
    not DATA is UNALLOCATED. Clusters have at most 1024 units, both powers of two, so none crosses a page.

    Attributes:
        page_clusters: clusters in a full page of units.
        tables: numbers of the L2 tables that have an entry, rising; shape (tables,), int64.
        data_count: DATA clusters.
        unit_count: DATA units.

    Raises:
        ImageError: ``units`` does not fit ``target``, or a cluster would both hide and show the backing file.
    """

    def __init__(self, target: Target, units: UnitMap, *, table_entries: int) -> None:
        self._target = target
        self._units = units
        self._layered = target.backing_name is not None
        self._fill = self._layered and target.blank == Kind.ZERO
        self.page_clusters = PAGE_UNITS * target.unit // target.cluster_size
        self._ranks = _Ranks(target) if target.cluster_size > target.unit else None
        self.data_count = 0
        self.unit_count = 0
        tables = [np.empty(0, dtype=np.int64)]
        for pages, kinds in self._groups():
            clusters = self._clusters(int(pages[0]), kinds)
            data = clusters == Kind.DATA
            if self._ranks:
                self._ranks.add(pages, data)
            self.unit_count += len(pages) * int(np.count_nonzero(kinds == Kind.DATA))
            self.data_count += len(pages) * int(np.count_nonzero(data))
            present = np.maximum.reduceat(clusters, np.arange(0, len(clusters), table_entries))
            first = pages * self.page_clusters // table_entries
            tables.append(np.unique(first[:, None] + np.flatnonzero(present)))
        self.tables: NDArray[np.int64] = np.unique(np.concatenate(tables))
        if self._ranks:
            self._ranks.end()

    def offsets(self, first_slot: int, units: NDArray[np.int64]) -> NDArray[np.int64]:
        """Offsets in the data area; arguments and errors as in :meth:`Layout.locate`."""
        if not 0 <= first_slot <= first_slot + len(units) <= self.unit_count:
            raise IndexError(f"data units {first_slot}..{first_slot + len(units)} of {self.unit_count}")
        if self._ranks:
            return self._ranks.offsets(units)
        # Units are whole clusters, and only the very last can be short: slots lie side by side.
        return np.arange(first_slot, first_slot + len(units), dtype=np.int64) * self._target.unit

    def spans(self, width: int) -> Iterator[Kinds]:
        """Yield the clusters, ``width`` (a multiple of a page's) at a time.

        Spans without an entry are left out.
        """
        current = -1
        span: Kinds = np.empty(0, dtype=np.uint8)
        for index, kinds in self._pages():
            number, at = divmod(index * self.page_clusters, width)
            if number != current:
                if current >= 0:
                    yield span
                current, span = number, np.zeros(width, dtype=np.uint8)
            clusters = self._clusters(index, kinds)
            span[at : at + len(clusters)] = clusters
        if current >= 0:
            yield span

    def _groups(self) -> Iterator[tuple[NDArray[np.int64], Kinds]]:
        """(page numbers, kinds) of every page that needs an entry, those that are alike together."""
        least = Kind.ZERO if self._layered else Kind.DATA
        for pages, kinds in self._all_groups():
            highest = kinds.max()
            if highest > Kind.DATA:
                raise ImageError(f"page {pages[0]} of the unit map has units of unknown kind {highest}")
            if highest >= least:
                yield pages, kinds

    def _all_groups(self) -> Iterator[tuple[NDArray[np.int64], Kinds]]:
        """Yield the unit map's pages, checked, and those it leaves out where even they need entries."""
        count = ceil_div(self._target.unit_count, PAGE_UNITS)
        seen = np.zeros(count, dtype=np.bool_)
        for pages, kinds in self._units.kind_groups():
            for page in (int(pages[0]), int(pages[-1])):
                if not 0 <= page < count or len(kinds) != page_length(self._target.unit_count, page):
                    raise ImageError(f"page {page} of the unit map, {len(kinds)} units, is out of place")
            if seen[pages].any() or (pages[1:] <= pages[:-1]).any():
                raise ImageError(f"page {pages[0]} of the unit map, or one like it, is out of place")
            seen[pages] = True
            yield pages, kinds
        if self._fill:
            blank = np.flatnonzero(~seen)
            for pages in (blank[blank < count - 1], blank[blank == count - 1]):
                if len(pages):
                    yield pages, self._blank_page(int(pages[0]))

    def _pages(self) -> Iterator[tuple[int, Kinds]]:
        """(page number, kinds) of every page that needs an entry, in order."""
        least = Kind.ZERO if self._layered else Kind.DATA
        return ((index, kinds) for index, kinds in self._all_pages() if kinds.max() >= least)

    def _all_pages(self) -> Iterator[tuple[int, Kinds]]:
        """Yield the unit map's pages, and those it leaves out where even they need entries, in order."""
        done = 0
        for index, kinds in self._units.kind_pages():
            if self._fill:
                yield from ((page, self._blank_page(page)) for page in range(done, index))
            yield index, kinds
            done = index + 1
        if self._fill:
            count = ceil_div(self._target.unit_count, PAGE_UNITS)
            yield from ((page, self._blank_page(page)) for page in range(done, count))

    def _blank_page(self, index: int) -> Kinds:
        """Return a page that the unit map leaves out."""
        length = page_length(self._target.unit_count, index)
        return np.full(length, self._target.blank, dtype=np.uint8)

    def _clusters(self, index: int, kinds: Kinds) -> Kinds:
        """Return what the L2 entries say of the clusters of page ``index``."""
        target = self._target
        if not self._layered:
            kinds = np.where(kinds == Kind.DATA, kinds, np.uint8(Kind.UNALLOCATED))
        if target.cluster_size > target.unit:
            return self._merge(index, kinds)
        clusters = np.repeat(kinds, target.unit // target.cluster_size)
        first = index * self.page_clusters
        return clusters[: ceil_div(target.virtual_size, target.cluster_size) - first]

    def _merge(self, index: int, kinds: Kinds) -> Kinds:
        """Clusters that are larger than units."""
        target = self._target
        starts = np.arange(0, len(kinds), target.cluster_size // target.unit)
        clusters: Kinds = np.maximum.reduceat(kinds, starts)
        if self._layered:
            mixed = np.flatnonzero((np.minimum.reduceat(kinds, starts) == Kind.UNALLOCATED) & (clusters != 0))
            if len(mixed):
                offset = (index * self.page_clusters + int(mixed[0])) * target.cluster_size
                raise ImageError(
                    f"the cluster at guest offset {offset} would hide parts of its backing file",
                    hint=f"choose clusters of at most {target.unit} bytes",
                )
        return clusters


class _Ranks:
    """Finds data clusters that hold several units: a bit per cluster, of the pages that have entries."""

    def __init__(self, target: Target) -> None:
        self._unit = target.unit
        self._cluster_size = target.cluster_size
        self._per_cluster = target.cluster_size // target.unit
        self._row_size = ceil_div(PAGE_UNITS // self._per_cluster, 8)
        self._pages: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._starts: NDArray[np.int64] = self._pages
        self._bits: NDArray[np.uint8] = np.empty((0, self._row_size), dtype=np.uint8)
        self._added: list[tuple[NDArray[np.int64], NDArray[np.uint8], int]] = []

    def add(self, pages: NDArray[np.int64], data: NDArray[np.bool_]) -> None:
        """Add pages that are alike; ``data`` says which of the clusters of each are DATA."""
        row = np.zeros(self._row_size, dtype=np.uint8)
        packed = np.packbits(data)
        row[: len(packed)] = packed
        self._added.append((pages, row, int(np.count_nonzero(data))))

    def end(self) -> None:
        """All pages are added."""
        if not self._added:
            return
        pages = np.concatenate([pages for pages, _, _ in self._added])
        repeats = [len(pages) for pages, _, _ in self._added]
        group = np.repeat(np.arange(len(repeats)), repeats)
        order = np.argsort(pages)
        counts = np.array([count for _, _, count in self._added], dtype=np.int64)[group[order]]
        self._pages, self._starts = pages[order], np.cumsum(counts) - counts
        self._bits = np.stack([row for _, row, _ in self._added])[group[order]]
        self._added = []

    def offsets(self, units: NDArray[np.int64]) -> NDArray[np.int64]:
        """Offsets in the data area of the units numbered ``units``; shape (count,).

        Raises:
            IndexError: a unit lies in no data cluster.
        """
        page, unit = np.divmod(units, PAGE_UNITS)
        cluster, inside = np.divmod(unit, self._per_cluster)
        wanted, inverse = np.unique(page, return_inverse=True)
        rows = np.searchsorted(self._pages, wanted)
        if len(wanted) and (
            not len(self._pages) or (np.take(self._pages, rows, mode="clip") != wanted).any()
        ):
            raise IndexError("a unit lies in no data cluster")
        data = np.unpackbits(self._bits[rows], axis=1)
        if not data[inverse, cluster].all():
            raise IndexError("a unit lies in no data cluster")
        before = self._starts[rows, None] + np.cumsum(data, axis=1) - 1
        offsets: NDArray[np.int64] = before[inverse, cluster] * self._cluster_size + inside * self._unit
        return offsets


class TableLayout(Layout):
    """A layout with L1 and L2 tables; formats say where they lie and add their header.

    Attributes:
        entry_type: how an entry is stored.
        offset_flag: set in every entry that holds an offset.
    """

    entry_type: ClassVar[np.dtype[np.uint64]]
    offset_flag: ClassVar[int] = 0

    def __init__(self, target: Target, units: UnitMap, *, table_size: int) -> None:
        """Count clusters and tables; ``table_size`` is an L2 table's in bytes.

        Raises:
            ImageError: as :func:`check_target` and :class:`ClusterMap`.
        """
        check_target(target)
        self.target = target
        self.table_size = table_size
        self.clusters = ClusterMap(target, units, table_entries=table_size // ENTRY_SIZE)

    def place(self, *, l1_offset: int, l2_offset: int) -> None:
        """Settle where the L1 table and the first L2 table lie; data follow the last L2 table."""
        self.l1_offset = l1_offset
        self.l2_offset = l2_offset
        self.data_offset = l2_offset + len(self.clusters.tables) * self.table_size
        self.file_size = self.data_offset + self.clusters.data_count * self.target.cluster_size

    def locate(self, first_slot: int, units: NDArray[np.int64]) -> NDArray[np.int64]:
        return self.data_offset + self.clusters.offsets(first_slot, units)

    def tables(self) -> Iterator[tuple[int, bytes]]:
        """(file offset, bytes) of the L2 tables, a span at a time, then of the L1 table to its last entry."""
        entries = self.table_size // ENTRY_SIZE
        offset, data_offset = self.l2_offset, self.data_offset
        for kinds in self.clusters.spans(max(entries, self.clusters.page_clusters)):
            data = np.flatnonzero(kinds == Kind.DATA)
            table = kinds.astype(self.entry_type)  # ZERO is entry 1, UNALLOCATED is entry 0.
            table[data] = self._entries(data_offset, len(data), self.target.cluster_size)
            rows = table.reshape(-1, entries)
            body = rows[rows.any(axis=1)].tobytes()
            yield offset, body
            offset += len(body)
            data_offset += len(data) * self.target.cluster_size
        tables = self.clusters.tables
        if len(tables):
            l1 = np.zeros(int(tables[-1]) + 1, dtype=self.entry_type)
            l1[tables] = self._entries(self.l2_offset, len(tables), self.table_size)
            yield self.l1_offset, l1.tobytes()

    def _entries(self, offset: int, count: int, step: int) -> NDArray[np.uint64]:
        """Entries that point to ``count`` places from ``offset`` on."""
        offsets = np.arange(count, dtype=np.uint64) * np.uint64(step) + np.uint64(offset)
        return offsets | np.uint64(self.offset_flag)
