"""What a seed has handed out: who is refused, who is told, and that nobody keeps a piece from the others."""

from __future__ import annotations

from itertools import pairwise

import pytest

from overlaysync.swarm.handed import (
    DELIVERED_S,
    DISTRUST_S,
    LINE_S,
    MAX_CLAIMED,
    NEWS_S,
    SERIES_GAP_S,
    SERIES_S,
    SERVICE_S,
    Claim,
    Handed,
    patience,
)

MOMENT = 0.01


def claim(handed: Handed, *pieces: int, by: str = "a", now: float = 0.0, crowd: int = 1000) -> Claim:
    """A claim of a member at a host of its own."""
    return handed.claim(pieces, by, f"host of {by}", now, crowd=crowd)


def holds_until(handed: Handed, piece: int, *, by: str = "b", since: float = 0.0) -> float:
    """When somebody else would get a piece."""
    now = since
    while handed.taken([piece], by, now):
        now += MOMENT
    return now - since


# -- who is refused ----------------------------------------------------------------------------------


def test_what_is_claimed_is_taken_for_all_but_the_claimant() -> None:
    handed = Handed()
    claim(handed, 3, 4)
    assert handed.taken([2, 3, 4, 5], "b", 1.0) == [3, 4]
    assert handed.taken([2, 3, 4, 5], "a", 1.0) == []


def test_a_claim_holds_in_the_line_in_service_and_after_delivery() -> None:
    handed = Handed()
    mine = claim(handed, 3)
    assert holds_until(handed, 3) == pytest.approx(LINE_S, abs=2 * MOMENT)
    handed.sending(mine, 2.0)
    assert holds_until(handed, 3, since=2.0) == pytest.approx(SERVICE_S, abs=2 * MOMENT)
    handed.delivered(mine, 3.0)
    assert holds_until(handed, 3, since=3.0) == pytest.approx(DELIVERED_S, abs=2 * MOMENT)


def test_a_claim_ends_with_its_connection() -> None:
    handed = Handed()
    handed.dropped(claim(handed, 3), 1.0)
    assert handed.taken([3], "b", 1.0) == []
    handed.refused(claim(handed, 4, by="c"))
    assert handed.taken([4], "b", 1.0) == []


def test_the_end_of_an_older_claim_leaves_the_newer_one() -> None:
    handed = Handed()
    first = claim(handed, 3)
    claim(handed, 3, now=LINE_S, by="b")
    handed.dropped(first, LINE_S)
    assert handed.taken([3], "c", LINE_S) == [3]


@pytest.mark.parametrize(
    ("crowd", "part"), [(1, 0.15), (8, 0.15), (30, 0.15), (50, 0.25), (100, 1), (1024, 1)]
)
def test_in_a_small_room_a_claim_holds_for_a_moment_after_the_delivery(crowd: int, part: float) -> None:
    assert patience(crowd) == pytest.approx(part)
    handed = Handed()
    mine = claim(handed, 3, crowd=crowd)
    handed.sending(mine, 0.0)
    assert holds_until(handed, 3) == pytest.approx(SERVICE_S, abs=2 * MOMENT)
    handed.delivered(mine, 100.0)
    assert holds_until(handed, 3, since=100.0) == pytest.approx(part * DELIVERED_S, abs=2 * MOMENT)


def test_who_takes_its_time_in_a_small_room_still_claims() -> None:
    handed = Handed()
    handed.sending(claim(handed, 3, crowd=8), 0.0)
    assert claim(handed, 4, now=SERVICE_S - MOMENT, crowd=8).pieces == (4,)
    assert claim(handed, 5, now=SERVICE_S, crowd=8).pieces == ()


# -- who is told -------------------------------------------------------------------------------------


def test_others_are_told_what_was_handed_out_since_they_were_told() -> None:
    handed = Handed()
    assert handed.news(0, "b", 0.0, most=9).cursor > 0, "no cursor looks like that of somebody new"
    claim(handed, 3, 1)
    first = handed.news(0, "b", 1.0, most=9)
    assert first.pieces == (3, 1)
    assert handed.news(first.cursor, "b", 1.0, most=9) == handed.news(first.cursor, "c", 1.0, most=9)
    claim(handed, 7, by="c", now=1.0)
    claim(handed, 8, by="b", now=1.0)
    assert handed.news(first.cursor, "b", 1.0, most=9).pieces == (7,)
    assert handed.news(0, "c", 1.0, most=9).pieces == (3, 1, 8)


def test_a_cursor_of_another_run_gets_everything() -> None:
    handed = Handed()
    claim(handed, 3, 1)
    assert handed.news(1 << 39, "b", 1.0, most=9).pieces == (3, 1)


def test_what_is_old_is_no_news_and_of_much_the_latest_is() -> None:
    handed = Handed()
    claim(handed, 3)
    claim(handed, 4, 5, 6, now=NEWS_S)
    assert handed.news(0, "b", NEWS_S + MOMENT, most=9).pieces == (4, 5, 6)
    assert handed.news(0, "b", NEWS_S + MOMENT, most=2).pieces == (5, 6)
    assert handed.news(0, "b", 3 * NEWS_S, most=9).pieces == ()


# -- who takes nothing of what it claims -------------------------------------------------------------


def test_a_host_claims_only_so_many_at_once() -> None:
    handed = Handed()
    mine = claim(handed, *range(MAX_CLAIMED + 5))
    assert len(mine.pieces) == MAX_CLAIMED
    assert claim(handed, 1000).pieces == ()
    assert claim(handed, 1000, by="b").pieces == (1000,)
    handed.delivered(mine, 1.0)
    assert claim(handed, 1001, now=1.0).pieces == (1001,)


def test_who_lets_a_claim_lapse_claims_nothing_for_a_while() -> None:
    handed = Handed()
    mine = claim(handed, 3)
    handed.sending(mine, 0.0)
    assert claim(handed, 4, now=SERVICE_S - MOMENT).pieces == (4,)
    assert claim(handed, 5, now=SERVICE_S).pieces == ()
    handed.dropped(mine, SERVICE_S)
    assert claim(handed, 5, now=SERVICE_S + DISTRUST_S - MOMENT).pieces == ()
    assert claim(handed, 5, by="b", now=SERVICE_S).pieces == (5,)


@pytest.mark.parametrize("late_s", [0.0, 10.0])
def test_who_takes_it_in_the_end_is_trusted_again(late_s: float) -> None:
    handed = Handed()
    mine = claim(handed, 3)
    handed.sending(mine, 0.0)
    claim(handed, 4, now=late_s)
    handed.delivered(mine, late_s)
    assert claim(handed, 5, now=late_s).pieces == (5,)


def test_who_breaks_off_a_body_claims_nothing_for_a_while() -> None:
    handed = Handed()
    mine = claim(handed, 4)
    handed.sending(mine, 0.5)
    handed.dropped(mine, 1.0)
    assert claim(handed, 4, now=1.0 + DISTRUST_S - MOMENT).pieces == ()
    assert claim(handed, 4, now=1.0 + DISTRUST_S).pieces == (4,)


def test_who_leaves_the_line_or_is_refused_claims_as_before() -> None:
    handed = Handed()
    handed.refused(claim(handed, 3))
    handed.dropped(claim(handed, 3), 1.0)
    assert claim(handed, 3, now=1.0).pieces == (3,)


def test_two_that_claim_in_turns_keep_a_piece_from_others_for_a_time_only() -> None:
    handed = Handed()
    got, now = [0.0], 0.0
    while now < 120.0:
        for host in "ab":
            if not handed.taken([3], host, now):
                handed.delivered(claim(handed, 3, by=host, now=now), now)
        if not handed.taken([3], "c", now):
            got.append(now)
            now += SERIES_GAP_S / 2  # it asks as often as that
        now += 0.5
    assert len(got) > 3
    assert max(after - before for before, after in pairwise(got)) < SERIES_S + DELIVERED_S + SERIES_GAP_S
