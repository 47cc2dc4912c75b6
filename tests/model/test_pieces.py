"""Pieces: how slots fall into them, and the log of those that are held."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlaysync.model.pieces import MAX_PIECES, PIECE, PieceLog, Pieces
from overlaysync.units import GIB, KIB, TIB


@pytest.mark.parametrize(
    ("size", "unit", "slots", "count"),
    [
        (0, 64 * KIB, 4, 0),
        (64 * KIB, 64 * KIB, 4, 1),
        (GIB, 64 * KIB, 4, 4096),
        (GIB, 4 * KIB, 64, 4096),
        (16 * GIB, 64 * KIB, 4, MAX_PIECES),
        (16 * GIB + 64 * KIB, 64 * KIB, 8, MAX_PIECES // 2 + 1),
        (TIB, 64 * KIB, 256, MAX_PIECES),
        (4 * PIECE, 4 * PIECE, 1, 1),
    ],
)
def test_how_large_they_are(size: int, unit: int, slots: int, count: int) -> None:
    pieces = Pieces.of(size // unit, unit)
    assert (pieces.slots, pieces.count) == (slots, count)


@given(st.integers(0, 100), st.integers(1, 9))
def test_every_slot_is_in_one_piece(slot_count: int, slots: int) -> None:
    pieces = Pieces(slot_count, slots)
    spans = [pieces.span(piece) for piece in range(pieces.count)]
    assert [slot for first, count in spans for slot in range(first, first + count)] == [*range(slot_count)]
    assert all(0 < count <= slots for _, count in spans)


@given(st.lists(st.tuples(st.integers(0, 90), st.integers(1, 9)), max_size=5), st.integers(1, 9))
def test_touched(runs: list[tuple[int, int]], slots: int) -> None:
    pieces = Pieces(100, slots)
    model = {slot // slots for first, count in runs for slot in range(first, first + count)}
    assert pieces.touched(runs) == sorted(model)


def test_the_log_says_what_came_since() -> None:
    log = PieceLog(9)
    assert log.cursor == 0 and log.since(0) == []
    for piece in (4, 2, 4, 7, 2):
        log.add(piece)
    assert log.cursor == 3
    assert [log.since(cursor) for cursor in range(4)] == [[4, 2, 7], [2, 7], [7], []]
    assert log.since(99) == []
    assert 4 in log.held and 3 not in log.held and len(log.held) == 3
