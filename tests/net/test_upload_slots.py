"""Places: whose turn it is, how many there are, and that none is ever lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlaysync.net.bounds import SERVER, ServerBounds
from overlaysync.net.upload_slots import NoSlotError, UploadSlots

LONG = 1000.0
CALM = replace(SERVER, places=1, wait_s=LONG, place_s=LONG)
"""One place, and no time passes."""


class Hall:
    """Bodies that ask for a place and keep it until they are told to go."""

    def __init__(self, bounds: ServerBounds, most: int = 64) -> None:
        self.places = UploadSlots(bounds, most)
        self.entered: list[str] = []
        self.inside: Counter[str] = Counter()
        self.gave_way: list[str] = []
        self._bodies: list[tuple[asyncio.Task[None], asyncio.Event]] = []

    def ask(self, client: str) -> asyncio.Task[None]:
        go = asyncio.Event()
        task = asyncio.create_task(self._body(client, go))
        self._bodies.append((task, go))
        return task

    async def _body(self, client: str, go: asyncio.Event) -> None:
        async with self.places.place(client, lambda: self._give_way(client, go)):
            self.entered.append(client)
            self.inside[client] += 1
            try:
                await go.wait()
            finally:
                self.inside[client] -= 1

    def _give_way(self, client: str, go: asyncio.Event) -> None:
        self.gave_way.append(client)
        go.set()

    def end(self, number: int) -> None:
        self._bodies[number][1].set()

    def cancel(self, number: int) -> None:
        self._bodies[number][0].cancel()

    async def run_to_the_end(self) -> list[BaseException | None]:
        """Each that gets a place goes at once; how they ended."""
        for _, go in self._bodies:
            go.set()
        tasks = [task for task, _ in self._bodies]
        async with asyncio.timeout(10):
            return await asyncio.gather(*tasks, return_exceptions=True)

    async def capacity(self) -> int:
        """How many get in at once, when nobody is here; no time passes for them, however long it takes."""
        assert not self.inside.total()
        self.places._bounds = replace(self.places._bounds, place_s=LONG)
        tasks = [self.ask("test") for _ in range(70)]
        await settle()
        found = self.inside.total()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return found


async def settle() -> None:
    """Let everybody do what can be done without the passing of time."""
    for _ in range(20):
        await asyncio.sleep(0)


async def soon(condition: Callable[[], bool]) -> None:
    """Wait until something has happened."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


def within(seconds: float, work: Awaitable[None]) -> Awaitable[None]:
    return asyncio.wait_for(work, seconds)


# -- turns -------------------------------------------------------------------------------------------


async def test_clients_take_turns_however_many_requests_each_has() -> None:
    hall = Hall(CALM)
    for client, count in (("many", 20), ("few", 3), ("one", 1)):
        for _ in range(count):
            hall.ask(client)
    await settle()
    assert hall.entered == ["many"]
    await hall.run_to_the_end()
    assert hall.entered[1:9] == ["many", "few", "one", "many", "few", "many", "few", "many"]
    assert Counter(hall.entered) == {"many": 20, "few": 3, "one": 1}


async def test_who_comes_when_somebody_waits_does_not_get_in_before() -> None:
    hall = Hall(CALM)
    for client in "abc":
        hall.ask(client)
    await settle()
    hall.end(0)
    hall.ask("d")  # in the moment the place becomes free
    await settle()
    assert hall.entered == ["a", "b"]
    await hall.run_to_the_end()
    assert hall.entered == ["a", "b", "c", "d"]


# -- how many ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("places", "most", "expected"), [(8, 64, 8), (8, 3, 3), (1, 64, 1)])
async def test_so_many_are_sent_at_once(places: int, most: int, expected: int) -> None:
    hall = Hall(replace(CALM, places=places), most)
    for _ in range(2):
        assert await hall.capacity() == expected


@pytest.mark.parametrize("when", ["before their time is over", "after it"])
async def test_who_is_slow_holds_up_nobody_but_counts(when: str) -> None:
    hall = Hall(replace(CALM, places=1, place_s=0.02), most=3)
    slow = [hall.ask(client) for client in "abc"]
    if when == "after it":
        await soon(lambda: hall.inside.total() == 3)
        await asyncio.wait(slow, timeout=0.1)
    for client in "de":
        hall.ask(client)
    await soon(lambda: hall.inside.total() >= 3)  # none of them has gone
    await asyncio.wait(slow, timeout=0.1)
    assert hall.entered == ["a", "b", "c"]
    hall.end(0)
    await soon(lambda: hall.entered == ["a", "b", "c", "d"])
    assert hall.inside.total() == 3
    await hall.run_to_the_end()
    assert await hall.capacity() == 1


async def test_a_body_that_goes_in_time_gives_its_place_back_once() -> None:
    hall = Hall(replace(CALM, places=2, place_s=0.02))
    hall.ask("a")
    await settle()
    hall.end(0)
    await settle()
    longer = hall.ask("b")
    await asyncio.wait({longer}, timeout=0.1)  # both times are over
    await hall.run_to_the_end()
    assert await hall.capacity() == 2


# -- who gives way -----------------------------------------------------------------------------------


async def full_of_slow(clients: str, **bounds: float) -> Hall:
    """A hall in which everything is taken by slow bodies, begun in this order."""
    hall = Hall(replace(CALM, places=8, place_s=0.02, **bounds), most=len(clients))  # type: ignore[arg-type]
    for client in clients:
        hall.ask(client)
    await soon(lambda: hall.places.slow == len(clients))
    return hall


async def test_who_has_most_slow_bodies_gives_way_to_who_waits() -> None:
    hall = await full_of_slow("abbbaacbb")
    hall.ask("z")
    await soon(lambda: hall.inside["z"] == 1)
    assert hall.gave_way == ["b"]
    assert hall.inside == {"a": 3, "b": 4, "c": 1, "z": 1}
    await hall.run_to_the_end()


async def test_nobody_gives_way_to_who_would_have_more_then() -> None:
    hall = await full_of_slow("aabbc", wait_s=0.2)
    refused = hall.ask("a"), hall.ask("b"), hall.ask("c")
    with pytest.raises(NoSlotError):
        await within(5, refused[0])
    await asyncio.wait(refused)
    assert hall.gave_way == []
    await hall.run_to_the_end()


async def test_what_was_given_up_goes_to_who_has_fewest() -> None:
    hall = await full_of_slow("aaaabbbb")
    for client in "aaabbbz":  # z is last in line
        hall.ask(client)
    await soon(lambda: hall.inside["z"] == 1)
    assert len(hall.gave_way) == 1
    await hall.run_to_the_end()


async def test_a_body_that_is_fast_enough_never_gives_way() -> None:
    hall = Hall(replace(CALM, places=8, wait_s=0.1), most=8)
    for _ in range(8):
        hall.ask("a")
    await settle()
    with pytest.raises(NoSlotError):
        await within(5, hall.ask("z"))
    assert hall.gave_way == []
    await hall.run_to_the_end()


# -- who does not get in -----------------------------------------------------------------------------


async def test_a_line_that_does_not_move_ends() -> None:
    hall = Hall(replace(CALM, wait_s=0.02))
    hall.ask("a")
    late = hall.ask("b")
    with pytest.raises(NoSlotError):
        await within(5, late)
    await hall.run_to_the_end()
    assert hall.entered == ["a"]
    assert await hall.capacity() == 1


async def test_a_line_has_an_end() -> None:
    hall = Hall(replace(CALM, waiting=2))
    for client in "abc":
        hall.ask(client)
    await settle()
    refused = hall.ask("d")
    with pytest.raises(NoSlotError):
        await within(5, refused)
    hall.end(0)
    await settle()
    hall.ask("e")  # one has got in: there is room again
    endings = await hall.run_to_the_end()
    assert [type(ending) for ending in endings].count(NoSlotError) == 1
    assert hall.entered == ["a", "b", "c", "e"]


async def test_who_goes_while_waiting_leaves_no_gap() -> None:
    hall = Hall(CALM)
    for client in "abc":
        hall.ask(client)
    await settle()
    hall.cancel(1)
    hall.end(0)
    await soon(lambda: hall.entered == ["a", "c"])
    await hall.run_to_the_end()
    assert await hall.capacity() == 1


@pytest.mark.parametrize("first", ["place", "cancellation"])
async def test_who_goes_in_the_moment_of_the_turn_leaves_no_gap(first: str) -> None:
    hall = Hall(CALM)
    for client in "abc":
        hall.ask(client)
    await settle()
    if first == "place":
        hall.end(0)
        await asyncio.sleep(0)  # the body ends, and b is called; it has not run yet
        hall.cancel(1)
    else:
        hall.cancel(1)
        hall.end(0)
    await soon(lambda: hall.entered[1:] == ["c"])
    await hall.run_to_the_end()
    assert await hall.capacity() == 1


async def test_a_body_that_is_cancelled_gives_its_place_back() -> None:
    hall = Hall(CALM)
    hall.ask("a")
    hall.ask("b")
    await settle()
    hall.cancel(0)
    await soon(lambda: hall.entered == ["a", "b"])
    await hall.run_to_the_end()
    assert await hall.capacity() == 1


@given(
    places=st.integers(1, 3),
    most=st.integers(1, 4),
    waiting=st.integers(0, 5),
    steps=st.lists(
        st.tuples(st.sampled_from(["ask", "ask", "end", "cancel", "tick"]), st.integers(0, 30)), max_size=60
    ),
)
@pytest.mark.slow
def test_whatever_happens_in_whatever_order_no_place_is_lost(
    places: int, most: int, waiting: int, steps: list[tuple[str, int]]
) -> None:
    async def play() -> None:
        hall = Hall(replace(CALM, places=places, waiting=waiting), most)
        asked = 0
        for what, number in steps:
            if what == "ask":
                hall.ask("abc"[number % 3])
                asked += 1
            elif what == "tick":
                await asyncio.sleep(0)
            elif asked:
                (hall.end if what == "end" else hall.cancel)(number % asked)
            assert hall.inside.total() <= min(places, most)
        for ending in await hall.run_to_the_end():
            assert ending is None or isinstance(ending, NoSlotError | asyncio.CancelledError)
        assert await hall.capacity() == min(places, most)

    asyncio.run(play())
