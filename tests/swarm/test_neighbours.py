"""Which others a node asks, and with whom it shares the work."""

from __future__ import annotations

from random import Random

from overlaysync.swarm.members import Member, Members
from overlaysync.swarm.neighbours import CHOOSE_S, Neighbours

COUNT = 10


def member(number: int, held: int = 0) -> Member:
    return Member(f"id{number}", f"192.0.2.{number}", 40001, held)


def neighbours(most: int = 8) -> tuple[Neighbours, Members]:
    asking = Members()
    return Neighbours("id0", asking, Random(1), most=most), asking


def meet(made: Neighbours, now: float, dropped: tuple[str, ...] = ()) -> set[str]:
    """Meet all that may be met now."""
    met = set()
    for one in made.to_meet(now, dropped):
        made.met(one, f"source of {one.id}")
        met.add(one.id)
    return met


def test_who_asks_is_asked_up_to_a_number() -> None:
    made, asking = neighbours(most=8)
    for number in range(20):
        asking.seen(member(number), COUNT, 0.0)
    assert len(meet(made, 0.0)) == 8 == made.company(())
    assert meet(made, 0.0) == set()


def test_of_those_told_of_half_as_many_are_asked_a_few_at_a_time() -> None:
    made, _ = neighbours(most=32)
    for number in range(60):
        made.told(member(number), COUNT, 0.0)
    first = meet(made, 0.0)
    assert 0 < len(first) < 16
    assert meet(made, CHOOSE_S / 2) == set()
    met = [meet(made, CHOOSE_S * turn) for turn in range(1, 9)]
    assert len(first.union(*met)) == 16


def test_a_node_does_not_meet_itself_or_anybody_twice() -> None:
    made, asking = neighbours()
    for known in (0, 1):
        asking.seen(member(known), COUNT, 0.0)
        made.told(member(known), COUNT, 0.0)
    assert meet(made, 0.0) == {"id1"}
    assert meet(made, 1.0) == set()
    assert set(made.known(1.0)) == {"id1"}


def test_for_those_that_have_gone_others_are_met() -> None:
    made, asking = neighbours(most=2)
    for number in range(1, 5):
        asking.seen(member(number), COUNT, 0.0)
    met = meet(made, 0.0)
    for _ in range(3):
        made.unanswered(f"source of {min(met)}")
    later = meet(made, 1.0, (f"source of {max(met)}",))
    assert len(later) == 2 and not later & met


def test_work_is_shared_with_those_that_fetch_and_do_what_they_are_asked_for() -> None:
    made, asking = neighbours()
    asking.seen(member(1), COUNT, 0.0)
    asking.seen(member(2, held=COUNT), COUNT, 0.0)
    asking.seen(member(3), COUNT, 0.0)
    made.told(member(4), COUNT, 0.0)
    meet(made, 0.0)
    assert set(made.sharing(COUNT, 0.0, ())) == {"id1", "id3", "id4"}
    assert set(made.sharing(COUNT, 0.0, {"source of id3"})) == {"id1", "id4"}
    for _ in range(3):
        made.unanswered("source of id1")
    assert made.useless(()) == {"id1"}
    made.answered("source of id1")
    assert made.useless(()) == set()


def test_who_never_answers_is_invented_and_who_once_did_is_not() -> None:
    made, asking = neighbours()
    for number in (1, 2):
        asking.seen(member(number), COUNT, 0.0)
    meet(made, 0.0)
    made.answered("source of id2")
    for _ in range(5):
        for source in ("source of id1", "source of id2", "a seed"):
            assert not made.is_invented(source)
            made.unanswered(source)
    assert made.is_invented("source of id1")
    assert not made.is_invented("source of id2") and not made.is_invented("a seed")
