"""Who owns which cluster of an image file: finds two owners of one cluster.

QEMU reads images whose tables point twice at one cluster; a small file can so claim petabytes of content, and
a write through one table damages another. One bit per cluster of those parts of the file that are used.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

_PAGE_BITS = 18
_PAGE_BYTES = (1 << _PAGE_BITS) // 8
_MAX_PAGES = 1024
"""Our limit: 32 MiB of bits, that is 16 TiB of file with 64 KiB clusters, 1 TiB with 4 KiB clusters."""


class TooScattered(Exception):
    """The clusters lie too far apart to be checked in bounded memory."""


class ClusterSet:
    """A set of cluster numbers (file offset divided by cluster size)."""

    def __init__(self) -> None:
        self._pages: dict[int, NDArray[np.uint8]] = {}

    def claim(self, clusters: NDArray[np.int64]) -> int | None:
        """Add ``clusters``; return one that was there already, or twice among them, if any.

        Raises:
            TooScattered: over our limit.
        """
        ordered = np.sort(clusters)
        twice = np.flatnonzero(ordered[1:] == ordered[:-1])
        if len(twice):
            return int(ordered[twice[0]])
        for number, places, bits in self._by_page(ordered):
            page = self._page(number)
            taken = np.flatnonzero(page[places] & bits)
            if len(taken):
                return self._cluster(
                    number, int(places[taken[0]]), int(page[places[taken[0]]] & bits[taken[0]])
                )
            np.bitwise_or.at(page, places, bits)
        return None

    def add(self, clusters: NDArray[np.int64]) -> None:
        """Add ``clusters``, whether new or not.

        Raises:
            TooScattered: over our limit.
        """
        for number, places, bits in self._by_page(np.unique(clusters)):
            np.bitwise_or.at(self._page(number), places, bits)

    def common(self, other: ClusterSet) -> int | None:
        """Return a cluster that is in both sets, if any."""
        for number in self._pages.keys() & other._pages.keys():
            both = self._pages[number] & other._pages[number]
            places = np.flatnonzero(both)
            if len(places):
                return self._cluster(number, int(places[0]), int(both[places[0]]))
        return None

    def _page(self, number: int) -> NDArray[np.uint8]:
        page = self._pages.get(number)
        if page is None:
            if len(self._pages) == _MAX_PAGES:
                raise TooScattered
            page = self._pages[number] = np.zeros(_PAGE_BYTES, dtype=np.uint8)
        return page

    @staticmethod
    def _by_page(ordered: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.uint8]]]:
        """(page number, byte in the page, bit in the byte) of rising cluster numbers."""
        pages = ordered >> _PAGE_BITS
        starts = [0, *(np.flatnonzero(pages[1:] != pages[:-1]) + 1).tolist(), len(ordered)]
        for start, stop in pairwise(starts):
            if start < stop:
                inside = ordered[start:stop] & ((1 << _PAGE_BITS) - 1)
                yield int(pages[start]), inside >> 3, np.left_shift(1, inside & 7).astype(np.uint8)

    @staticmethod
    def _cluster(page: int, place: int, bits: int) -> int:
        return (page << _PAGE_BITS) + place * 8 + (bits & -bits).bit_length() - 1
