"""The data map: every DATA unit of a page list, numbered 0.. in guest order.

The number is the unit's *slot*. Transfers, have maps and journals speak of slots, so a run of slots is all
data and its length in bytes is known. Both ends derive the same map from the same page list. Held in memory:
a few numbers per page present and two bits per unit of each distinct page; page bodies are loaded when asked
for.
"""

from __future__ import annotations

import threading
from array import array
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from overlaysync.model.digest import Digests, Kind, Kinds, kinds_of
from overlaysync.model.pages import LoadPage, PageList, page_length
from overlaysync.units import PAGE_UNITS

_CACHED_PAGES = 64


@dataclass(frozen=True, slots=True)
class SlotRun:
    """Consecutive slots of one page.

    Attributes:
        first: the first slot.
        units: unit number of each, rising; shape (count,), int64.
        digests: digest of each; shape (count, 32).
    """

    first: int
    units: NDArray[np.int64]
    digests: Digests


class DataMap:
    """Numbers the DATA units of ``pages``; page bodies come from ``load``. Several threads may use it.

    A list may name one page at any number of places, which costs its sender nothing. So each distinct page
    is loaded and looked at once, here; its places only count.

    Args:
        progress: is called for each distinct page, with 0; may end the work with an exception.
    """

    def __init__(
        self, pages: PageList, load: LoadPage, *, progress: Callable[[int], None] | None = None
    ) -> None:
        self.pages = pages
        self._load = load
        self._cache: OrderedDict[int, tuple[NDArray[np.int64], Digests]] = OrderedDict()
        self._lock = threading.Lock()
        self._indices = np.array(pages.indices, dtype=np.int64)
        self._sorts = _sorts_of(pages)
        firsts = np.unique(self._sorts, return_index=True)[1]
        self._kinds: list[bytes] = []
        counts = np.zeros(len(firsts), dtype=np.int64)
        known: dict[bytes, bytes] = {}
        for sort, at in enumerate(firsts.tolist()):
            if progress:
                progress(0)
            kinds = kinds_of(pages.load(pages.indices[at], load))
            counts[sort] = np.count_nonzero(kinds == Kind.DATA)
            packed = _packed(kinds)
            self._kinds.append(known.setdefault(packed, packed))
        self._starts = array("q", bytes(8) + np.cumsum(counts[self._sorts]).tobytes())
        self.count = self._starts[-1]
        short = pages.unit - pages.unit_length(self._last_unit()) if self.count else 0
        self.size = self.count * pages.unit - short
        """Bytes of all DATA units together."""

    def _last_unit(self) -> int:
        """Return the number of the last DATA unit, when there is one."""
        at = bisect_left(self._starts, self.count) - 1
        return self.pages.indices[at] * PAGE_UNITS + int(np.flatnonzero(self._kinds_at(at) == Kind.DATA)[-1])

    def _kinds_at(self, at: int) -> Kinds:
        """Return the kinds of the units of the ``at``-th page present."""
        length = page_length(self.pages.unit_count, self.pages.indices[at])
        return _unpacked(self._kinds[self._sorts[at]], length)

    def kind_pages(self) -> Iterator[tuple[int, Kinds]]:
        """(page number, kinds) of every page present; all other units are ``pages.blank``."""
        for at, index in enumerate(self.pages.indices):
            yield index, self._kinds_at(at)

    def kind_groups(self) -> Iterator[tuple[NDArray[np.int64], Kinds]]:
        """Yield the same, each distinct page once: (rising numbers of the places where it is, kinds)."""
        order = np.argsort(self._sorts, kind="stable")
        ends = np.cumsum(np.bincount(self._sorts, minlength=len(self._kinds)))
        first = 0
        for end in ends.tolist():
            places = order[first:end]
            yield self._indices[places], self._kinds_at(int(places[0]))
            first = end

    def span(self, first: int, count: int) -> int:
        """Bytes in the slots ``first`` .. ``first + count - 1``."""
        full = count * self.pages.unit
        last = count and first + count == self.count
        return full - (self.count * self.pages.unit - self.size) if last else full

    def runs(self, first: int, count: int, *, pages: Container[int] | None = None) -> Iterator[SlotRun]:
        """Yield the slots ``first`` ..

        ``first + count - 1`` page by page; only those of ``pages``, if given.
        """
        end = first + count
        if not 0 <= first <= end <= self.count:
            raise IndexError(f"slots {first}..{end} of {self.count}")
        while first < end:
            at = bisect_right(self._starts, first) - 1
            if pages is not None and self.pages.indices[at] not in pages:
                first = self._starts[at + 1]
                continue
            data, digests = self._data(at)
            low = first - self._starts[at]
            high = min(end - self._starts[at], len(data))
            units = self.pages.indices[at] * PAGE_UNITS + data[low:high]
            yield SlotRun(first, units, digests[low:high])
            first += high - low

    def _data(self, at: int) -> tuple[NDArray[np.int64], Digests]:
        """Numbers within it and digests of the DATA units of the ``at``-th page present."""
        sort = int(self._sorts[at])
        with self._lock:
            if sort in self._cache:
                self._cache.move_to_end(sort)
                return self._cache[sort]
        digests = self.pages.load(self.pages.indices[at], self._load)
        data = np.flatnonzero(kinds_of(digests) == Kind.DATA)
        result = (data, digests[data])
        with self._lock:
            self._cache[sort] = result
            if len(self._cache) > _CACHED_PAGES:
                self._cache.popitem(last=False)
        return result


def _sorts_of(pages: PageList) -> NDArray[np.int64]:
    """Return a number for each distinct page, by place.

    The end of the list is like no other: it may be shorter.
    """
    numbers: dict[bytes, int] = {}
    found = (numbers.setdefault(digest, len(numbers)) for digest in pages.digests)
    sorts = np.fromiter(found, dtype=np.int64, count=len(pages.digests))
    if pages.indices and pages.indices[-1] == (pages.unit_count - 1) // PAGE_UNITS:
        sorts[-1] = len(set(pages.digests[:-1]))
    return sorts


def _packed(kinds: Kinds) -> bytes:
    """Kinds at four in a byte."""
    return np.packbits(np.unpackbits(kinds[:, None], axis=1)[:, 6:]).tobytes()


def _unpacked(packed: bytes, length: int) -> Kinds:
    bits = np.unpackbits(np.frombuffer(packed, dtype=np.uint8), count=2 * length)
    kinds: Kinds = 2 * bits[::2] + bits[1::2]
    return kinds
