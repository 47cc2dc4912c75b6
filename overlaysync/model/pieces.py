"""Pieces: the unit in which fetching nodes say what they have; some consecutive slots of a data map.

Both ends derive the same pieces from the same data map: 256 KiB of data each, twice that (and so on) where
there would be more than 65,536, so that a map of pieces never has more than 8 KiB. The last may be shorter.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overlaysync.model.have import HaveMap
from overlaysync.units import KIB, ceil_div

PIECE = 256 * KIB
"""Bytes of a piece, where there are not too many of them."""

MAX_PIECES = 1 << 16

MOST_COPIES = 9
"""Copies of a piece that are told apart where a transfer is drawn."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """How slots fall into pieces.

    Attributes:
        slot_count: slots there are.
        slots: slots of a piece.
    """

    slot_count: int
    slots: int

    @classmethod
    def of(cls, slot_count: int, unit: int) -> Pieces:
        """Return the pieces of ``slot_count`` slots of ``unit`` bytes."""
        slots = max(1, PIECE // unit)
        while slot_count > slots * MAX_PIECES:
            slots *= 2
        return cls(slot_count, slots)

    @property
    def count(self) -> int:
        return ceil_div(self.slot_count, self.slots)

    def span(self, piece: int) -> tuple[int, int]:
        """(first slot, count) of a piece."""
        first = piece * self.slots
        return first, min(self.slots, self.slot_count - first)

    def touched(self, runs: Iterable[tuple[int, int]]) -> list[int]:
        """Return the pieces that (first slot, count) runs reach into, each once, rising."""
        touched = {
            piece
            for first, count in runs
            for piece in range(first // self.slots, ceil_div(first + count, self.slots))
        }
        return sorted(touched)


class PieceLog:
    """The pieces a node holds, in the order in which they became whole.

    A place in that order is a *cursor*: who has read up to it asks for what came later.

    Args:
        count: pieces there are.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.held = HaveMap(count)
        self._order: list[int] = []

    @property
    def cursor(self) -> int:
        """Where the next piece will stand."""
        return len(self._order)

    def add(self, piece: int) -> None:
        """Hold ``piece``; one that is held already stays where it is."""
        if piece not in self.held:
            self.held.add(piece)
            self._order.append(piece)

    def since(self, cursor: int) -> list[int]:
        """Return what came at ``cursor`` and later."""
        return self._order[cursor:]


def cells_of(counts: NDArray[Any], count: int, *, most: int) -> str:
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
        return "".join(map(str, np.minimum(least, MOST_COPIES).tolist()))
    there = np.add.reduceat((counts > 0).astype(np.int64), starts)
    sizes = np.diff(np.append(starts, len(counts)))
    return "".join(map(str, (there * MOST_COPIES // sizes).tolist()))
