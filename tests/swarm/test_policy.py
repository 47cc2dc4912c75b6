"""What the policy chooses, given a table of requests that a test fills."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import numpy as np
import pytest

from overlaysync.model.pieces import Pieces
from overlaysync.swarm.assignment import Assignment
from overlaysync.swarm.missing import MissingPieces
from overlaysync.swarm.policy import Choice, DutyPolicy, Sizes
from overlaysync.swarm.requests import Request
from overlaysync.swarm.source import Source

UNIT = 1 << 16
COUNT = 64
"""Pieces, of four slots each."""


@dataclass
class InFlight:
    """A table: so many requests, of which some are late."""

    count: int = 0
    overdue: list[Request] = field(default_factory=list)
    full: bool = False

    def __len__(self) -> int:
        return self.count

    def late(self, now: float) -> list[Request]:
        return self.overdue

    def is_full(self, late: int) -> bool:
        return self.full


class Setting:
    """A policy of the node ``me``, and the sources it chooses from."""

    def __init__(self, *, seeds: str = "a", peers: str = "", room: int = 4) -> None:
        self.pieces = Pieces(4 * COUNT, 4)
        self.missing = MissingPieces([(0, 4 * COUNT)], self.pieces, np.random.default_rng(1))
        self.assignment = Assignment("me", COUNT)
        self.policy = DutyPolicy(self.missing, self.assignment, Sizes(UNIT, 4, room * UNIT, 6), Random(1))
        self.sources = {name: Source(answers=1) for name in seeds}
        self.sources |= {name: Source(np.zeros(COUNT, dtype=np.bool_), answers=1) for name in peers}
        self.table = InFlight()
        self.policy.begin(0.0)

    def hold(self, peer: str, *pieces: int) -> None:
        held = self.sources[peer].pieces
        assert held is not None
        held[list(pieces)] = True
        self.missing.copies[list(pieces)] += 1

    def next(self, now: float = 0.0) -> Choice | None:
        return self.policy.next(self.sources, self.table, now)


def request(source: str, *pieces: int) -> Request:
    return Request(source, tuple((4 * piece, 4) for piece in pieces), 4 * UNIT, pieces, 0.0)


def test_alone_a_seed_is_asked_in_order() -> None:
    assert Setting().next() == Choice("a", (0,), ((0, 4),))
    assert Setting(room=12).next() == Choice("a", (0,), ((0, 4),)), "its pace is not known yet"


def test_in_company_a_seed_is_asked_for_ones_duty() -> None:
    setting = Setting(peers="bc")
    setting.policy.share_with("bc")
    choice = setting.next()
    assert choice is not None and choice.source == "a"
    assert choice.pieces == (int(np.flatnonzero(setting.assignment.mine)[0]),)


def test_a_full_table_leaves_seeds_to_be_asked_and_nobody_else() -> None:
    setting = Setting(peers="b")
    setting.hold("b", *range(32))
    setting.policy.share_with("b")
    setting.table.full = True
    choice = setting.next()
    assert choice is not None and choice.source == "a"
    setting.missing.flying[setting.assignment.mine] = 1
    assert setting.next() is None
    setting.table.full = False
    choice = setting.next()
    assert choice is not None and choice.source == "b"


@pytest.mark.parametrize(("ahead", "most"), [(16, 1), (17, 2)])
def test_two_requests_are_under_way_at_a_node_that_is_far_ahead(ahead: int, most: int) -> None:
    peers = "bcdefgh"
    setting = Setting(peers=peers)
    setting.policy.share_with(peers)
    setting.missing.flying[setting.assignment.mine] = 1  # nothing is left to ask the seed for
    theirs = np.flatnonzero(~setting.assignment.mine)[:ahead].tolist()
    setting.hold("b", *theirs)
    source = setting.sources["b"]
    source.depth = 6
    for _ in range(most):
        choice = setting.next()
        assert choice is not None and choice.source == "b"
        setting.missing.flying[list(choice.pieces)] = 1
        source.in_flight += 1
    assert setting.next() is None


def test_no_more_requests_than_allowed_are_under_way_at_a_node_that_is_ahead() -> None:
    setting = Setting(peers="b")
    setting.policy.share_with("b")
    setting.missing.flying[setting.assignment.mine] = 1
    setting.hold("b", *np.flatnonzero(~setting.assignment.mine).tolist())
    setting.sources["b"].depth, setting.sources["b"].in_flight = 9, 6
    assert setting.next() is None


@pytest.mark.parametrize(("under_way", "now", "asked"), [(1, 2.5, True), (2, 2.5, False), (1, 1.5, False)])
def test_who_starves_asks_a_seed_for_the_duty_of_others(under_way: int, now: float, asked: bool) -> None:
    setting = Setting(peers="b")
    setting.policy.share_with("b")
    setting.missing.flying[setting.assignment.mine] = 1
    setting.table.count = under_way
    choice = setting.next(now)
    assert (choice is not None) is asked
    if choice is not None:
        assert choice.source == "a" and not setting.assignment.mine[list(choice.pieces)].any()


def test_what_is_late_is_asked_of_another_once_nothing_else_is_left() -> None:
    setting = Setting(seeds="ab")
    setting.missing.flying[:] = 1
    late = request("a", 5)
    setting.table.overdue = [late]
    setting.missing.flying[7] = 0
    choice = setting.next(3.0)
    assert choice is not None and choice.pieces == (7,)
    setting.missing.flying[7] = 1
    assert setting.next(3.0) == Choice("b", (5,), ((20, 4),), (late,))


def test_what_is_late_and_nobody_else_has_is_not_asked_again() -> None:
    setting = Setting()
    setting.missing.flying[:] = 1
    setting.table.overdue = [request("a", 5)]
    assert setting.next(3.0) is None


# -- what a seed has handed to others ----------------------------------------------------------------

ELSEWHERE_S = 0.901
"""In a small room."""


def test_what_was_handed_to_others_is_not_ones_duty_for_a_while() -> None:
    setting = Setting(peers="bc")
    setting.policy.share_with("bc")
    first, second = np.flatnonzero(setting.assignment.mine)[:2].tolist()
    setting.policy.taken([first], 0.0)
    for now, piece in ((0.0, second), (ELSEWHERE_S - 0.01, second), (ELSEWHERE_S, first)):
        choice = setting.next(now)
        assert choice is not None and (choice.source, choice.pieces) == ("a", (piece,))


def test_what_was_handed_to_others_is_not_helped_with() -> None:
    setting = Setting(peers="b")
    setting.policy.share_with("b")
    setting.missing.copies[:] = 1
    helped = int(np.flatnonzero(setting.assignment.rank == 1)[0])
    setting.missing.copies[helped] = 0
    choice = setting.next()
    assert choice is not None and choice.pieces == (helped,)
    setting.policy.taken([helped], 0.0)
    assert setting.next() is None


def test_what_was_handed_to_others_is_not_asked_for_by_who_starves() -> None:
    setting = Setting(peers="b")
    setting.policy.share_with("b")
    setting.missing.flying[setting.assignment.mine] = 1
    setting.policy.taken(np.flatnonzero(~setting.assignment.mine).tolist(), 2.0)
    assert setting.next(2.89) is None
    choice = setting.next(2.0 + ELSEWHERE_S)
    assert choice is not None and choice.source == "a"


def test_in_a_large_room_it_is_not_ones_duty_for_longer() -> None:
    setting = Setting(peers="b")
    setting.policy.share_with("b", 100)
    setting.policy.taken(range(COUNT), 0.0)
    assert setting.next(5.9) is None and setting.next(6.0) is not None


def test_what_was_handed_to_others_is_asked_of_them_at_once() -> None:
    setting = Setting(peers="b")
    setting.policy.share_with("b")
    setting.policy.taken(range(COUNT), 0.0)
    setting.hold("b", 5)
    choice = setting.next()
    assert choice is not None and (choice.source, choice.pieces) == ("b", (5,))


def test_a_crowd_counts_where_few_of_it_are_known() -> None:
    setting = Setting(seeds="ac")
    setting.policy.share_with("b", 40)
    assert setting.policy.fetchers == 40
    assert setting.assignment.mine.any() and not setting.assignment.mine.all()
    choice = setting.next()
    assert choice is not None and setting.assignment.mine[choice.pieces[0]], "seeds do not outnumber them"
