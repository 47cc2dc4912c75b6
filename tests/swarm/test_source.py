"""One source: its pace, and what failures cost it."""

from __future__ import annotations

import numpy as np
import pytest

from overlaysync.swarm.schedule import PER_SOURCE
from overlaysync.swarm.source import (
    _BACKOFF_S,
    _LONGEST_BACKOFF_S,
    _PATIENCE_S,
    _REFUSALS,
    _STRIKES,
    Failure,
    Pace,
    Source,
)

FAR = 1e6


def strike(source: Source, times: int, failure: Failure = Failure.LOST, *, now: float = FAR) -> float:
    """So many failures, each as soon as it may be asked again."""
    for _ in range(times):
        now = max(now, source.retry_at)
        source.bad(failure, now)
    return now


# -- pace --------------------------------------------------------------------------------------------


def test_a_pace_is_unknown_and_then_bytes_by_seconds() -> None:
    pace = Pace()
    assert pace.rate == 0
    pace.begin(10.0)
    pace.add(100, 12.0)
    assert pace.rate == pytest.approx(50)
    pace.add(100, 14.0)
    assert pace.rate == pytest.approx(50)


def test_idle_time_is_no_slowness() -> None:
    pace = Pace()
    pace.begin(0.0)
    pace.add(100, 1.0)
    pace.begin(500.0)
    pace.add(100, 501.0)
    assert pace.rate == pytest.approx(100)


def test_the_latest_counts_most() -> None:
    pace = Pace()
    pace.begin(0.0)
    for second in range(20):
        pace.add(1000, second + 1.0)
    for second in range(20, 40):
        pace.add(10, second + 1.0)
    assert 10 < pace.rate < 100


def test_no_time_at_all_divides_nothing_by_zero() -> None:
    pace = Pace()
    pace.begin(5.0)
    pace.add(1, 5.0)
    assert pace.rate > 0


# -- what it has -------------------------------------------------------------------------------------


def test_a_seed_is_whole_and_so_is_who_has_got_everything() -> None:
    some = np.array([True, False])
    assert Source().seed
    assert not Source(some).seed
    assert not Source(some | True).seed


# -- failures ----------------------------------------------------------------------------------------


def test_each_success_allows_one_more() -> None:
    source = Source()
    for depth in range(1, 4):
        assert source.depth == depth
        source.good()


@pytest.mark.parametrize("failure", [Failure.WRONG, Failure.GONE])
def test_some_failures_are_final(failure: Failure) -> None:
    source = Source()
    source.bad(failure, FAR)
    assert source.dropped is failure


def test_waits_grow_to_the_longest() -> None:
    source, waits, now = Source(), [], FAR
    while not source.dropped:
        source.bad(Failure.LOST, now)
        waits.append(source.retry_at - now)
        now = source.retry_at
    assert waits == [min(_LONGEST_BACKOFF_S, _BACKOFF_S * 2**strikes) for strikes in range(1, _STRIKES + 1)]
    assert source.dropped is Failure.LOST


def test_what_dies_together_is_one_strike() -> None:
    source = Source()
    for _ in range(3 * _STRIKES):
        source.bad(Failure.LOST, FAR)
    assert (source.strikes, source.dropped) == (1, None)


def test_a_success_wipes_strikes_and_refusals_away() -> None:
    source = Source()
    now = strike(source, _STRIKES - 1)
    source.good()
    assert source.strikes == 0
    now = strike(source, _STRIKES - 1, now=now)
    assert source.dropped is None
    for _ in range(2):
        for refusal in range(_REFUSALS - 1):
            source.bad(Failure.BUSY, now + refusal)
        source.good()
    assert source.dropped is None


@pytest.mark.holds("N8")
@pytest.mark.red_without(
    "N8", "a silent source is given up as soon as one that refuses (a cable pulled for 7 s stays green)"
)
def test_a_silent_source_is_given_up_only_after_a_while() -> None:
    source = Source()
    now = strike(source, _STRIKES + 1, Failure.SILENT)
    assert now - FAR < _PATIENCE_S and source.dropped is None
    source.bad(Failure.SILENT, FAR + _PATIENCE_S)
    assert source.dropped is Failure.SILENT


def test_patience_is_counted_from_the_first_failure_since_it_was_good() -> None:
    source = Source()
    source.bad(Failure.SILENT, FAR)
    source.good()
    strike(source, _STRIKES, Failure.SILENT, now=FAR + 2 * _PATIENCE_S)
    assert source.dropped is None


def test_who_is_late_gets_nothing_for_a_moment_and_is_never_given_up_for_that() -> None:
    fresh, proven = Source(), Source(delivered=1)
    for source, wait_s in ((fresh, _LONGEST_BACKOFF_S), (proven, 2 * _BACKOFF_S)):
        for time in range(20):
            source.late(FAR + time)
            assert (source.strikes, source.dropped) == (1, None)
            assert source.retry_at == FAR + time + wait_s
        source.good()
        assert source.strikes == 0


def test_who_is_late_does_not_come_back_sooner_than_it_would_have() -> None:
    source = Source(delivered=1)
    now = strike(source, _STRIKES - 1)
    back = source.retry_at
    source.late(now)
    assert (source.strikes, source.retry_at) == (_STRIKES - 1, back)


def test_a_busy_source_says_when_and_is_believed_for_some_minutes() -> None:
    source = Source()
    now = FAR
    for _ in range(_REFUSALS - 1):
        for _ in range(PER_SOURCE):  # what is refused together counts once
            source.bad(Failure.BUSY, now, 3.0)
        now += 3.0
        assert (source.retry_at, source.strikes, source.dropped) == (now, 0, None)
    source.bad(Failure.BUSY, now, 3.0)
    assert source.dropped is Failure.BUSY


def test_a_piece_that_is_taken_is_no_strike_and_from_the_third_in_a_row_a_rest() -> None:
    source = Source()
    waits = []
    for turn in range(7):
        now = FAR + 10 * turn
        source.bad(Failure.TAKEN, now, 0.5)
        waits.append(max(0.0, source.retry_at - now))
        assert (source.strikes, source.dropped) == (0, None)
    assert waits == [0.0, 0.0, 0.5, 1.0, 2.0, 2.0, 2.0]
    source.good()
    source.bad(Failure.TAKEN, 2 * FAR)
    assert source.retry_at < 2 * FAR


def test_who_says_taken_for_ever_is_given_up_after_some_minutes() -> None:
    source, now = Source(), FAR
    for _ in range(_REFUSALS):
        assert source.dropped is None
        source.bad(Failure.TAKEN, now, 1.0)
        now = max(now, source.retry_at)
    assert source.dropped is Failure.TAKEN and now - FAR > 300
