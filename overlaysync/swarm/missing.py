"""What a download is still missing, slot by slot and piece by piece, and what is known of each piece.

Leaves out whom to ask: that is :mod:`.policy`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from overlaysync.model.pieces import Pieces

Run = tuple[int, int]
Runs = tuple[Run, ...]
PieceMask = NDArray[np.bool_]
PieceNumbers = NDArray[np.intp]


class MissingPieces:
    """The missing slots, by piece.

    Args:
        missing: (first, count) runs of slots.
        pieces: how slots fall into pieces.
        random: chooses among equals.

    Attributes:
        left: slots that are missing.
        open: pieces of which something is missing; shape (pieces,).
        flying: requests under way that ask for a piece; shape (pieces,).
        copies: sources that fetch and hold a piece; shape (pieces,).
    """

    def __init__(self, missing: Iterable[Run], pieces: Pieces, random: np.random.Generator) -> None:
        self._pieces = pieces
        self._missing = np.zeros(pieces.slot_count, dtype=np.bool_)
        for first, count in missing:
            self._missing[first : first + count] = True
        self.left = int(np.count_nonzero(self._missing))
        starts = np.arange(0, pieces.slot_count, pieces.slots)
        self.open: PieceMask = (
            np.logical_or.reduceat(self._missing, starts) if len(starts) else np.zeros(0, dtype=np.bool_)
        )
        self.flying = np.zeros(pieces.count, dtype=np.int16)
        self.copies = np.zeros(pieces.count, dtype=np.int16)
        self._random = random

    # -- what is asked for, and comes ------------------------------------------------------------------

    def asks_nothing(self, runs: Runs) -> bool:
        """Whether none of these slots is missing any more."""
        return not any(self._missing[first : first + count].any() for first, count in runs)

    def came(self, runs: Iterable[Run], touched: Sequence[int]) -> list[int]:
        """Return these slots are here; returns which of the pieces they touch are whole by that."""
        for first, count in runs:
            self.left -= int(np.count_nonzero(self._missing[first : first + count]))
            self._missing[first : first + count] = False
        whole = []
        for piece in touched:
            first, count = self._pieces.span(piece)
            if self.open[piece] and not self._missing[first : first + count].any():
                self.open[piece] = False
                whole.append(piece)
        return whole

    def runs_of(self, piece: int, room: int, most: int) -> list[Run]:
        """Return what is missing of a piece, at most ``room`` slots in at most ``most`` runs."""
        first, count = self._pieces.span(piece)
        missing = self._missing[first : first + count]
        if missing.all():
            return [(first, min(count, room))]
        edges = np.flatnonzero(np.diff(missing.view(np.int8), prepend=np.int8(0), append=np.int8(0)))
        runs: list[Run] = []
        for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            if room <= 0 or len(runs) == most:
                break
            runs.append((first + start, min(end - start, room)))
            room -= end - start
        return runs

    def cut(self, pieces: Iterable[int], room: int, most: int) -> tuple[tuple[int, ...], Runs]:
        """Return as many of these as fill ``room`` slots in ``most`` runs, and what is missing of them."""
        asked: list[int] = []
        runs: list[Run] = []
        for piece in pieces:
            found = self.runs_of(piece, room, most - len(runs))
            asked.append(piece)
            runs += found
            room -= sum(count for _, count in found)
            if room <= 0 or len(runs) >= most:
                break
        return tuple(asked), join(sorted(runs))

    # -- which pieces ------------------------------------------------------------------------------------

    def free(self, held: PieceMask | None) -> PieceMask:
        """Those of ``held`` (None: of all) that are wanted and not under way."""
        free: PieceMask = self.open & (self.flying == 0)
        return free if held is None else free & held

    def fresh(self) -> PieceMask:
        """Those wanted that no source has but the complete ones."""
        fresh: PieceMask = self.open & (self.copies == 0)
        return fresh

    def rarest(self, mask: PieceMask, most: int) -> PieceNumbers:
        """At most ``most`` of these, those that the fewest have first, at random among equals."""
        pieces = np.flatnonzero(mask)
        if not len(pieces):
            return pieces
        copies = self.copies[pieces]
        up_to = np.cumsum(np.bincount(copies))
        level = int(np.searchsorted(up_to, min(most, len(pieces))))
        rarer = pieces[copies < level]
        rarer = rarer[np.argsort(self.copies[rarer] + self._random.random(len(rarer)))]
        return np.concatenate((rarer, self._some(pieces[copies == level], most - len(rarer))))

    def _some(self, pieces: PieceNumbers, most: int) -> PieceNumbers:
        """At most ``most`` of these at random: without shuffling many for a few."""
        if len(pieces) <= 4 * most:
            return self._random.permutation(pieces)[:most]
        chosen = dict.fromkeys(self._random.integers(len(pieces), size=most).tolist())
        return pieces[list(chosen)]


def join(runs: Iterable[Run]) -> Runs:
    """Rising runs, neighbours made one."""
    joined: list[Run] = []
    for first, count in runs:
        if joined and sum(joined[-1]) == first:
            joined[-1] = joined[-1][0], joined[-1][1] + count
        else:
            joined.append((first, count))
    return tuple(joined)


def without(runs: Iterable[Run], others: Iterable[Run]) -> list[Run]:
    """Return ``runs`` without the slots of ``others``; both rise."""
    rest: list[Run] = []
    holes = list(others)
    for first, count in runs:
        end = first + count
        for hole, length in holes:
            if hole >= end or hole + length <= first:
                continue
            if hole > first:
                rest.append((first, hole - first))
            first = max(first, hole + length)
        if first < end:
            rest.append((first, end - first))
    return rest
