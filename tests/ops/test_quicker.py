"""Which of two ways is taken: each is tried, then the one that takes less processor time for a byte."""

from __future__ import annotations

import time

import pytest

from overlaysync.ops.quicker import Quicker


def _burn(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


@pytest.mark.parametrize("quick", [False, True])
def test_both_ways_are_tried_and_the_quicker_is_kept(quick: bool) -> None:
    quicker = Quicker(time.thread_time)
    taken = []
    for _ in range(20):
        way = quicker.way()
        taken.append(way)
        with quicker.timed(way, 1000):
            _burn(0.0001 if way == quick else 0.003)
    assert taken[:8].count(True) == 4
    assert set(taken[8:]) == {quick}


def test_time_counts_for_each_byte_and_only_that_of_the_processor() -> None:
    quicker = Quicker(time.thread_time)
    for _ in range(4):
        with quicker.timed(True, 100):
            _burn(0.002)
        with quicker.timed(False, 1):
            _burn(0.001)
    assert quicker.way()
