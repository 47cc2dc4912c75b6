"""The data map: every DATA unit of a page list, numbered 0.. in guest order.

The number is the unit's *slot*. Transfers, have maps and journals speak of slots, so a run of slots is all
data and its length in bytes is known. Both ends derive the same map from the same page list. Held in memory:
one number per page present; page bodies are loaded when asked for.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from overlaysync.model.digest import Digests, Kind, Kinds, kinds_of
from overlaysync.model.pages import LoadPage, PageList
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
    """Numbers the DATA units of ``pages``; page bodies come from ``load``. Several threads may use it."""

    def __init__(self, pages: PageList, load: LoadPage) -> None:
        self.pages = pages
        self._load = load
        self._cache: OrderedDict[int, tuple[NDArray[np.int64], Digests]] = OrderedDict()
        self._lock = threading.Lock()
        starts = [0]
        last_unit = -1
        for index in pages.indices:
            units = index * PAGE_UNITS + np.flatnonzero(self.kinds(index) == Kind.DATA)
            starts.append(starts[-1] + len(units))
            if len(units):
                last_unit = int(units[-1])
        self._starts = starts
        short = pages.unit - pages.unit_length(last_unit) if last_unit >= 0 else 0
        self.count = starts[-1]
        self.size = self.count * pages.unit - short
        """Bytes of all DATA units together."""

    def kinds(self, index: int) -> Kinds:
        """The kinds of the units of page ``index``."""
        return kinds_of(self.pages.load(index, self._load))

    def kind_pages(self) -> Iterator[tuple[int, Kinds]]:
        """(page number, kinds) of every page present; all other units are ``pages.blank``."""
        for index in self.pages.indices:
            yield index, self.kinds(index)

    def span(self, first: int, count: int) -> int:
        """Bytes in the slots ``first`` .. ``first + count - 1``."""
        full = count * self.pages.unit
        last = count and first + count == self.count
        return full - (self.count * self.pages.unit - self.size) if last else full

    def runs(self, first: int, count: int) -> Iterator[SlotRun]:
        """The slots ``first`` .. ``first + count - 1`` page by page."""
        end = first + count
        if not 0 <= first <= end <= self.count:
            raise IndexError(f"slots {first}..{end} of {self.count}")
        while first < end:
            at = bisect_right(self._starts, first) - 1
            units, digests = self._data(at)
            low = first - self._starts[at]
            high = min(end - self._starts[at], len(units))
            yield SlotRun(first, units[low:high], digests[low:high])
            first += high - low

    def _data(self, at: int) -> tuple[NDArray[np.int64], Digests]:
        """Unit numbers and digests of the DATA units of the ``at``-th page present."""
        with self._lock:
            if at in self._cache:
                self._cache.move_to_end(at)
                return self._cache[at]
        index = self.pages.indices[at]
        digests = self.pages.load(index, self._load)
        data = np.flatnonzero(kinds_of(digests) == Kind.DATA)
        result = (index * PAGE_UNITS + data, digests[data])
        with self._lock:
            self._cache[at] = result
            if len(self._cache) > _CACHED_PAGES:
                self._cache.popitem(last=False)
        return result
