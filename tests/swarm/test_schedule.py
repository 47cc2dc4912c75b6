"""What the schedule does alone and in company, and when sources are good, wrong, busy, gone, lost or late."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from overlaysync.model.datamap import DataMap
from overlaysync.model.digest import UNALLOCATED
from overlaysync.model.pages import PageListBuilder
from overlaysync.swarm.assignment import Assignment
from overlaysync.swarm.policy import MAX_RUNS, Choice, InFlight
from overlaysync.swarm.requests import Request, RequestTable
from overlaysync.swarm.schedule import PER_SOURCE, Asking, Schedule
from overlaysync.swarm.source import Failure, Source

UNIT = 1 << 16
SHORT = 512
PIECE = 4
"""Slots of a piece."""


def data_map(count: int) -> DataMap:
    """``count`` slots of 64 KiB, the last of 512 bytes."""
    kept: dict[bytes, bytes] = {}
    size = max(0, (count - 1) * UNIT + SHORT)
    builder = PageListBuilder(virtual_size=size, unit=UNIT, parent=UNALLOCATED, keep=kept.__setitem__)
    for index in range(0, count, 1024):
        rows = range(index, min(count, index + 1024))
        builder.add(index // 1024, b"".join((number + 2).to_bytes(32, "big") for number in rows))
    return DataMap(builder.build(), kept.__getitem__)


def schedule(
    count: int = 12,
    *,
    seeds: str = "a",
    peers: str = "",
    per_request: int = PIECE,
    per_source: int = 3,
    missing: list[tuple[int, int]] | None = None,
) -> Schedule:
    """A schedule whose sources have answered once; the peers fetch, and have nothing yet."""
    made = Schedule(
        [(0, count)] if missing is None else missing,
        data_map(count),
        Asking(per_request * UNIT, per_source=per_source, me="me"),
        random=Random(1),
    )
    for seed in seeds:
        made.add_source(seed)
        made.heard(seed, held=None, cursor=0, now=0.0)
    for peer in peers:
        made.add_source(peer, whole=False)
        made.heard(peer, held=[], cursor=0, now=0.0)
    made.share_with(peers)
    return made


def ask(made: Schedule, now: float = 0.0) -> Request:
    request = made.next_request(now)
    assert request is not None
    return request


def ask_all(made: Schedule, now: float = 0.0) -> list[Request]:
    asked = []
    while request := made.next_request(now):
        asked.append(request)
    return asked


def slots_of(request: Request) -> list[int]:
    return [slot for first, count in request.runs for slot in range(first, first + count)]


def drain(made: Schedule, now: float = 0.0) -> list[Request]:
    """All requests, each answered at once."""
    done = []
    while request := made.next_request(now):
        made.succeeded(request, now)
        done.append(request)
    return done


def warm(made: Schedule, count: int) -> None:
    """So many requests answered, so that sources are asked for several things at once."""
    for _ in range(count):
        made.succeeded(ask(made), 0.0)


# -- alone -------------------------------------------------------------------------------------------


def test_slots_are_handed_out_once_and_in_order() -> None:
    made = schedule(10)
    requests = drain(made)
    assert [slot for request in requests for slot in slots_of(request)] == [*range(10)]
    assert [request.size for request in requests] == [4 * UNIT, 4 * UNIT, UNIT + SHORT]
    assert made.finished and not made.exhausted(0.0)
    assert made.delivered() == {"a": 9 * UNIT + SHORT}


def test_only_what_is_missing_is_asked_for() -> None:
    made = schedule(20, missing=[(1, 2), (5, 1), (9, 7)])
    assert made.held() == [4]
    assert [request.runs for request in drain(made)] == [((1, 2), (5, 1), (9, 1)), ((10, 4),), ((14, 2),)]


@pytest.mark.parametrize("count", [0, 5])
def test_nothing_missing(count: int) -> None:
    made = schedule(count, missing=[])
    assert made.finished and not made.exhausted(1e9) and made.next_request(0.0) is None


def test_success_says_which_pieces_are_whole() -> None:
    made = schedule(10, per_request=3)
    assert [made.succeeded(ask(made), 0.0) for _ in range(4)] == [[], [0], [1], [2]]
    assert made.held() == [0, 1, 2]


def test_a_request_has_a_bounded_number_of_runs() -> None:
    made = schedule(1000, per_request=500, missing=[(slot, 1) for slot in range(0, 1000, 2)])
    requests = drain(made)
    assert max(len(request.runs) for request in requests) == MAX_RUNS
    assert [slot for request in requests for slot in slots_of(request)] == [*range(0, 1000, 2)]


def test_a_request_has_a_slot_however_small_it_should_be() -> None:
    made = Schedule([(0, 3)], data_map(3), Asking(1))
    made.add_source("a")
    made.heard("a", held=None, cursor=0, now=0.0)
    assert [request.runs for request in drain(made)] == [((0, 1),), ((1, 1),), ((2, 1),)]


def test_sources_share_the_work() -> None:
    made = schedule(400, seeds="abc", per_source=2)
    warm(made, 12)
    requests = ask_all(made)
    assert sorted(request.source for request in requests) == [*"aabbcc"]
    made.succeeded(requests[2], 0.0)
    assert ask(made).source == requests[2].source


def test_a_source_that_comes_late_is_asked_too() -> None:
    made = schedule(40, per_source=1)
    assert [request.source for request in ask_all(made)] == ["a"]
    made.add_source("b")
    made.add_source("a")
    made.heard("b", held=None, cursor=0, now=0.0)
    assert [request.source for request in ask_all(made)] == ["b"]


def test_a_source_gets_one_request_more_with_each_success() -> None:
    made = schedule(400, per_source=PER_SOURCE)
    under_way = []
    for _ in range(8):
        asked = ask_all(made)
        under_way.append(len(asked))
        for request in asked[1:]:
            made.cancelled(request)
        made.succeeded(asked[0], 0.0)
    assert under_way == [1, 2, 3, 4, 5, 6, 6, 6]


def test_requests_grow_with_the_pace_of_the_source() -> None:
    made = schedule(800, per_request=64)
    sizes, now = [], 0.0
    for _ in range(4):
        request = ask(made, now)
        sizes.append(request.size // UNIT)
        now += request.size / (80 * UNIT)  # 80 slots a second
        made.succeeded(request, now)
    assert sizes[0] == PIECE and sizes[1:] == pytest.approx([20] * 3, abs=1)


def test_towards_the_end_requests_are_small_so_that_all_sources_have_some() -> None:
    made = schedule(400, seeds="ab", per_source=2, per_request=64)
    sizes = [request.size // UNIT for request in drain(made)]
    assert max(sizes) > 40 and sizes[-5:-1] == [PIECE] * 4
    assert all(size <= max(PIECE, (sum(sizes[number:]) + 1) // 8) for number, size in enumerate(sizes))


def test_on_a_slow_link_fewer_requests_are_under_way() -> None:
    made = schedule(4000, seeds="abcdef", per_source=6)
    warm(made, 60)
    assert len(ask_all(made)) == 16
    made = schedule(4000, seeds="abcdef", per_source=6)
    warm(made, 60)
    requests, now = ask_all(made), 0.0
    for _ in range(60):
        now += 5.0
        made.succeeded(requests.pop(0), now)
        requests += ask_all(made, now)
    assert len([request for request in requests if now - request.began < 2.0]) <= 4


# -- what is asked, and when -------------------------------------------------------------------------


def test_nothing_is_asked_of_a_source_before_its_first_question_ended() -> None:
    made = Schedule([(0, 12)], data_map(12), Asking(PIECE * UNIT))
    for name in "ab":
        made.add_source(name)
    assert made.next_request(0.0) is None and not made.exhausted(0.0)
    made.silent("b", 0.0)
    assert ask(made).source == "b"
    made.heard("a", held=None, cursor=0, now=0.0)
    assert ask(made).source == "a"


def test_each_source_is_asked_what_it_has_one_question_at_a_time() -> None:
    made = schedule(12, seeds="a", peers="bc")
    asked = [made.next_question(10.0) for _ in range(4)]
    assert sorted(filter(None, asked)) == [*"abc"] and asked[3] is None
    made.heard("b", held=[1], cursor=7, now=10.0)
    assert made.cursor("b") == 7 and made.next_question(10.0) is None
    assert made.next_question(20.0) == "b"


def test_questions_become_rarer() -> None:
    def pauses(made: Schedule, name: str) -> list[float]:
        now, found = 0.0, [0.0]
        while len(found) < 20:
            while asked := made.next_question(now):
                if asked == name:
                    found.append(now)
                made.heard(asked, held=None if asked == "a" else [], cursor=0, now=now)
            now += 0.01
        return [after - before for before, after in pairwise(found)]

    much = 100 * PIECE
    seed, peer = (pauses(schedule(much, peers="bcd"), name) for name in "ab")
    assert seed[0] == pytest.approx(0.1, abs=0.02) and seed[-1] == pytest.approx(1.0, abs=0.02)
    assert peer[-1] == pytest.approx(0.1 + 4 * 0.02, abs=0.02)
    seed, peer = (pauses(schedule(much, peers="bcd", missing=[(0, 10)]), name) for name in "ab")
    assert seed[-1] == pytest.approx(1.0, abs=0.02)
    assert peer[-1] == pytest.approx((0.1 + 4 * 0.02) / 2, abs=0.02), "near the end, twice as often"


def test_who_has_never_answered_is_asked_less_and_less_and_does_not_count() -> None:
    made = schedule(peers="b")
    ghosts = [f"g{number}" for number in range(100)]
    for ghost in ghosts:
        made.add_source(ghost, whole=False)
    now, asked = 0.0, [0.0]
    while len(asked) < 8:
        while name := made.next_question(now):
            if name in ghosts:
                made.silent(name, now)
            else:
                made.heard(name, held=None if name == "a" else [], cursor=0, now=now)
            if name == ghosts[0]:
                asked.append(now)
        now += 0.01
    pauses = [after - before for before, after in pairwise(asked)]
    assert pauses == pytest.approx([0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 16.0], abs=0.1)
    assert made.next_question(now + 0.5) == "b", "the living are asked as often as without the others"


@pytest.mark.parametrize(("others", "pause"), [(3, 1.0), (30, 1.0), (60, 2.0), (1000, 5.0)])
def test_in_a_crowd_a_seed_is_asked_less_often(others: int, pause: float) -> None:
    made = schedule()
    made.share_with(f"m{number}" for number in range(others))
    for turn in range(1, 20):
        now = 100.0 * turn
        assert made.next_question(now) == "a"
        made.heard("a", held=None, cursor=0, now=now)
    assert made.next_question(now + pause - 0.01) is None and made.next_question(now + pause) == "a"


def test_who_cannot_say_is_not_asked_again_but_serves() -> None:
    made = schedule(40)
    made.silent("a", 0.0, for_good=True)
    assert made.next_question(1e9) is None and ask(made).source == "a"


@pytest.mark.red_without("N2", "a failure has no consequence for the source that failed")
def test_who_was_given_up_is_not_asked_what_it_has() -> None:
    made = schedule(40)
    made.failed(ask(made), Failure.GONE, 0.0)
    assert made.next_question(1e9) is None
    made.heard("a", held=None, cursor=1, now=0.0)  # an answer that was under way
    assert made.next_request(1e9) is None


# -- in company --------------------------------------------------------------------------------------


def test_a_peer_is_asked_only_for_what_it_has() -> None:
    made = schedule(40, seeds="", peers="b")
    assert made.next_request(0.0) is None
    made.heard("b", held=[3, 7], cursor=2, now=0.0)
    assert sorted(piece for request in drain(made, 0.0) for piece in request.pieces) == [3, 7]
    assert made.next_request(0.0) is None
    made.heard("b", held=None, cursor=2, now=0.0)
    assert len([piece for request in drain(made) for piece in request.pieces]) == 8
    assert made.finished


def test_the_nodes_of_a_room_ask_the_seed_for_different_pieces() -> None:
    asked = {}
    for me in "bcde":
        made = Schedule([(0, 400)], data_map(400), Asking(PIECE * UNIT, me=me))
        made.add_source("a")
        made.heard("a", held=None, cursor=0, now=0.0)
        made.share_with(set("bcde") - {me})
        asked[me] = {piece for request in drain(made, 0.0) for piece in request.pieces}
    assert sum(map(len, asked.values())) == 100 and set.union(*asked.values()) == {*range(100)}


def test_a_seed_is_not_asked_for_what_others_have() -> None:
    made = schedule(400, peers="bc")
    made.heard("b", held=[*range(50)], cursor=50, now=0.0)
    asked = [request for request in ask_all(made) if request.source == "a"]
    while asked:
        request = asked.pop()
        assert min(request.pieces) >= 50
        made.succeeded(request, 0.0)
        asked += [request for request in ask_all(made) if request.source == "a"]


def test_when_everything_has_been_brought_in_a_seed_is_asked_for_it_too() -> None:
    made = schedule(400, peers="bc")
    made.heard("b", held=[*range(100)], cursor=100, now=0.0)
    assert {request.source for request in drain(made)} == {"a", "b"}


def test_a_seed_with_nothing_to_bring_in_is_asked_again_when_the_others_have_all() -> None:
    made = schedule(400, peers="bc")
    drain(made, 0.5)
    assert made.next_request(0.5) is None and not made.finished
    made.heard("b", held=[*range(100)], cursor=100, now=0.5)
    assert {request.source for request in ask_all(made, 0.5)} == {"a", "b"}


def test_the_rest_of_a_piece_is_asked_of_the_same_peer() -> None:
    made = schedule(40, seeds="", peers="b", per_request=3)
    made.heard("b", held=[7, 8], cursor=2, now=0.0)
    drain(made)  # so that there is room for more than one request
    made.heard("b", held=[3], cursor=3, now=0.0)
    (first,) = ask_all(made)
    assert made.succeeded(first, 0.0) == []
    assert (first.runs, ask(made).runs) == (((12, 3),), ((15, 1),))


def test_what_was_cancelled_too_early_is_asked_for_again() -> None:
    made = schedule(40, seeds="", peers="b")
    made.heard("b", held=[7, 8], cursor=2, now=0.0)
    drain(made)
    made.heard("b", held=[3], cursor=3, now=0.0)
    (first,) = ask_all(made)
    made.cancelled(first)
    assert ask(made).runs == first.runs


def test_the_rarest_comes_first() -> None:
    made = schedule(400, seeds="", peers="bcd")
    made.heard("b", held=[*range(100)], cursor=0, now=0.0)
    made.heard("c", held=[*range(90)], cursor=0, now=0.0)
    made.heard("d", held=[*range(80)], cursor=0, now=0.0)
    first = [made.next_request(0.0) for _ in range(3)]
    pieces = {request.source: request.pieces[0] for request in first if request}
    assert pieces["b"] >= 90 and 80 <= pieces["c"] < 90 and pieces["d"] < 80
    made = schedule(400, seeds="", peers="bc")
    made.heard("c", held=[*range(90)], cursor=0, now=0.0)
    made.failed(ask(made), Failure.BUSY, 0.0, retry_after=1e9)
    made.heard("b", held=[*range(100)], cursor=0, now=0.0)
    order = [piece for request in drain(made) for piece in request.pieces]
    assert {*order[:10]} == {*range(90, 100)} and order[10:] != sorted(order[10:])


def test_nodes_do_not_choose_alike_among_equals() -> None:
    first = []
    for seed in range(8):
        made = Schedule([(0, 400)], data_map(400), Asking(PIECE * UNIT), random=Random(seed))
        made.add_source("b", whole=False)
        made.heard("b", held=[*range(100)], cursor=0, now=0.0)
        made.share_with("b")
        first.append(ask(made).pieces)
    assert len(set(first)) >= 6


def test_few_requests_are_under_way_in_company() -> None:
    peers = "bcdefghijklmnopqrstuvwxyz"
    made = schedule(4000, peers=peers)
    for peer in peers:
        made.heard(peer, held=[*range(500)], cursor=500, now=0.0)
    assert len(ask_all(made)) == 4 + 1  # at first; and what the seed is to bring in
    for _ in range(100):
        request = ask_all(made)
        for one in request:
            made.succeeded(one, 0.0)
    asked = ask_all(made)
    assert len([request for request in asked if request.source != "a"]) <= 16
    assert len({request.source for request in asked}) == len(asked)


def test_a_starving_node_takes_what_is_the_duty_of_others() -> None:
    made = schedule(40, peers="bc")
    mine = {piece for request in drain(made, 0.5) for piece in request.pieces}
    assert mine and len(mine) < 10, "others may still bring in theirs"
    assert len(mine | {piece for request in drain(made, 60.0) for piece in request.pieces}) == 10


def test_where_there_are_strangers_a_starving_node_waits_a_second_longer() -> None:
    made = schedule(400, peers="bc")
    made.share_with(f"m{number}" for number in range(9))
    assert 0 < len(drain(made, 60.0)) < 40
    assert made.next_request(60.9) is None
    assert drain(made, 61.1)


def test_with_seeds_enough_for_all_everything_is_asked_of_them() -> None:
    made = schedule(40, seeds="xyz", peers="bc")
    assert len({piece for request in drain(made, 0.5) for piece in request.pieces}) == 10


def test_the_work_is_not_shared_with_the_doubtful() -> None:
    made = schedule(400, seeds="", peers="bcd")
    for peer in "bcd":
        made.heard(peer, held=[*range(100)], cursor=0, now=0.0)
    requests = {request.source: request for request in ask_all(made)}
    assert made.doubtful(1.0) == set()
    made.failed(requests["b"], Failure.LOST, 1.0)
    made.failed(requests["c"], Failure.GONE, 1.0)
    assert made.doubtful(1.0) == {"b", "c"}
    assert made.doubtful(1e3) == {"b", "c", "d"}
    made.succeeded(requests["d"], 1e3)
    made.succeeded(next(request for request in ask_all(made, 1e3) if request.source == "b"), 1e3)
    assert made.doubtful(1e3) == {"c"}


def test_near_the_end_who_is_through_with_its_duty_helps_the_next_from_the_other_end() -> None:
    count, peer = 200, "b"
    made = schedule(PIECE * count, peers=peer)
    duty = Assignment("me", count)
    duty.share_with(["me", peer])
    theirs = np.flatnonzero(~duty.mine).tolist()
    assert ((duty.rank == 1) == ~duty.mine).all(), "of two, each is the other's helper"
    asked = [piece for request in drain(made) for piece in request.pieces]
    assert sorted(asked) == np.flatnonzero(duty.mine).tolist(), "there is too much left to help"
    left = 6
    made.heard(peer, held=theirs[:-left], cursor=1, now=1.0)
    helped = [request.pieces for request in drain(made, 1.0) if request.source == "a"]
    assert helped[:left] == [(piece,) for piece in theirs[: -left - 1 : -1]]


# -- what is late ------------------------------------------------------------------------------------


def late(seeds: str = "ab") -> tuple[Schedule, Request, float]:
    """All but one request answered, and that one late."""
    made = schedule(8, seeds=seeds, per_source=1)
    slow, *others = ask_all(made)
    for request in others:
        made.succeeded(request, 0.1)
    return made, slow, 100.0


def test_what_is_late_is_asked_of_another_source_once() -> None:
    made, slow, now = late()
    assert made.next_request(1.9) is None
    again = ask(made, now)
    assert again.source != slow.source and again.runs == slow.runs
    assert made.next_request(now) is None


def test_what_is_here_and_waits_for_the_disk_is_not_late() -> None:
    made, slow, now = late()
    made.arrived(slow)
    assert made.next_request(now) is None and made.doubtful(now) == set()
    assert made.succeeded(slow, now) == [*slow.pieces] and made.finished


def test_what_is_late_everywhere_is_asked_of_a_third() -> None:
    made, slow, now = late("abc")
    again = ask(made, now)
    assert made.next_request(now + 1.0) is None
    third = ask(made, now + 100.0)
    assert {slow.source, again.source, third.source} == {*"abc"}


def test_who_is_late_and_beaten_is_not_asked_for_the_next_thing() -> None:
    made = schedule(16, seeds="ab", per_source=1)
    slow = ask(made)
    other = "b" if slow.source == "a" else "a"
    while (request := made.next_request(0.1)) is not None:
        assert request.source == other
        made.succeeded(request, 0.1)
    again = ask(made, 100.0)
    assert again.runs == slow.runs
    made.failed(again, Failure.WRONG, 100.0, missing=again.runs)  # so that it is asked for again
    made.cancelled(slow)
    assert made.next_request(100.0) is None
    assert ask(made, 110.0).source == slow.source


def test_what_is_late_is_not_asked_of_its_own_source_again() -> None:
    made = schedule(20, per_source=3)
    warm(made, 3)
    assert len(ask_all(made)) == 2, "there is room for a third"
    assert made.next_request(1e3) is None


def test_late_ones_do_not_count_as_under_way() -> None:
    peers = "bcdefghijklmnopqrstuvwxyz"
    made = schedule(4000, seeds="", peers=peers)
    for peer in peers:
        made.heard(peer, held=[*range(900)], cursor=900, now=0.0)
    stalled = ask_all(made)
    assert len(stalled) == 4
    assert len(ask_all(made, 100.0)) == 4


@pytest.mark.red_without("N8", "a request that is no longer needed is not cancelled")
@pytest.mark.parametrize("first", [True, False])
def test_the_second_answer_is_obsolete(first: bool) -> None:
    made, slow, now = late()
    again = ask(made, now)
    assert made.obsolete() == []
    winner, loser = (slow, again) if first else (again, slow)
    assert made.succeeded(winner, now) == [*winner.pieces]
    assert made.obsolete() == [loser]
    made.cancelled(loser)
    assert made.finished and made.obsolete() == []


def test_a_second_answer_that_comes_all_the_same_does_no_harm() -> None:
    made, slow, now = late()
    again = ask(made, now)
    made.succeeded(again, now)
    assert made.succeeded(slow, now) == []
    assert made.finished and made.held() == [0, 1]


# -- failures ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [Failure.WRONG, Failure.GONE])
def test_a_source_that_lies_or_has_nothing_is_never_asked_again(failure: Failure) -> None:
    made = schedule(80, seeds="ab", per_source=1)
    bad = ask(made)
    made.failed(bad, failure, 0.0)
    made.add_source(bad.source)
    requests = drain(made, 1e9)
    assert bad.source not in {request.source for request in requests}
    assert sorted(slot for request in requests for slot in slots_of(request)) == [*range(80)]
    assert made.finished and made.dropped() == {bad.source: failure}


def test_what_a_dropped_peer_had_is_new_again() -> None:
    made = schedule(40, peers="bc")
    made.heard("b", held=[*range(8)], cursor=8, now=0.0)
    while (request := ask(made)).source != "b":
        made.cancelled(request)
    made.failed(request, Failure.WRONG, 0.0)
    made.heard("b", held=[8, 9], cursor=10, now=0.0)  # an answer that was under way
    duty = Assignment("me", 10)
    duty.share_with("bc")
    brought_in = {piece for request in drain(made, 0.5) for piece in request.pieces}
    assert brought_in == set(np.flatnonzero(duty.mine)) and {8, 9} & brought_in


def test_what_came_whole_in_a_wrong_answer_is_not_asked_for_again() -> None:
    made = schedule(12, seeds="ab", per_request=12)
    bad = ask(made)
    assert bad.runs == ((0, 4),)
    assert made.failed(bad, Failure.WRONG, 0.0, missing=[(3, 1), (1, 1)]) == []
    assert drain(made)[0].runs == ((1, 1), (3, 3))


def test_a_wrong_answer_may_make_pieces_whole() -> None:
    made = schedule(24, per_request=8)
    warm(made, 1)
    request = ask(made)
    assert request.pieces == (1, 2)
    assert made.failed(request, Failure.WRONG, 0.0, missing=[(9, 1)]) == [1]
    assert made.held() == [0, 1]
    assert made.failed(request_of(made), Failure.WRONG, 0.0, missing=[]) == [2]


def request_of(made: Schedule) -> Request:
    """The next request, of a fresh source."""
    made.add_source("new")
    made.heard("new", held=None, cursor=0, now=0.0)
    return ask(made)


def test_what_failed_comes_first() -> None:
    made = schedule(12, seeds="ab")
    first, second = ask(made), ask(made)
    made.failed(first, Failure.GONE, 0.0)
    made.succeeded(second, 0.0)
    assert ask(made).runs == first.runs


def test_a_busy_source_is_asked_when_it_said() -> None:
    made = schedule(4)
    made.failed(ask(made, 10.0), Failure.BUSY, 10.0, retry_after=3.0)
    assert made.next_request(12.9) is None
    assert not made.exhausted(12.9) and not made.finished
    assert ask(made, 13.0).source == "a"


def test_others_are_asked_while_one_is_busy() -> None:
    made = schedule(40, seeds="ab")
    busy = ask(made)
    made.failed(busy, Failure.BUSY, 0.0, retry_after=30.0)
    assert busy.source not in {request.source for request in drain(made)}
    assert made.dropped() == {} and made.finished


def test_a_source_that_is_busy_for_ever_is_given_up() -> None:
    made, now = schedule(4), 0.0
    while not made.dropped():
        now += 2.0
        made.failed(ask(made, now), Failure.BUSY, now, retry_after=1.0)
    assert 200 <= now <= 600 and made.exhausted(now)


def test_a_lost_source_is_asked_ever_later_and_then_given_up() -> None:
    made = schedule(4)
    now, waits = 100.0, []
    request = ask(made, now)
    while True:
        made.failed(request, Failure.LOST, now)
        if made.dropped():
            break
        failed_at = now
        while (again := made.next_request(now)) is None:
            now += 0.25
        request = again
        waits.append(now - failed_at)
    assert waits == [1.0, 2.0, 4.0]
    assert made.dropped() == {"a": Failure.LOST} and made.exhausted(now)


def test_silence_is_borne_longer_than_refusal() -> None:
    made = schedule(4)
    now = began = 100.0
    while not made.dropped():
        while (request := made.next_request(now)) is None:
            now += 0.25
        made.failed(request, Failure.SILENT, now)
    assert 45 <= now - began <= 60


def test_requests_that_die_together_are_one_strike() -> None:
    made = schedule(120, per_source=3)
    warm(made, 3)
    for turn in range(1, 5):
        now = 100.0 * turn
        assert made.dropped() == {}
        requests = ask_all(made, now)
        assert len(requests) == 3
        for request in requests:
            made.failed(request, Failure.LOST, now)
    assert made.dropped() == {"a": Failure.LOST}


def test_success_wipes_the_strikes_away() -> None:
    made = schedule(400)
    for turn in range(20):
        now = turn * 100.0
        made.failed(ask(made, now), Failure.LOST, now)
        made.succeeded(ask(made, now + 50.0), now + 50.0)
    assert made.dropped() == {}


def test_a_lost_source_waits_behind_a_good_one() -> None:
    made = schedule(40, seeds="ab", per_source=1)
    lost = ask(made)
    made.failed(lost, Failure.LOST, 0.0)
    sources = [ask(made, 50.0).source for _ in range(2)]
    assert sources[1] == lost.source != sources[0]


# -- the end -----------------------------------------------------------------------------------------


def test_exhausted_only_when_nobody_is_left() -> None:
    assert schedule(1, seeds="").exhausted(0.0)
    made = schedule(8, seeds="ab")
    one, other = ask(made), ask(made)
    made.failed(one, Failure.GONE, 0.0)
    assert not made.exhausted(0.0)
    made.failed(other, Failure.GONE, 0.0)
    assert made.exhausted(0.0) and not made.finished
    made.add_source("c")
    made.heard("c", held=None, cursor=0, now=0.0)
    assert not made.exhausted(0.0)
    drain(made)
    assert not made.exhausted(0.0)


def test_not_exhausted_while_something_is_under_way() -> None:
    made = schedule(40)
    warm(made, 1)
    one, other = ask_all(made)
    made.failed(one, Failure.GONE, 0.0)
    assert made.dropped() and not made.exhausted(1e9)
    made.failed(other, Failure.GONE, 0.0)
    assert made.exhausted(0.0)


def test_peers_that_get_nothing_new_are_hopeless_after_a_while() -> None:
    made = schedule(40, seeds="", peers="bc")
    assert not made.exhausted(19.0) and made.exhausted(21.0)
    made.heard("b", held=[1], cursor=1, now=19.0)
    assert not made.exhausted(1e9), "b has something"
    drain(made, 19.0)
    assert not made.exhausted(38.0) and made.exhausted(40.0)


# -- whatever happens --------------------------------------------------------------------------------


class AnyEvents(RuleBasedStateMachine):
    """Seeds and peers, any order of events: nobody is asked who should not be, and in the end all arrive."""

    COUNT = 150
    SEEDS = "ab"
    PEERS = "pqrs"

    @initialize(
        missing=st.sets(st.integers(0, COUNT - 1)),
        whole=st.booleans(),
        per_request=st.integers(1, 9),
        per_source=st.integers(1, 3),
        seed=st.integers(0, 3),
    )
    def start(self, missing: set[int], whole: bool, per_request: int, per_source: int, seed: int) -> None:
        self.missing = {*range(self.COUNT)} if whole else set(missing)
        self.room = per_request
        self.per_source = per_source
        self.made = Schedule(
            [(slot, 1) for slot in sorted(self.missing)],
            data_map(self.COUNT),
            Asking(per_request * UNIT + UNIT // 2, per_source=per_source, me="me"),
            random=Random(seed),
        )
        self.flying: list[Request] = []
        self.now = 1.0
        self.dropped: set[str] = set()
        self.not_before: dict[str, float] = {}
        self.has: dict[str, set[int]] = {}
        self.said: set[str] = set()
        self.bytes = 0

    @rule(source=st.sampled_from(SEEDS + PEERS))
    def come(self, source: str) -> None:
        self.made.add_source(source, whole=source in self.SEEDS)
        self.has.setdefault(source, {*range(38)} if source in self.SEEDS else set())

    @rule(others=st.sets(st.sampled_from(PEERS)))
    def share(self, others: set[str]) -> None:
        self.made.share_with(others)

    @rule(seconds=st.sampled_from([0.1, 1.0, 3.0, 20.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(news=st.sets(st.integers(0, 37)), answered=st.booleans(), complete=st.booleans())
    def question(self, news: set[int], answered: bool, complete: bool) -> None:
        name = self.made.next_question(self.now)
        if name is None:
            return
        assert name in self.has.keys() - self.dropped
        self.said.add(name)
        if not answered:
            self.made.silent(name, self.now)
        elif name in self.SEEDS or complete:
            self.has[name] = {*range(38)}
            self.made.heard(name, held=None, cursor=38, now=self.now)
        else:
            self.has[name] |= news
            self.made.heard(name, held=sorted(news), cursor=len(self.has[name]), now=self.now)

    @rule(most=st.integers(1, 8))
    def ask(self, most: int) -> None:
        for _ in range(most):
            request = self.made.next_request(self.now)
            if request is None:
                return
            self.check(request)
            self.flying.append(request)

    def check(self, request: Request) -> None:
        slots = slots_of(request)
        mine = [one for one in self.flying if one.source == request.source]
        assert request.source in self.said - self.dropped
        assert self.not_before.get(request.source, 0.0) <= self.now
        assert len(mine) < self.per_source
        assert 0 < len(slots) <= max(self.room, PIECE) and len(request.runs) <= MAX_RUNS
        assert len(slots) <= self.room
        assert request.size == sum(SHORT if slot == self.COUNT - 1 else UNIT for slot in slots)
        assert len(set(slots)) == len(slots) and set(slots) <= self.missing
        assert {slot // PIECE for slot in slots} == set(request.pieces) <= self.has[request.source]
        asked_here = {piece for one in mine for piece in one.pieces}
        assert asked_here.isdisjoint(request.pieces), "two requests for one piece at one source"
        for one in self.flying:
            if not set(request.pieces).isdisjoint(one.pieces):
                assert self.now - one.began >= 2.0, "asked for twice before it was late"
        assert len([one for one in self.flying if self.now - one.began < 2.0]) <= 2 * 16

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def succeed(self, data: st.DataObject) -> None:
        request = self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))
        self.came(set(slots_of(request)), self.made.succeeded(request, self.now))
        self.bytes += request.size

    def came(self, slots: set[int], whole: list[int]) -> None:
        before = {slot // PIECE for slot in self.missing}
        self.missing -= slots
        assert set(whole) == before - {slot // PIECE for slot in self.missing}

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), failure=st.sampled_from(Failure), after=st.sampled_from([0.0, 0.5, 5.0]))
    def fail(self, data: st.DataObject, failure: Failure, after: float) -> None:
        request = self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))
        lost: list[tuple[int, int]] | None = None
        good: set[int] = set()
        if failure is Failure.WRONG and data.draw(st.booleans()):
            bad = data.draw(st.sets(st.sampled_from(slots_of(request)), min_size=1))
            lost = [(slot, 1) for slot in sorted(bad)]
            good = set(slots_of(request)) - bad
        self.bytes += sum(SHORT if slot == self.COUNT - 1 else UNIT for slot in good)
        self.came(good, self.made.failed(request, failure, self.now, missing=lost, retry_after=after))
        if failure in (Failure.WRONG, Failure.GONE):
            self.dropped.add(request.source)
        elif failure is Failure.BUSY:
            self.not_before[request.source] = self.now + after
        elif request.source in self.made.dropped():
            self.dropped.add(request.source)

    @rule()
    def give_up_the_obsolete(self) -> None:
        for request in self.made.obsolete():
            assert self.missing.isdisjoint(slots_of(request))
            self.flying.remove(request)
            self.made.cancelled(request)

    @invariant()
    def says_how_it_stands(self) -> None:
        if not hasattr(self, "made"):
            return
        assert self.made.finished == (not self.missing)
        assert set(self.made.held()) == {*range(38)} - {slot // PIECE for slot in self.missing}
        assert set(self.made.dropped()) == self.dropped
        assert sum(self.made.delivered().values()) == self.bytes
        if self.made.exhausted(self.now):
            wanted = {slot // PIECE for slot in self.missing}
            assert wanted and not self.flying
            assert all(self.has[source].isdisjoint(wanted) for source in self.has.keys() - self.dropped)

    def teardown(self) -> None:
        """One good source is enough to finish."""
        if not hasattr(self, "made"):
            return
        for request in self.flying:
            self.made.failed(request, Failure.GONE, self.now)
        self.made.add_source("good", whole=len(self.said) % 2 == 0)
        self.made.heard("good", held=None, cursor=0, now=self.now)
        asked = []
        for turn in range(100):  # among strangers it waits for them between any two
            requests = drain(self.made, self.now + 1e6 + 10 * turn)
            asked += [slot for request in requests for slot in slots_of(request)]
        assert sorted(asked) == sorted(self.missing) and self.made.finished


AnyEvents.TestCase.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)
test_any_events = pytest.mark.slow(AnyEvents.TestCase)


# -- its two halves ----------------------------------------------------------------------------------


@dataclass
class Scripted:
    """A policy that says what it is told to say."""

    says: list[Choice]
    fetchers: int = 0

    def begin(self, now: float) -> None:
        pass

    def share_with(self, fetchers: Iterable[str], crowd: int) -> bool:
        return False

    def taken(self, pieces: Sequence[int], now: float) -> None:
        pass

    def next(self, sources: Mapping[str, Source], in_flight: InFlight, now: float) -> Choice | None:
        return self.says.pop(0) if self.says else None


def test_what_a_policy_chooses_is_asked_and_stands_in_the_table() -> None:
    table = RequestTable()
    policy = Scripted([Choice("a", (2, 1), ((4, 8),))])
    made = Schedule([(0, 12)], data_map(12), Asking(UNIT), policy=lambda missing: policy, table=table)
    made.add_source("a")
    request = ask(made)
    assert (request.source, request.pieces, request.size) == ("a", (2, 1), 7 * UNIT + SHORT)
    assert list(table) == [request]
    assert made.succeeded(request, 1.0) == [2, 1] and not len(table)
    assert made.next_request(1.0) is None


def test_whose_request_is_doubled_is_late() -> None:
    policy = Scripted([Choice("a", (0,), ((0, 4),))])
    made = Schedule([(0, 12)], data_map(12), Asking(UNIT), policy=lambda missing: policy)
    for name in "ab":
        made.add_source(name)
    first = ask(made)
    assert made.doubtful(0.0) == set()
    policy.says.append(Choice("b", (0,), ((0, 4),), (first,)))
    assert ask(made).source == "b"
    assert made.doubtful(0.0) == {"a"}


# -- what a seed has handed to others ----------------------------------------------------------------


def test_pieces_are_claimed_of_seeds_only_and_also_by_who_is_alone() -> None:
    alone, company = schedule(40), schedule(40, peers="b")
    assert (alone.taken_cursor("a"), company.taken_cursor("a"), company.taken_cursor("b")) == (0, 0, None)
    company.taken("a", [1], 17, 0.0)
    assert company.taken_cursor("a") == 17


def test_what_is_taken_is_asked_of_a_seed_later_and_its_source_stays() -> None:
    made = schedule(40, peers="b")
    first = ask(made)
    made.taken("a", first.pieces, 2, 0.0)
    made.failed(first, Failure.TAKEN, 0.0)
    second = ask(made)
    assert second.source == "a" and not set(second.pieces) & set(first.pieces)
    assert made.doubtful(0.0) == set()
    made.cancelled(second)
    assert ask(made, 0.91).pieces == first.pieces


def test_only_seeds_are_believed_about_what_is_taken() -> None:
    made = schedule(40, peers="b")
    expected = ask(made)
    made.cancelled(expected)
    made.taken("b", range(10), 2, 0.0)
    assert ask(made).pieces == expected.pieces


def test_a_crowd_that_a_seed_tells_of_makes_questions_rarer_until_it_has_gone() -> None:
    made = schedule()
    pauses = []
    for turn, crowd in enumerate((1000, 1000, 0, 0)):
        now = 100.0 * (turn + 1)
        made.share_with(["m"])
        assert made.next_question(now) == "a"
        for _ in range(20):
            made.heard("a", held=None, cursor=0, now=now, crowd=crowd)
        made.share_with(["m"])
        made.heard("a", held=None, cursor=0, now=now, crowd=crowd)
        pauses.append(next(wait for wait in range(1, 10) if made.next_question(now + wait)))
        made.heard("a", held=None, cursor=0, now=now, crowd=crowd)
    assert pauses == [5, 5, 1, 1]
