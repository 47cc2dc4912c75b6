"""What the schedule does when sources are good, wrong, busy, gone or lost; the clock is the test's."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from overlaysync.model.datamap import DataMap
from overlaysync.model.digest import UNALLOCATED
from overlaysync.model.pages import PageListBuilder
from overlaysync.swarm.schedule import MAX_RUNS, Failure, Request, Schedule

UNIT = 4096
SHORT = 512


def data_map(count: int) -> DataMap:
    """``count`` slots of 4096 bytes, the last of 512."""
    rows = [(number + 2).to_bytes(32, "big") for number in range(count)]
    kept: dict[bytes, bytes] = {}
    size = max(0, (count - 1) * UNIT + SHORT)
    builder = PageListBuilder(virtual_size=size, unit=UNIT, parent=UNALLOCATED, keep=kept.__setitem__)
    if rows:
        builder.add(0, b"".join(rows))
    return DataMap(builder.build(), kept.__getitem__)


def schedule(
    count: int = 12,
    *,
    sources: str = "a",
    per_request: int = 4,
    per_source: int = 3,
    missing: list[tuple[int, int]] | None = None,
) -> Schedule:
    made = Schedule(
        [(0, count)] if missing is None else missing,
        data_map(count),
        request_size=per_request * UNIT,
        per_source=per_source,
    )
    for source in sources:
        made.add_source(source)
    return made


def ask(made: Schedule, now: float = 0.0) -> Request:
    request = made.next_request(now)
    assert request is not None
    return request


def slots_of(request: Request) -> list[int]:
    return [slot for first, count in request.runs for slot in range(first, first + count)]


def drain(made: Schedule, now: float = 0.0) -> list[Request]:
    """All requests, each answered at once."""
    done = []
    while request := made.next_request(now):
        made.succeeded(request)
        done.append(request)
    return done


# -- when all goes well ------------------------------------------------------------------------------


def test_slots_are_handed_out_once_and_in_order() -> None:
    made = schedule(10)
    requests = drain(made)
    assert [slot for request in requests for slot in slots_of(request)] == [*range(10)]
    assert [request.size for request in requests] == [4 * UNIT, 4 * UNIT, UNIT + SHORT]
    assert made.finished and not made.exhausted
    assert made.delivered() == {"a": 9 * UNIT + SHORT}


def test_only_what_is_missing_is_asked_for() -> None:
    made = schedule(20, missing=[(1, 2), (5, 1), (9, 7)])
    assert [request.runs for request in drain(made)] == [((1, 2), (5, 1), (9, 1)), ((10, 4),), ((14, 2),)]


def test_nothing_missing() -> None:
    made = schedule(5, missing=[])
    assert made.finished and not made.exhausted and made.next_request(0.0) is None


def test_a_request_has_a_bounded_number_of_runs() -> None:
    made = schedule(1000, per_request=500, missing=[(slot, 1) for slot in range(0, 1000, 2)])
    requests = drain(made)
    assert max(len(request.runs) for request in requests) == MAX_RUNS
    assert [slot for request in requests for slot in slots_of(request)] == [*range(0, 1000, 2)]


def test_a_request_has_a_slot_however_small_it_should_be() -> None:
    made = Schedule([(0, 3)], data_map(3), request_size=1)
    made.add_source("a")
    assert [request.runs for request in drain(made)] == [((0, 1),), ((1, 1),), ((2, 1),)]


def test_sources_share_the_work() -> None:
    made = schedule(12, sources="abc", per_request=1, per_source=2)
    requests = [ask(made) for _ in range(6)]
    assert sorted(request.source for request in requests) == [*"aabbcc"]
    assert made.next_request(0.0) is None
    made.succeeded(requests[2])
    assert ask(made).source == requests[2].source


def test_a_source_that_comes_late_is_asked_too() -> None:
    made = schedule(4, per_request=1, per_source=1)
    assert ask(made).source == "a"
    assert made.next_request(0.0) is None
    made.add_source("b")
    made.add_source("a")
    assert ask(made).source == "b"
    assert made.next_request(0.0) is None


# -- when it does not --------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [Failure.WRONG, Failure.GONE])
def test_a_source_that_lies_or_has_nothing_is_never_asked_again(failure: Failure) -> None:
    made = schedule(8, sources="ab", per_source=1)
    bad = ask(made)
    made.failed(bad, failure, 0.0)
    made.add_source(bad.source)
    requests = drain(made, 1e9)
    assert {request.source for request in requests} == {"b"}
    assert sorted(slot for request in requests for slot in slots_of(request)) == [*range(8)]
    assert made.finished and made.dropped() == {"a": failure}
    assert made.delivered() == {"b": 7 * UNIT + SHORT}


def test_what_came_whole_in_a_wrong_answer_is_not_asked_for_again() -> None:
    made = schedule(8, sources="ab", per_request=8)
    made.failed(ask(made), Failure.WRONG, 0.0, missing=[(2, 1), (5, 2)])
    assert ask(made).runs == ((2, 1), (5, 2))


def test_what_failed_comes_first() -> None:
    made = schedule(12, sources="ab", per_request=4)
    first, second = ask(made), ask(made)
    made.failed(first, Failure.GONE, 0.0)
    assert ask(made).runs == first.runs
    made.succeeded(second)


def test_a_busy_source_is_asked_when_it_said() -> None:
    made = schedule(4)
    made.failed(ask(made, 10.0), Failure.BUSY, 10.0, retry_after=3.0)
    assert made.next_request(12.9) is None
    assert not made.exhausted and not made.finished
    assert ask(made, 13.0).source == "a"


def test_others_are_asked_while_one_is_busy() -> None:
    made = schedule(4, sources="ab")
    made.failed(ask(made), Failure.BUSY, 0.0, retry_after=30.0)
    assert {request.source for request in drain(made)} == {"b"}
    assert made.dropped() == {}


def test_a_lost_source_is_asked_ever_later_and_then_given_up() -> None:
    made = schedule(4)
    now, waits = 100.0, []
    request = ask(made, now)
    while True:
        made.failed(request, Failure.LOST, now)
        if made.dropped():
            break
        failed_at = now
        while (again := made.next_request(now)) is None:
            now += 0.25
        request = again
        waits.append(now - failed_at)
    assert waits == [1.0, 2.0, 4.0]
    assert made.dropped() == {"a": Failure.LOST} and made.exhausted


def test_requests_that_die_together_are_one_strike() -> None:
    made = schedule(12, per_request=1, per_source=3)
    for turn in range(3):
        now = 10.0 * turn
        for request in [ask(made, now) for _ in range(3)]:
            made.failed(request, Failure.LOST, now)
        assert made.dropped() == {}
    for request in [ask(made, 100.0) for _ in range(3)]:
        made.failed(request, Failure.LOST, 100.0)
    assert made.dropped() == {"a": Failure.LOST}


def test_success_wipes_the_strikes_away() -> None:
    made = schedule(100, per_request=1)
    for turn in range(20):
        now = turn * 100.0
        made.failed(ask(made, now), Failure.LOST, now)
        made.succeeded(ask(made, now + 50.0))
    assert made.dropped() == {}


def test_a_lost_source_waits_behind_a_good_one() -> None:
    made = schedule(10, sources="ab", per_request=1)
    made.failed(ask(made), Failure.LOST, 0.0)
    assert [ask(made, 50.0).source for _ in range(2)] == ["b", "a"]


def test_exhausted_only_when_nobody_is_left() -> None:
    assert schedule(1, sources="").exhausted
    made = schedule(2, sources="ab", per_request=1)
    one, other = ask(made), ask(made)
    made.failed(one, Failure.GONE, 0.0)
    assert (made.exhausted, made.finished) == (False, False)
    made.failed(other, Failure.GONE, 0.0)
    assert (made.exhausted, made.finished) == (True, False)
    made.add_source("c")
    assert (made.exhausted, made.finished) == (False, False)
    drain(made)
    assert (made.exhausted, made.finished) == (False, True)


# -- whatever happens --------------------------------------------------------------------------------


class AnyEvents(RuleBasedStateMachine):
    """Every slot is in one place; nobody is asked who should not be; and in the end all arrive."""

    COUNT = 40

    @initialize(
        missing=st.sets(st.integers(0, COUNT - 1)),
        per_request=st.integers(1, 7),
        per_source=st.integers(1, 3),
    )
    def start(self, missing: set[int], per_request: int, per_source: int) -> None:
        self.data = data_map(self.COUNT)
        self.room = per_request
        self.per_source = per_source
        runs = [(slot, 1) for slot in sorted(missing)]
        self.made = Schedule(
            runs, self.data, request_size=per_request * UNIT + UNIT // 2, per_source=per_source
        )
        self.missing = set(missing)
        self.flying: list[Request] = []
        self.now = 0.0
        self.dropped: set[str] = set()
        self.not_before: dict[str, float] = {}
        self.known: set[str] = set()
        self.bytes = 0

    @rule(source=st.sampled_from("abcd"))
    def come(self, source: str) -> None:
        self.made.add_source(source)
        self.known.add(source)

    @rule(seconds=st.sampled_from([0.1, 1.0, 3.0, 20.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def ask(self) -> None:
        request = self.made.next_request(self.now)
        if request is None:
            return
        slots = slots_of(request)
        assert request.source in self.known - self.dropped
        assert self.not_before.get(request.source, 0.0) <= self.now
        assert len([one for one in self.flying if one.source == request.source]) < self.per_source
        assert 0 < len(slots) <= self.room and len(request.runs) <= MAX_RUNS
        assert request.size == sum(SHORT if slot == self.COUNT - 1 else UNIT for slot in slots)
        flying = {slot for one in self.flying for slot in slots_of(one)}
        assert set(slots) <= self.missing - flying and len(set(slots)) == len(slots)
        self.flying.append(request)

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def succeed(self, data: st.DataObject) -> None:
        request = self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))
        self.made.succeeded(request)
        self.missing -= set(slots_of(request))
        self.bytes += request.size

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), failure=st.sampled_from(Failure), after=st.sampled_from([0.0, 0.5, 5.0]))
    def fail(self, data: st.DataObject, failure: Failure, after: float) -> None:
        request = self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))
        lost: list[tuple[int, int]] | None = None
        if failure is Failure.WRONG and data.draw(st.booleans()):
            bad = data.draw(st.sets(st.sampled_from(slots_of(request)), min_size=1))
            lost = [(slot, 1) for slot in sorted(bad)]
            self.missing -= set(slots_of(request)) - bad
        self.made.failed(request, failure, self.now, missing=lost, retry_after=after)
        if failure in (Failure.WRONG, Failure.GONE):
            self.dropped.add(request.source)
        elif failure is Failure.BUSY:
            self.not_before[request.source] = self.now + after
        if failure is Failure.LOST and self.made.dropped().get(request.source):
            self.dropped.add(request.source)

    @invariant()
    def says_how_it_stands(self) -> None:
        if not hasattr(self, "made"):
            return
        assert self.made.finished == (not self.missing)
        flying = {slot for one in self.flying for slot in slots_of(one)}
        pending = bool(self.missing - flying)
        assert self.made.exhausted == (pending and not self.flying and self.known <= self.dropped)
        assert set(self.made.dropped()) == self.dropped
        assert sum(self.made.delivered().values()) == self.bytes

    def teardown(self) -> None:
        """One good source is enough to finish."""
        if not hasattr(self, "made"):
            return
        for request in self.flying:
            self.made.failed(request, Failure.GONE, self.now)
        self.made.add_source("good")
        asked = [slot for request in drain(self.made, self.now + 1e6) for slot in slots_of(request)]
        assert sorted(asked) == sorted(self.missing) and self.made.finished


AnyEvents.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_any_events = AnyEvents.TestCase
