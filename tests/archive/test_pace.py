"""Requests keep to a rate and to a number at once, on a clock that the test moves."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from overlaysync.archive.pace import Pace


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def begin(pace: Pace, count: int) -> None:
    for _ in range(count):
        with pace.request():
            pass


def test_requests_keep_to_the_rate_after_a_short_burst() -> None:
    clock = Clock()
    pace = Pace(30, 8, lambda: clock.now, clock.sleep)
    begin(pace, 8)
    assert clock.slept == [0.0] * 8
    begin(pace, 300)
    assert clock.now == pytest.approx(1010)


def test_what_was_not_used_is_lost() -> None:
    clock = Clock()
    pace = Pace(10, 2, lambda: clock.now, clock.sleep)
    begin(pace, 1)
    clock.now += 3600
    begin(pace, 12)
    assert clock.now - 4600 == pytest.approx(1.0)


def test_a_wait_is_not_shorter_because_others_wait_too() -> None:
    clock = Clock()
    pace = Pace(10, 4, lambda: 0.0, clock.slept.append)
    begin(pace, 7)
    assert clock.slept == pytest.approx([0, 0, 0, 0, 0.1, 0.2, 0.3])


def test_no_more_than_so_many_at_once() -> None:
    pace, lock, under_way, most = Pace(1e6, 3), threading.Lock(), 0, 0
    full = threading.Barrier(3)

    def request(_: int) -> None:
        nonlocal under_way, most
        with pace.request():
            with lock:
                under_way += 1
                most = max(most, under_way)
            full.wait(20)  # three are inside at the same time
            with lock:
                under_way -= 1

    with ThreadPoolExecutor(9) as pool:
        list(pool.map(request, range(9)))
    assert most == 3


def test_a_failed_request_makes_room() -> None:
    pace = Pace(1e6, 1)
    with pytest.raises(ValueError), pace.request():
        raise ValueError
    begin(pace, 1)
