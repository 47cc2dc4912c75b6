"""The table of requests in flight: how many there may be, and which are late."""

from __future__ import annotations

import pytest

from overlaysync.swarm.requests import Request, RequestTable


def request(began: float = 0.0) -> Request:
    return Request("a", ((0, 4),), 4, (0,), began)


def room(table: RequestTable) -> int:
    """How many more there may be."""
    begun = 0
    while not table.is_full(0):
        table.begin(request())
        begun += 1
    return begun


@pytest.mark.parametrize(
    ("took", "most"), [([], 4), ([0.1], 5), ([0.1] * 50, 16), ([5.0], 3), ([5.0] * 50, 2)]
)
def test_quick_ones_let_more_begin_and_long_ones_fewer(took: list[float], most: int) -> None:
    table = RequestTable()
    for seconds in took:
        table.took(seconds)
    assert room(table) == most == len(table)


def test_what_is_late_leaves_room_for_others() -> None:
    table = RequestTable()
    room(table)
    assert table.is_full(0) and not table.is_full(1)


def test_who_has_ended_or_arrived_is_not_late() -> None:
    table = RequestTable()
    old = [request() for _ in range(3)]
    young = request(2.5)
    for each in (*old, young):
        table.begin(each)
    assert table.late(1.9) == []
    assert table.late(2.0) == old
    table.arrived(old[0])
    table.end(old[1])
    assert table.late(2.0) == [old[2]]
    assert list(table) == [old[0], old[2], young]


def test_what_takes_long_anyway_is_late_later() -> None:
    table = RequestTable()
    for _ in range(100):
        table.took(3.0)
    slow = request()
    table.begin(slow)
    assert table.late(11.9) == [] and table.late(12.1) == [slow]
