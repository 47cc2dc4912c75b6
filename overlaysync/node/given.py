"""What a share has given of one image: how many bytes, and how often each piece."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overlaysync.model.pieces import Pieces

_MOST = 9


class GivenData:
    """What was given of one image since it is shared.

    Args:
        pieces: of the image.

    Attributes:
        size: bytes sent.
    """

    def __init__(self, pieces: Pieces) -> None:
        self.size = 0
        self._pieces = pieces
        self._counts = np.zeros(max(1, pieces.count), dtype=np.uint16)

    def add(self, runs: Iterable[tuple[int, int]], size: int) -> None:
        """Note that the slots of these (first, count) runs were sent, as ``size`` bytes."""
        self.size += size
        touched = self._pieces.touched(runs)
        self._counts[touched] = np.minimum(self._counts[touched], _MOST) + 1

    def cells(self, count: int, *, most: int) -> str:
        """Return a digit for each of ``count`` equal parts, at most: see :func:`cells_of`."""
        return cells_of(self._counts, count, most=most)


def cells_of(counts: NDArray[np.integer[Any]], count: int, *, most: int) -> str:
    """Return a digit for each of ``count`` equal parts of an array, at most.

    Args:
        counts: how often there is each piece.
        count: parts.
        most: with 1 a digit says how much of its part there is (9: all); above 1 the least count, up to 9.
    """
    parts = min(count, len(counts))
    starts = np.arange(parts) * len(counts) // parts
    if most > 1:
        least = np.minimum.reduceat(counts, starts)
        return "".join(map(str, np.minimum(least, _MOST).tolist()))
    there = np.add.reduceat((counts > 0).astype(np.int64), starts)
    sizes = np.diff(np.append(starts, len(counts)))
    return "".join(map(str, (there * _MOST // sizes).tolist()))
