"""Have maps against a plain set of numbers."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlaysync.errors import DecodeError
from overlaysync.model.have import HaveMap
from tests import reference

COUNTS = st.integers(0, 70)
ADDED = st.lists(st.tuples(st.integers(0, 69), st.integers(0, 40)), max_size=12)


def held(have: HaveMap) -> set[int]:
    return {slot for slot in range(have.count) if slot in have}


@given(COUNTS, ADDED, st.integers(1, 9))
def test_like_a_set(count: int, added: list[tuple[int, int]], limit: int) -> None:
    have, model = HaveMap(count), set[int]()
    for first, length in added:
        first = min(first, count)
        length = min(length, count - first)
        have.add(first, length)
        model |= set(range(first, first + length))
    everything = set(range(count))
    assert held(have) == model
    assert len(have) == len(model)
    assert have.complete() == (model == everything)
    assert held(have.missing()) == everything - model
    runs = [*have.runs(limit)]
    assert [slot for first, length in runs for slot in range(first, first + length)] == sorted(model)
    assert all(0 < length <= limit for _, length in runs)
    gaps = [*have.gaps(count // 3, count // 2, limit)]
    inside = range(count // 3, count // 3 + count // 2)
    assert [slot for first, length in gaps for slot in range(first, first + length)] == [
        slot for slot in inside if slot not in model
    ]
    assert all(0 < length <= limit for _, length in gaps)
    longest = [*have.runs(1 << 30)]
    assert all(one[0] + one[1] < other[0] for one, other in pairwise(longest))
    assert have.to_bytes() == reference.have_map(model, count)
    assert held(HaveMap.from_bytes(have.to_bytes(), count)) == model


@given(st.binary(max_size=10), COUNTS)
def test_any_bytes_are_a_map_or_an_error(data: bytes, count: int) -> None:
    try:
        have = HaveMap.from_bytes(data, count)
    except DecodeError:
        assert len(data) != (count + 7) // 8 or int.from_bytes(data, "big") % (1 << (-count % 8))
    else:
        assert have.count == count
        assert have.to_bytes() == data


def test_full() -> None:
    have = HaveMap(9)
    have.add(0, 9)
    assert have.complete() and [*have.runs(4)] == [(0, 4), (4, 4), (8, 1)]
    assert have.to_bytes() == b"\xff\x80"


def test_a_claimed_size_costs_nothing() -> None:
    with pytest.raises(DecodeError):
        HaveMap.from_bytes(b"\0", 1 << 60)


def test_listing_runs_takes_a_few_bytes_a_slot() -> None:
    count = 1 << 20
    have = HaveMap(count)
    have.add(0, count)
    tracemalloc.start()
    try:
        assert [*have.runs(1 << 30)] == [(0, count)]
        assert tracemalloc.get_traced_memory()[1] < 4 * count
    finally:
        tracemalloc.stop()
