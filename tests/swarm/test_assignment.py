"""Duty: every piece is one node's, all agree, and a change moves no more than it must."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlaysync.swarm.assignment import Assignment

COUNT = 4000
ROOM = [f"node{number}" for number in range(9)]


def duties(members: list[str], count: int = COUNT) -> dict[str, Assignment]:
    made = {member: Assignment(member, count) for member in members}
    for duty in made.values():
        duty.share_with(members)
    return made


def owners(members: list[str]) -> list[str]:
    """Whose duty each piece is."""
    made = duties(members)
    assert (np.sum([duty.mine for duty in made.values()], axis=0) == 1).all()
    return [next(name for name, duty in made.items() if duty.mine[piece]) for piece in range(COUNT)]


def test_alone_everything_is_mine() -> None:
    assert Assignment("a", 7).mine.tolist() == [True] * 7
    assert Assignment("a", 0).mine.tolist() == []


def test_each_piece_is_the_duty_of_one_node() -> None:
    owner = owners(ROOM)
    for name in ROOM:
        assert owner.count(name) == pytest.approx(COUNT / len(ROOM), rel=0.2)


def test_who_joins_takes_pieces_and_moves_no_others() -> None:
    before, after = owners(ROOM[:-1]), owners(ROOM)
    moved = [piece for piece in range(COUNT) if before[piece] != after[piece]]
    assert {after[piece] for piece in moved} == {ROOM[-1]}
    assert len(moved) == pytest.approx(COUNT / len(ROOM), rel=0.2)


def test_all_agree_on_who_comes_next() -> None:
    """Scores order the nodes: with the first gone, a piece falls to the one with the next score."""
    scores = np.array([Assignment(name, COUNT).scores for name in ROOM])
    second = np.argsort(scores, axis=0)[-2]
    first = np.argmax(scores, axis=0)
    rest = owners(ROOM[1:])
    for piece in np.flatnonzero(first == 0):
        assert rest[piece] == ROOM[second[piece]]


def test_each_piece_comes_to_all_nodes_in_an_order() -> None:
    made = duties(ROOM)
    ranks = np.sort([duty.rank for duty in made.values()], axis=0)
    assert (ranks == np.arange(len(ROOM))[:, None]).all()
    without = duties(ROOM[1:])
    for name in ROOM[1:]:
        inherited = (made[name].rank == 1) & made[ROOM[0]].mine
        assert (without[name].mine == made[name].mine | inherited).all()


def test_the_scores_are_the_same_on_every_machine() -> None:
    """Against splitmix64 in plain numbers."""
    mask = (1 << 64) - 1
    seed = int.from_bytes(hashlib.blake2b(b"a", digest_size=8).digest(), "little")
    scores = []
    for number in range(1, 4):
        z = (number * 0x9E3779B97F4A7C15 & mask) ^ seed
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
        scores.append(z ^ z >> 31)
    assert Assignment("a", 3).scores.tolist() == scores


@given(st.lists(st.sets(st.sampled_from(ROOM)), max_size=6))
@pytest.mark.slow
def test_like_a_new_one_whatever_went_before(turns: list[set[str]]) -> None:
    duty, before = Assignment("node0", 64), set[str]()
    for others in turns:
        changed = duty.share_with(others)
        assert changed == (others - {"node0"} != before)
        before = others - {"node0"}
        fresh = Assignment("node0", 64)
        fresh.share_with(others)
        assert (duty.mine == fresh.mine).all() and (duty.rank == fresh.rank).all()
