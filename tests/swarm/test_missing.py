"""What is wanted, against plain sets of slots and pieces."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlaysync.model.pieces import Pieces
from overlaysync.swarm.missing import MissingPieces, join, without

COUNT = 50
SLOTS = 4
RUNS = st.lists(st.tuples(st.integers(0, COUNT - 1), st.integers(1, 12)), max_size=8).map(
    lambda runs: [(first, min(count, COUNT - first)) for first, count in runs]
)


def wanted_of(missing: list[tuple[int, int]], count: int = COUNT) -> MissingPieces:
    return MissingPieces(missing, Pieces(count, SLOTS), np.random.default_rng(1))


def slots_of(runs: list[tuple[int, int]]) -> set[int]:
    return {slot for first, count in runs for slot in range(first, first + count)}


@given(RUNS, st.lists(RUNS, max_size=5))
@pytest.mark.slow
def test_like_a_set_of_slots(missing: list[tuple[int, int]], arrivals: list[list[tuple[int, int]]]) -> None:
    wanted, model = wanted_of(missing), slots_of(missing)
    for runs in arrivals:
        before = {slot // SLOTS for slot in model}
        touched = sorted({slot // SLOTS for slot in slots_of(runs)})
        assert wanted.asks_nothing(tuple(runs)) == model.isdisjoint(slots_of(runs))
        model -= slots_of(runs)
        assert wanted.came(runs, touched) == sorted(before - {slot // SLOTS for slot in model})
        assert wanted.left == len(model)
        assert set(np.flatnonzero(wanted.open)) == {slot // SLOTS for slot in model}
        for piece in range(13):
            of_it = {slot for slot in model if slot // SLOTS == piece}
            assert slots_of(wanted.runs_of(piece, SLOTS, 9)) == of_it


def test_the_runs_of_a_piece_are_bounded() -> None:
    wanted = wanted_of([(0, 1), (2, 2), (4, 4)])
    assert wanted.runs_of(0, 4, 4) == [(0, 1), (2, 2)]
    assert wanted.runs_of(0, 2, 4) == [(0, 1), (2, 1)]
    assert wanted.runs_of(0, 4, 1) == [(0, 1)]
    assert wanted.runs_of(1, 3, 4) == [(4, 3)]
    assert wanted.runs_of(2, 4, 4) == []
    assert wanted_of([(48, 2)]).runs_of(12, 9, 4) == [(48, 2)]


def test_free_and_fresh() -> None:
    wanted = wanted_of([(0, 16)])
    wanted.flying[1] = 1
    wanted.copies[2] = 3
    held = np.zeros(13, dtype=np.bool_)
    held[[1, 2, 9]] = True
    assert np.flatnonzero(wanted.free(None)).tolist() == [0, 2, 3]
    assert np.flatnonzero(wanted.free(held)).tolist() == [2]
    assert np.flatnonzero(wanted.fresh()).tolist() == [0, 1, 3]


@given(st.lists(st.integers(0, 5), min_size=13, max_size=13), st.sets(st.integers(0, 12)), st.integers(1, 15))
@pytest.mark.slow
def test_the_rarest(copies: list[int], pieces: set[int], most: int) -> None:
    wanted = wanted_of([(0, COUNT)])
    wanted.copies[:] = copies
    mask = np.zeros(13, dtype=np.bool_)
    mask[list(pieces)] = True
    chosen = wanted.rarest(mask, most).tolist()
    assert set(chosen) <= pieces and len(set(chosen)) == len(chosen) <= most
    assert [copies[piece] for piece in chosen] == sorted(copies[piece] for piece in chosen)
    rest = pieces - set(chosen)
    assert all(copies[piece] >= copies[chosen[-1]] for piece in rest) if chosen else not pieces
    if most >= len(pieces):
        assert not rest


def test_equals_are_chosen_at_random() -> None:
    mask = np.ones(1000, dtype=np.bool_)
    wanted = wanted_of([(0, 4000)], 4000)
    assert len({wanted.rarest(mask, 1).item() for _ in range(100)}) > 80
    assert len(wanted.rarest(mask, 64)) > 50


def test_joined_runs() -> None:
    assert join([]) == ()
    assert join([(0, 2), (2, 1), (4, 1), (5, 3)]) == ((0, 3), (4, 4))


@given(RUNS, RUNS)
@pytest.mark.slow
def test_runs_without_others(runs: list[tuple[int, int]], others: list[tuple[int, int]]) -> None:
    rest = without(runs, sorted(others))
    assert slots_of(rest) == slots_of(runs) - slots_of(others)
    assert all(count > 0 for _, count in rest)


@pytest.mark.parametrize("count", [0, 1, 4, 5])
def test_small_ones(count: int) -> None:
    wanted = wanted_of([(0, count)], count)
    assert wanted.left == count and len(wanted.open) == -(-count // SLOTS) and wanted.open.all()
