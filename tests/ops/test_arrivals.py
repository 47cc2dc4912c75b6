"""Who waits for what is pulled gets each object as it comes, in whatever order, and learns of the end."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from overlaysync.errors import NoSpaceError, StoppedError
from overlaysync.ops.recovery.arrivals import Arrivals

pytestmark = pytest.mark.timeout(30)


def no_wait(_: int) -> None:
    raise AssertionError("nothing is waited for")


def test_what_nobody_pulls_is_not_waited_for() -> None:
    assert list(Arrivals().as_they_come(["a", "b"], no_wait)) == ["a", "b"]


def test_each_is_given_as_it_comes() -> None:
    arrivals = Arrivals()
    arrivals.expect(["a", "b", "c"])
    found = arrivals.as_they_come(["a", "b", "here"], no_wait)
    assert next(found) == "here"
    arrivals.settle("b")
    assert next(found) == "b"
    with ThreadPoolExecutor(1) as threads:
        other = threads.submit(lambda: list(arrivals.as_they_come(["c"], lambda _: None)))
        arrivals.settle("a")
        assert list(found) == ["a"]
        arrivals.settle("c")
        assert other.result() == ["c"]


def test_at_the_end_nothing_is_waited_for() -> None:
    arrivals = Arrivals()
    arrivals.expect(["a", "b"])
    arrivals.end()
    assert list(arrivals.as_they_come(["a", "b"], no_wait)) == ["a", "b"]


def test_a_pull_that_fails_ends_the_waiting() -> None:
    arrivals = Arrivals()
    arrivals.expect(["a", "b"])
    arrivals.settle("a")
    arrivals.end(NoSpaceError("full"))
    found = arrivals.as_they_come(["a", "b"], no_wait)
    assert next(found) == "a"
    with pytest.raises(NoSpaceError, match="full"):
        next(found)


def test_who_waits_can_be_told_to_stop() -> None:
    def stop(_: int) -> None:
        raise StoppedError("stopped")

    arrivals = Arrivals()
    arrivals.expect(["a"])
    with pytest.raises(StoppedError):
        next(arrivals.as_they_come(["a"], stop))
