"""How states are listed: where two have one number, their ids tell them apart."""

from __future__ import annotations

import pytest

from overlaysync.cli.state_lines import StatesOfTeam, state_table
from overlaysync.errors import AmbiguousError
from overlaysync.ops.recovery.choosing import Wish, numbers_of, state_of
from overlaysync.vault.state import SignedState
from tests.vault.samples import ANN, BOB, a_state, hash_like


def state(word: str, number: int, *after: SignedState) -> SignedState:
    follows = tuple(one.id.hex() for one in after)
    said = a_state(number=number, follows=follows, counter=number)
    return SignedState(hash_like(word), (BOB if word == "b" else ANN).public, said, 100)


FIRST = state("first", 1)
A, B = state("a", 2, FIRST), state("b", 2, FIRST)
LAST = state("last", 3, A, B)
IDS = {name: hash_like(name).hex()[:8] for name in "ab"}


def test_states_with_one_number_are_told_apart() -> None:
    states = (FIRST, A, B, LAST)
    assert numbers_of(states) == {
        FIRST.id: "1",
        A.id: f"2 ({IDS['a']})",
        B.id: f"2 ({IDS['b']})",
        LAST.id: "3",
    }
    rows = list(state_table(StatesOfTeam("red", states, {}, frozenset()), 0.0).rows)
    assert rows[0][7] == f"follows 2 ({IDS['a']}) and 2 ({IDS['b']})"
    assert rows[1][7] == "follows 1" and rows[1][1] == IDS["b"]


def test_a_number_that_two_have_is_refused_with_their_ids() -> None:
    with pytest.raises(AmbiguousError) as refused:
        state_of((FIRST, A, B), Wish("red", number=2))
    assert [one for one in IDS.values() if not any(one in line for line in refused.value.candidates)] == []
    assert refused.value.hint == f"name it by its id, such as red:{IDS['b']}"
