"""What a share has given of one image: how many bytes, and how often each piece."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from overlaysync.model.pieces import MOST_COPIES, Pieces, cells_of


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
        self._counts[touched] = np.minimum(self._counts[touched], MOST_COPIES) + 1

    def cells(self, count: int, *, most: int) -> str:
        """Return a digit for each of ``count`` equal parts, at most: see :func:`cells_of`."""
        return cells_of(self._counts, count, most=most)
