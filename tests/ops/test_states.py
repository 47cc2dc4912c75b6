"""Which state is meant: forks, times, numbers, and VMs that were saved in different states."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import pytest
from msgspec.structs import replace

from overlaysync.errors import AmbiguousError, NotFoundError
from overlaysync.ops.recovery.choosing import Wish, choose, describe
from overlaysync.ops.recovery.tips import merged_past, newest_of_vms, tips
from overlaysync.trust.keys import NodeKey
from overlaysync.vault.state import Companion, Disk, Past, SavedVm, SignedState
from tests.vault.samples import ANN, BOB, a_state, a_vm, hash_like

pytestmark = pytest.mark.holds("A1")


def at(minute: int) -> str:
    return f"2026-01-31T12:{minute:02}:00Z"


_counters = count(1)


def vm(name: str, content: str) -> SavedVm:
    return a_vm(name, disks=(Disk(file="vm.raw", manifest=hash_like(content).hex()),), companions=())


_made: dict[str, SignedState] = {}


def _before(follows: Sequence[SignedState]) -> list[SignedState]:
    """States and all that they follow."""
    found, waiting = {}, list(follows)
    while waiting:
        one = waiting.pop()
        found[one.id] = one
        waiting += [_made[id] for id in one.state.follows]
    return list(found.values())


def state(
    label: str, follows: Sequence[SignedState] = (), *vms: SavedVm, minute: int = 0, by: NodeKey = ANN
) -> SignedState:
    """A state of VMs that were made from what the states before it have."""
    past = {}
    for name, savings in newest_of_vms(_before(follows)).items():
        ends = [Past(node=one.node, counter=one.counter) for one in savings]
        past[name] = merged_past([*(one.vm.past for one in savings), ends])
    said = a_state(
        counter=next(_counters),
        number=1 + max((one.state.number for one in follows), default=0),
        follows=tuple(one.id.hex() for one in follows),
        saved=at(minute),
        vms=tuple(
            replace(one, past=tuple(Past(node=key, counter=at) for key, at in past.get(one.name, {}).items()))
            for one in vms or (vm("a", label),)
        ),
        note=label,
    )
    made = SignedState(hash_like(label), by.public, said, 100)
    _made[made.id.hex()] = made
    return made


def chosen(states: Sequence[SignedState], **wish: object) -> dict[str, str]:
    """VM → the note of the state that it comes from; asserts that none was refused."""
    found, refusals = choose(states, Wish("red", **wish))  # type: ignore[arg-type]
    assert not refusals
    return {saving.vm.name: saving.state.state.note for saving in found}


ONE = state("one", (), vm("a", "a1"), vm("b", "b1"), minute=1)
TWO = state("two", (ONE,), vm("a", "a2"), minute=2)
THREE = state("three", (TWO,), vm("b", "b3"), vm("c", "c3"), minute=3)
LINE = [ONE, TWO, THREE]


def test_each_vm_comes_from_where_it_was_saved_last() -> None:
    assert chosen(LINE) == {"a": "two", "b": "three", "c": "three"}
    assert chosen(LINE[::-1]) == chosen(LINE)
    assert chosen(LINE, vms=("b",)) == {"b": "three"}


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        ({"number": 2}, {"a": "two", "b": "one"}),
        ({"number": 1}, {"a": "one", "b": "one"}),
        ({"id": TWO.id.hex()[:8]}, {"a": "two", "b": "one"}),
        ({"before": at(2)}, {"a": "two", "b": "one"}),
        ({"before": "2026-01-31T12:02:59Z"}, {"a": "two", "b": "one"}),
        ({"before": at(59)}, {"a": "two", "b": "three", "c": "three"}),
    ],
)
def test_a_state_stands_for_the_whole_team_at_that_moment(
    wish: dict[str, object], expected: dict[str, str]
) -> None:
    assert chosen(LINE, **wish) == expected


@pytest.mark.parametrize(
    "wish",
    [{"number": 4}, {"id": "ffffffff"}, {"before": at(0)}, {"vms": ("d",)}, {"number": 1, "vms": ("c",)}],
)
def test_what_there_is_not_is_said(wish: dict[str, object]) -> None:
    with pytest.raises(NotFoundError) as caught:
        choose(LINE, Wish("red", **wish))  # type: ignore[arg-type]
    assert caught.value.hint.startswith("overlaysync history")
    with pytest.raises(NotFoundError, match="within reach"):
        choose([], Wish("red", **wish))  # type: ignore[arg-type]


LEFT = state("left", (ONE,), vm("a", "left"), minute=5)
RIGHT = state("right", (ONE,), vm("a", "right"), minute=4, by=BOB)
FORK = [ONE, LEFT, RIGHT]


@pytest.mark.red_without("A1", "of the sides of a fork of states the one saved last is taken")
def test_a_fork_is_refused_and_its_sides_are_listed() -> None:
    found, (refusal,) = choose(FORK, Wish("red"))
    assert [saving.vm.name for saving in found] == ["b"]
    assert refusal.name == "a"
    assert isinstance(refusal.error, AmbiguousError)
    assert sorted(refusal.error.candidates) == sorted(map(describe, (LEFT, RIGHT)))


def test_a_side_of_a_fork_is_chosen_by_its_id() -> None:
    assert chosen(FORK, id=LEFT.id.hex()) == {"a": "left", "b": "one"}
    assert chosen(FORK, id=RIGHT.id.hex()[:8]) == {"a": "right", "b": "one"}
    assert chosen(FORK, before=at(4)) == {"a": "right", "b": "one"}


def test_a_number_that_both_sides_have_is_ambiguous() -> None:
    with pytest.raises(AmbiguousError) as caught:
        choose(FORK, Wish("red", number=2))
    assert sorted(caught.value.candidates) == sorted(map(describe, (LEFT, RIGHT)))


def test_a_fork_of_other_vms_is_none_of_this_vm() -> None:
    other = state("other", (ONE,), vm("b", "b2"), minute=6, by=BOB)
    assert chosen([ONE, LEFT, other]) == {"a": "left", "b": "other"}


def test_two_sides_with_the_same_content_are_no_fork() -> None:
    same = state("same", (ONE,), vm("a", "left"), minute=7, by=BOB)
    assert chosen([ONE, LEFT, same])["a"] in ("left", "same")
    other = a_vm(
        "a",
        disks=vm("a", "left").disks,
        companions=(Companion(file="v", role="uefi", size=1, parts=("5e" * 32,)),),
    )
    _, refusals = choose([ONE, LEFT, state("other", (ONE,), other)], Wish("red"))
    assert [refusal.name for refusal in refusals] == ["a"], "companions count"


def test_a_later_state_settles_a_fork() -> None:
    settled = state("settled", (LEFT, RIGHT), vm("a", "left"), minute=8)
    assert chosen([*FORK, settled]) == {"a": "settled", "b": "one"}
    assert tips([*FORK, settled]) == [settled]


def test_tips_are_what_no_other_follows() -> None:
    assert {one.id for one in tips(FORK)} == {LEFT.id, RIGHT.id}
    assert tips(LINE) == [THREE] and tips([]) == []


def test_a_clock_that_is_wrong_changes_no_order() -> None:
    """What follows is newer, whatever its clock said."""
    early = state("early", (TWO,), vm("a", "a9"), minute=0)
    assert chosen([ONE, TWO, early])["a"] == "early"


def test_states_between_may_be_forgotten() -> None:
    """A VM says itself what it was made from."""
    fourth = state("fourth", (THREE,), vm("b", "b4"), minute=9, by=BOB)
    assert chosen([ONE, fourth]) == {"a": "one", "b": "fourth"}
    assert chosen([ONE, THREE, fourth], id=THREE.id.hex()) == {"a": "one", "b": "three", "c": "three"}


def test_what_is_known_is_not_what_a_vm_was_made_from() -> None:
    """A machine that keeps a team knows of the work of others, and has none of it."""
    known = state("known", (), vm("a", "mine"), minute=6, by=BOB)
    later = SignedState(
        hash_like("later"),
        BOB.public,
        a_state(number=3, follows=(TWO.id.hex(),), counter=900, vms=known.state.vms, saved=at(7)),
        100,
    )
    _, (refusal,) = choose([*LINE, later], Wish("red"))
    assert refusal.name == "a"


@pytest.mark.red_without("D1", "what a state follows is known only by the states that it names")
def test_a_state_between_that_was_forgotten() -> None:
    """By what each had seen of every node, the order is known all the same: of one node, and of several."""

    def of(node: NodeKey, number: int, counter: int, **seen: int) -> SignedState:
        keys = {"ann": ANN.public, "bob": BOB.public}
        said = tuple(sorted((keys[name].hex(), at) for name, at in seen.items()))
        follows = ("6f" * 32,) if number > 1 else ()
        state = a_state(number=number, counter=counter, follows=follows, seen=said, vms=(a_vm("a"),))
        return SignedState(hash_like(f"{node.public.hex()} {number}"), node.public, state, 1)

    first, third = of(ANN, 1, 1), of(ANN, 3, 4, ann=3)
    assert tips([first, third]) == [third]
    fifth = of(BOB, 5, 1, ann=4)
    assert tips([first, third, fifth]) == [fifth]
    apart = of(BOB, 5, 1, ann=3)
    assert len(tips([first, third, apart])) == 2
    # Who says that it has seen what comes after it is not believed.
    early = of(BOB, 2, 1, ann=99)
    assert tips([first, third, early]) == [third, early]


def test_what_a_stranger_wrote_is_shown_on_one_line() -> None:
    hostile = SignedState(
        hash_like("x"),
        ANN.public,
        a_state(by="a\x1b[31m\n", note="\u202ex\r\n", saved="9999-99-99T99:99:99Z"),
        1,
    )
    assert describe(hostile).isprintable()
