"""When compressed data are asked for: below a rate, above a higher one no longer, and only by what came."""

from __future__ import annotations

import pytest

from overlaysync.swarm.link import FAST, MEMORY_S, SLOW, STEP_S, Compression, Link

MBIT_100 = 12_500_000.0
LOOPBACK = 1_000_000_000.0
PIECE = 64 * 1024


def carry(link: Link, rate: float, *, seconds: float, begin: float = 0.0) -> float:
    """One body at this rate; returns when it ended."""
    now = begin
    link.began(now)
    while now < begin + seconds:
        now += PIECE / rate
        link.received(PIECE, now)
    link.ended(now)
    return now


def test_nothing_is_known_at_first() -> None:
    link = Link()
    assert not link.compress
    assert link.rate == 0


def test_a_slow_link_is_known_within_a_megabyte() -> None:
    link = Link()
    carry(link, MBIT_100, seconds=0.08)
    assert link.compress
    assert link.rate == pytest.approx(MBIT_100)


def test_a_fast_link_is_never_taken_for_a_slow_one() -> None:
    link = Link()
    now = 0.0
    for _ in range(100):
        now = carry(link, LOOPBACK, seconds=0.01, begin=now)
        assert not link.compress


def test_a_short_pause_of_a_fast_link_says_nothing() -> None:
    link = Link()
    link.began(0.0)
    link.received(4 << 20, 0.8 * STEP_S)
    link.received(4 << 20, 1.2 * STEP_S)
    assert not link.compress


def test_the_time_between_bodies_does_not_count() -> None:
    """A server that takes a second for each body is not a slow link."""
    link = Link()
    now = 0.0
    for _ in range(50):
        now = carry(link, LOOPBACK, seconds=0.004, begin=now + 1.0)
    assert link.rate == pytest.approx(LOOPBACK)
    assert not link.compress


def test_bodies_at_once_count_together() -> None:
    """Six connections share a link of 90 MB/s: each is slow, the link is not."""
    link = Link()
    now = 0.0
    for _ in range(6):
        link.began(now)
    for _ in range(1000):
        now += PIECE / 90e6
        link.received(PIECE, now)
    assert link.rate == pytest.approx(90e6)
    assert not link.compress


def test_between_the_limits_it_stays_as_it_is() -> None:
    between = (SLOW + FAST) / 2
    slow, fast = Link(), Link()
    now = carry(slow, SLOW / 2, seconds=1)
    carry(slow, between, seconds=10, begin=now)
    now = carry(fast, 2 * FAST, seconds=1)
    carry(fast, between, seconds=10, begin=now)
    assert (slow.compress, fast.compress) == (True, False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after", "compress"), [(MBIT_100, LOOPBACK, False), (LOOPBACK, 1e6, True)]
)
def test_a_link_that_changes_is_noticed_in_seconds(before: float, after: float, compress: bool) -> None:
    link = Link()
    now = carry(link, before, seconds=100)
    assert link.compress is not compress
    carry(link, after, seconds=5 * MEMORY_S, begin=now)
    assert link.compress is compress


@pytest.mark.parametrize("compression", [Compression.NEVER, Compression.ALWAYS])
def test_the_user_has_the_last_word(compression: Compression) -> None:
    link = Link(compression)
    for rate in (MBIT_100, LOOPBACK):
        assert link.compress is (compression is Compression.ALWAYS)
        carry(link, rate, seconds=3, begin=10.0)
    assert link.compress is (compression is Compression.ALWAYS)
