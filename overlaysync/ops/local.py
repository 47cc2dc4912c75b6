"""Local sources: units that an image on this machine already holds.

An older version, a flat copy or a promoted overlay shares most units with the target at the same guest
offsets; other images may share some elsewhere. Both are found by digest. Where the file system lets two files
share their bytes the new file does so; else they are read through the source's chain. Either way the assembly
verifies them like bytes from anywhere.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from overlaysync.errors import ImageError
from overlaysync.formats.chain import Chain
from overlaysync.model.datamap import SlotRun
from overlaysync.model.digest import Digests, Kind, equal_rows, kinds_of
from overlaysync.model.pages import LoadPage, PageList, loaded_once
from overlaysync.ops.assemble import BATCH, Assembly
from overlaysync.ops.hashing import Progress
from overlaysync.ops.threads import HASHERS, in_order
from overlaysync.store.direct import aligned_buffer
from overlaysync.units import PAGE_UNITS, ceil_div

_COPIERS = max(4, HASHERS)
"""Threads that copy: more than processors, as writing waits for the disk."""

WINDOW = 1 << 20
"""Missing slots searched for at other offsets at a time: 64 GiB of chunks, some 20 MiB of memory."""


@dataclass(frozen=True, slots=True)
class LocalSource:
    """An image here whose guest view (or layer) has known digests.

    Attributes:
        chain: the open image, read through its backing files.
        pages: digests of its disk or layer.
    """

    chain: Chain
    pages: PageList


@dataclass(frozen=True, slots=True)
class Copy:
    """Consecutive slots and where the source has them."""

    first: int
    count: int
    offset: int


class LocalCopier:
    """Takes missing units of one assembly from sources here, one source after the other.

    Args:
        assembly: takes them.
        load: gives pages.
        progress: is told of the bytes taken, and may end the work with an exception.
    """

    def __init__(self, assembly: Assembly, load: LoadPage, progress: Progress | None = None) -> None:
        self._assembly = assembly
        self._load = load
        self._progress = progress
        self._wanted: _DigestIndex | None = None

    def take(self, source: LocalSource) -> int:
        """Take every missing unit that ``source`` holds; returns the bytes taken.

        Wrong bytes (the source has changed or rotted) are simply not taken.
        """
        if source.pages.unit != self._assembly.data.pages.unit:
            return 0
        before = self._assembly.written
        taker = _Taker(self._assembly, source.chain)
        for find in (self.same_offset, self.any_offset):
            for done in in_order(taker.take, find(source.pages), threads=_COPIERS):
                if self._progress:
                    self._progress(done)
        return self._assembly.written - before

    def same_offset(self, pages: PageList) -> Iterator[Copy]:
        """Yield copies of units that the source has where the target has them."""
        load = loaded_once(self._load)
        theirs = set(pages.indices)
        for first, count in list(self._assembly.missing()):
            for run in self._assembly.data.runs(first, count, pages=theirs):
                self._check()
                yield from _matching(run, pages, load, self._assembly)

    def any_offset(self, pages: PageList) -> Iterator[Copy]:
        """Yield copies of whole units that the source has elsewhere, reading its pages once a window."""
        load = loaded_once(self._load)
        for wanted in self._windows():
            for index in pages.indices:
                self._check()
                yield from wanted.found_in(index, pages.load(index, load))

    def _check(self) -> None:
        if self._progress:
            self._progress(0)

    def _windows(self) -> Iterator[_DigestIndex]:
        """Yield what is missing.

        If one window holds it, it is kept for the next source: it only gets less.
        """
        windows = list(windows_of(list(self._assembly.missing())))
        if len(windows) == 1 and self._wanted is None:
            self._wanted = _DigestIndex(self._assembly, windows[0])
        if windows and self._wanted is not None:
            self._wanted.begin()
            yield self._wanted
            return
        for window in windows:
            yield _DigestIndex(self._assembly, window)


class _Taker:
    """Takes units from one source; several threads may do so at once."""

    def __init__(self, assembly: Assembly, chain: Chain) -> None:
        self._assembly = assembly
        self._data = assembly.data
        self._chain = chain
        self._own = threading.local()

    def take(self, item: Copy) -> int:
        """Return the bytes of ``item`` that were taken."""
        unit, have = self._data.pages.unit, self._assembly.have
        taken = self._share(item)
        for first, count in have.gaps(item.first, item.count, self._assembly.batch_slots()):
            taken += self._copy(Copy(first, count, item.offset + (first - item.first) * unit))
        return taken

    def _share(self, item: Copy) -> int:
        """Return the bytes that the new file now shares with one of the chain."""
        if not any(self._assembly.may_share(image.fd) for image in self._chain.images):
            return 0
        try:
            ranges = list(self._whole_units(item))
        except (ImageError, OSError, ValueError):
            return 0  # What is wrong with the source shows itself when it is read.
        return sum(self._assembly.share(*found, self._buffer()) for found in ranges)

    def _whole_units(self, item: Copy) -> Iterator[tuple[int, int, int, int]]:
        """(first slot, count, descriptor, offset there) of units that lie whole and plain in one file."""
        unit = self._data.pages.unit
        length = self._data.span(item.first, item.count)
        for image, extent in self._chain.extents(item.offset, length):
            if image is None or extent.kind is not Kind.DATA or extent.stored:
                continue
            start = extent.offset - item.offset
            low = ceil_div(start, unit)
            host = extent.host + low * unit - start
            inside = min(start + extent.length, low * unit + os.fstat(image.fd).st_size - host)
            if inside // unit > low:
                yield item.first + low, inside // unit - low, image.fd, host

    def _copy(self, item: Copy) -> int:
        """Return the bytes of at most a batch that were copied."""
        part = self._buffer()[: self._data.span(item.first, item.count)]
        try:
            self._chain.read_into(item.offset, part)
        except (ImageError, OSError, ValueError):
            return 0  # A source that has rotted or shrunk is one that does not have it.
        wrong = self._assembly.accept(item.first, item.count, part)
        return len(part) - sum(self._data.span(*run) for run in wrong)

    def _buffer(self) -> memoryview:
        """Return this thread's own."""
        if not hasattr(self._own, "buffer"):
            self._own.buffer = aligned_buffer(BATCH)
        buffer: memoryview = self._own.buffer
        return buffer


def _matching(run: SlotRun, pages: PageList, load: LoadPage, assembly: Assembly) -> Iterator[Copy]:
    index = int(run.units[0]) // PAGE_UNITS
    if pages.page(index) is None:
        return
    theirs = pages.load(index, load)
    local = run.units - index * PAGE_UNITS
    inside = local < len(theirs)
    same = np.zeros(len(local), dtype=np.bool_)
    same[inside] = equal_rows(run.digests[inside], theirs[local[inside]])
    yield from _copies(run.first + np.flatnonzero(same), run.units[same], assembly)


def _copies(slots: NDArray[np.int64], units: NDArray[np.int64], assembly: Assembly) -> Iterator[Copy]:
    """Neighbours in both slots and source units joined: a batch at most, or a page where they are shared."""
    if not len(slots):
        return
    breaks = np.flatnonzero((np.diff(slots) != 1) | (np.diff(units) != 1)) + 1
    for part_slots, part_units in zip(np.split(slots, breaks), np.split(units, breaks), strict=True):
        at = 0
        while at < len(part_slots):
            limit = PAGE_UNITS if assembly.shares else assembly.batch_slots()
            count = min(limit, len(part_slots) - at)
            yield Copy(int(part_slots[at]), count, int(part_units[at]) * assembly.data.pages.unit)
            at += count


def windows_of(missing: list[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """``missing`` (first, count) runs in lists of at most ``WINDOW`` slots."""
    window: list[tuple[int, int]] = []
    room = WINDOW
    for first, count in missing:
        while count:
            part = min(room, count)
            window.append((first, part))
            first, count, room = first + part, count - part, room - part
            if not room:
                yield window
                window, room = [], WINDOW
    if window:
        yield window


class _DigestIndex:
    """A window of missing slots, searchable by digest."""

    def __init__(self, assembly: Assembly, window: list[tuple[int, int]]) -> None:
        self._assembly = assembly
        self._slots = np.concatenate([np.arange(first, first + count) for first, count in window])
        digests = [run.digests for first, count in window for run in assembly.data.runs(first, count)]
        self._digests: Digests = np.concatenate(digests)
        words = np.ascontiguousarray(self._digests).view(np.uint64)[:, 0]
        self._order = np.argsort(words, kind="stable")
        self._words = words[self._order]
        self.begin()

    def begin(self) -> None:
        """Nothing has been found in this source yet."""
        self._found = np.zeros(len(self._words), dtype=np.bool_)

    def found_in(self, index: int, theirs: Digests) -> Iterator[Copy]:
        """Yield copies for the wanted slots whose digests stand in page ``index`` of the source."""
        words = np.ascontiguousarray(theirs).view(np.uint64)[:, 0]
        at = np.minimum(np.searchsorted(self._words, words), len(self._words) - 1)
        for hit in np.flatnonzero((self._words[at] == words) & (kinds_of(theirs) == Kind.DATA)).tolist():
            place = int(at[hit])
            if self._found[place]:
                continue  # Repeats on both sides would otherwise cost their product.
            self._found[place] = True
            while place < len(self._words) and self._words[place] == words[hit]:
                row = int(self._order[place])
                slot = int(self._slots[row])
                if (self._digests[row] == theirs[hit]).all() and slot not in self._assembly.have:
                    offset = (index * PAGE_UNITS + hit) * self._assembly.data.pages.unit
                    yield Copy(slot, 1, offset)
                place += 1
