"""Pauses, and what is said once: bounded, whoever invents what they are for."""

from __future__ import annotations

import pytest

from overlaysync.node.pacing import Once, Pauses

pytestmark = pytest.mark.holds("N3")


class Ticking:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_pause_ends() -> None:
    ticks = Ticking()
    pauses = Pauses(ticks)
    assert pauses.are_over("a")
    pauses.begin("a", 10)
    ticks.now = 9.9
    assert not pauses.are_over("a") and pauses.are_over("b")
    ticks.now = 10
    assert pauses.are_over("a") and len(pauses) == 0


def test_pauses_are_bounded() -> None:
    pauses = Pauses(Ticking())
    for number in range(70_000):
        pauses.begin(number, 10)
    assert len(pauses) == 65_536
    assert pauses.are_over(0) and not pauses.are_over(69_999)


@pytest.mark.red_without("N3", "what was told by others is remembered without a bound")
def test_what_is_said_is_bounded() -> None:
    ticks, said = Ticking(), list[str]()
    once = Once(said.append, ticks)
    for number in range(5000):
        ticks.now += 10
        for _ in range(3):
            once.tell(f"{number} has lied")
    assert len(said) == len(set(said)) > 1024 and len(once) == 1024


def test_a_flood_is_not_said() -> None:
    ticks, said = Ticking(), list[str]()
    once = Once(said.append, ticks)
    for number in range(1000):
        once.tell(f"{number} has lied")
    assert len(said) == 120
    ticks.now += 3600
    once.tell("and now?")
    assert said[-1] == "and now?"
