"""Members: who is remembered, for how long, how many, and who is chosen to be asked."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from overlaysync.swarm.members import AGE_S, Member, Members, Swarms, some_of

COUNT = 100


def member(number: int, *, host: str = "", held: int = 0) -> Member:
    return Member(f"id{number}", host or f"192.0.2.{number}", 40000 + number, held)


def ids(members: Members, now: float) -> list[str]:
    return [one.id for one in members.current(now)]


def test_the_latest_word_counts() -> None:
    members = Members()
    assert members.seen(member(1, held=3), COUNT, 0.0)
    assert not members.seen(member(1, held=9), COUNT, 1.0)
    assert [one.held for one in members.current(1.0)] == [9]
    assert (len(members), len(members.joined)) == (1, 1)


def test_who_is_silent_is_forgotten() -> None:
    members = Members()
    members.seen(member(1), COUNT, 0.0)
    members.seen(member(2), COUNT, 5.0)
    assert ids(members, AGE_S - 0.1) == ["id1", "id2"]
    assert ids(members, AGE_S) == ["id2"]
    members.seen(member(3), COUNT, AGE_S)
    assert len(members) == 2


def test_an_id_belongs_to_the_host_that_came_with_it() -> None:
    members = Members()
    members.seen(member(1, host="192.0.2.1"), COUNT, 0.0)
    members.seen(member(1, host="192.0.2.66", held=COUNT), COUNT, 1.0)
    assert [one.host for one in members.current(1.0)] == ["192.0.2.1"]
    assert members.done == set()


def test_who_was_forgotten_may_come_back_from_another_host_and_counts_once() -> None:
    members = Members()
    members.seen(member(1, host="192.0.2.1"), COUNT, 0.0)
    assert members.seen(member(1, host="192.0.2.2"), COUNT, AGE_S)
    assert [one.host for one in members.current(AGE_S)] == ["192.0.2.2"]
    assert len(members.joined) == 1


def test_no_more_than_the_limit() -> None:
    members = Members(limit=3)
    assert [members.seen(member(number), COUNT, 0.0) for number in range(5)] == [True] * 3 + [False] * 2
    assert len(members) == len(members.joined) == 3
    assert members.seen(member(9), COUNT, AGE_S), "the old ones make room"


def test_no_more_of_one_host_than_the_limit() -> None:
    members = Members(per_host=2)
    seen = [members.seen(member(number, host="192.0.2.7"), COUNT, 0.0) for number in range(4)]
    assert seen == [True, True, False, False]
    assert members.seen(member(5), COUNT, 0.0)


def test_who_has_had_everything_is_remembered_as_done() -> None:
    members = Members()
    members.seen(member(1, held=COUNT), COUNT, 0.0)
    members.seen(member(2, held=COUNT - 1), COUNT, 0.0)
    members.seen(member(3), COUNT, 2 * AGE_S)
    assert members.done == {"id1"} and ids(members, 2 * AGE_S) == ["id3"]


def test_what_is_remembered_as_done_is_bounded() -> None:
    members = Members(limit=2)
    for number in range(200):
        members.seen(member(number, held=COUNT), COUNT, number * 2 * AGE_S)
    assert len(members.done) == len(members.joined) == 32


def test_a_node_that_fetches_again_counts_once() -> None:
    members = Members()
    first, again = (Member(f"id{number}", "192.0.2.1", 1, COUNT, "pl@bob-j2rueu") for number in (1, 2))
    members.seen(first, COUNT, 0.0)
    assert members.done == members.joined == {"pl@bob-j2rueu"}
    members.seen(replace(again, held=1), COUNT, 1.0)
    assert (len(members.joined), members.done) == (1, set())
    members.seen(again, COUNT, 2.0)
    assert (len(members.joined), len(members.done)) == (1, 1)


def test_strangers_are_a_few_at_random_of_those_not_known() -> None:
    members = Members()
    for number in range(40):
        members.seen(member(number), COUNT, 0.0)
    known = {f"id{number}" for number in range(20)}
    chosen = {one.id for seed in range(60) for one in members.strangers(known, 0.0, Random(seed))}
    assert chosen == {f"id{number}" for number in range(20, 40)}
    assert len(members.strangers(known, 0.0, Random(1))) == 6
    assert len(members.strangers({f"id{number}" for number in range(38)}, 0.0, Random(1))) == 2
    assert members.strangers([], AGE_S, Random(1)) == []


def test_a_member_is_known_at_its_host_while_it_is_there() -> None:
    members = Members()
    members.seen(member(1, host="192.0.2.7"), COUNT, 0.0)
    assert members.knows("id1", "192.0.2.7", AGE_S - 1)
    assert not members.knows("id1", "192.0.2.8", 0.0)
    assert not members.knows("id2", "192.0.2.7", 0.0)
    assert not members.knows("id1", "192.0.2.7", AGE_S)


@pytest.mark.parametrize(
    ("there", "known", "told"),
    [(0, 0, 0), (64, 0, 64), (64, 64, 64), (65, 0, 64), (500, 10, 54), (500, 60, 16), (500, 1024, 16)],
)
def test_of_many_members_some_are_told_and_fewer_to_who_knows_many(there: int, known: int, told: int) -> None:
    everybody = [member(number) for number in range(there)]
    some = some_of(everybody, known=known, random=Random(1))
    assert len(set(some)) == told and set(some) <= set(everybody)
    if there > 64:
        assert some_of(everybody, known=known, random=Random(2)) != some


def test_what_is_handed_out_is_kept_for_each_content_until_it_is_left() -> None:
    swarms = Swarms()
    swarms.handed(b"a").claim([1], "id1", "192.0.2.1", 0.0, crowd=1)
    assert swarms.handed(b"a").taken([1], "id2", 0.0) == [1]
    assert swarms.handed(b"b").taken([1], "id2", 0.0) == []
    swarms.leave(b"a")
    assert swarms.handed(b"a").taken([1], "id2", 0.0) == []
