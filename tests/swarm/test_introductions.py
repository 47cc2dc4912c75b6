"""Sources are tried one of a host at first, then twice as many."""

from __future__ import annotations

from overlaysync.swarm.introductions import STALL_S, Introductions


def known(**hosts: int) -> Introductions:
    introductions = Introductions()
    for host, count in hosts.items():
        for number in range(count):
            introductions.know(f"{host}{number}", host)
    return introductions


def test_one_of_each_host_is_tried_at_first() -> None:
    introductions = known(a=60, b=1, c=3)
    assert sorted(introductions.next(0)) == ["a0", "b0", "c0"]
    assert introductions.next(1) == []


def test_who_gives_brings_in_others_of_its_host_alone() -> None:
    introductions = known(a=60, c=60)
    counts = [len(introductions.next(0))]
    for _ in range(4):
        introductions.came("a0", 0)
        counts.append(len(introductions.next(0)))
    assert counts == [2, 1, 2, 4, 8]
    assert introductions.next(0) == [], "c is where it was"


def test_what_others_give_keeps_a_silent_host_s_others_out() -> None:
    introductions = known(silent=60, good=1)
    introductions.next(0)
    now = 0.0
    while now < 600:
        now += STALL_S / 2
        introductions.came("good0", now)
        assert introductions.next(now) == []


def test_when_nothing_comes_all_are_tried_in_a_few_steps() -> None:
    introductions, now, tried = known(a=60), 0.0, 0
    while introductions.waiting:
        tried += len(introductions.next(now))
        now += STALL_S
    assert tried == 60 and now <= 8 * STALL_S


def test_when_there_is_nobody_else_to_ask_nothing_is_waited_for() -> None:
    introductions = known(a=4)
    counts = [len(introductions.next(0, at_a_loss=True)) for _ in range(3)]
    assert counts == [1, 1, 2]
    assert not introductions.waiting


def test_who_comes_later_is_tried_where_there_is_room() -> None:
    introductions = known(a=1)
    assert introductions.next(0) == ["a0"]
    introductions.know("a0", "a")
    introductions.know("b0", "b")
    introductions.know("a1", "a")
    assert introductions.next(0) == ["b0"]
    introductions.came("a0", 0)
    assert introductions.next(0) == ["a1"]
