"""Slots for bodies with image data: few are sent at once, the others wait in line.

A body that shares the link with few others arrives sooner, and can be passed on sooner. Clients take turns,
however many requests each of them has in line. A body keeps its slot for a moment only, so a client that
takes the bytes slowly, or not at all, does not hold up the others. Slow bodies count, though: when there are
as many as are allowed, the line does not move. Then the client with the most of them loses one to a client
that waits and has fewer, so that a few that read slowly on purpose cannot shut out the rest.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from overlaysync.net.bounds import ServerBounds


class NoSlotError(Exception):
    """Too many bodies are under way or in line."""


@dataclass(slots=True, eq=False)
class _Body:
    """A body under way.

    Attributes:
        client: whose it is.
        give_way: ends it.
        slow: its moment is over, and it has given its place back.
    """

    client: str
    give_way: Callable[[], None]
    slow: bool = False


class UploadSlots:
    """The places of one server.

    Args:
        bounds: how many, how long.
        most: bodies under way at most.
    """

    def __init__(self, bounds: ServerBounds, most: int) -> None:
        self._bounds = bounds
        self._most = most
        self._free = min(bounds.places, most)
        self._bodies = 0
        self._slow: dict[str, deque[_Body]] = {}  # whose moment is over, by client, the first begun first
        self._waiting = 0
        self._lines: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @property
    def in_line(self) -> int:
        """Requests that wait for a place."""
        return self._waiting

    @property
    def slow(self) -> int:
        """Bodies whose moment is over."""
        return sum(map(len, self._slow.values()))

    @asynccontextmanager
    async def place(self, client: str, give_way: Callable[[], None]) -> AsyncIterator[None]:
        """Hold a place while the block runs, after waiting for it.

        Args:
            client: its address.
            give_way: called when the body shall end early, for another client's: soon the block must be left.

        Raises:
            NoSlotError: the line is too long, or does not move.
        """
        if self._waiting or not self._take():
            await self._wait(client)
        body = _Body(client, give_way)
        timer = asyncio.get_running_loop().call_later(self._bounds.place_s, self._becomes_slow, body)
        try:
            yield
        finally:
            self._bodies -= 1
            timer.cancel()
            if body.slow:
                self._forget_slow(body)
            else:
                self._free += 1
            self._call_next()

    def _take(self) -> bool:
        """Take a place, if one is free."""
        if not self._free or self._bodies >= self._most:
            return False
        self._free -= 1
        self._bodies += 1
        return True

    async def _wait(self, client: str) -> None:
        if self._waiting >= self._bounds.waiting:
            raise NoSlotError
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._lines.setdefault(client, deque()).append(turn)
        self._waiting += 1
        loop.call_later(self._bounds.place_s, self._make_room, client, turn)
        try:
            async with asyncio.timeout(self._bounds.wait_s):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():  # the place came in the same moment
                self._bodies -= 1
                self._vacate()
            else:
                self._forget(client, turn)
            if isinstance(error, TimeoutError):
                raise NoSlotError from None
            raise

    def _vacate(self) -> None:
        self._free += 1
        self._call_next()

    def _call_next(self) -> None:
        """Give free places to those in line, one client after the other."""
        while self._waiting and self._free and self._bodies < self._most:
            client = self._next_client()
            line = self._lines.pop(client)
            turn = line.popleft()
            self._waiting -= 1
            if line:
                self._lines[client] = line
            if not turn.done():  # else it has just been cancelled
                self._take()
                turn.set_result(None)

    def _next_client(self) -> str:
        """Whose turn it is; who has fewer slow bodies goes first: for one of those somebody else gave way."""
        clients = iter(self._lines)
        return min(clients, key=self._slow_of) if self._slow else next(clients)

    def _forget(self, client: str, turn: asyncio.Future[None]) -> None:
        line = self._lines.get(client)
        if line and turn in line:
            line.remove(turn)
            self._waiting -= 1
            if not line:
                del self._lines[client]

    # -- slow bodies ---------------------------------------------------------------------------------

    def _becomes_slow(self, body: _Body) -> None:
        body.slow = True
        self._slow.setdefault(body.client, deque()).append(body)
        self._vacate()

    def _slow_of(self, client: str) -> int:
        return len(self._slow.get(client, ()))

    def _forget_slow(self, body: _Body) -> None:
        slow = self._slow.get(body.client)
        if slow and body in slow:  # else it has given way
            slow.remove(body)
            if not slow:
                del self._slow[body.client]

    def _make_room(self, client: str, turn: asyncio.Future[None]) -> None:
        """For a client that waits and waits: end a body of one that has more, and still has as many then."""
        if turn.done():
            return
        asyncio.get_running_loop().call_later(self._bounds.place_s, self._make_room, client, turn)
        if self._bodies < self._most or not self._slow:
            return  # the line moves
        most = max(self._slow, key=self._slow_of)
        if self._slow_of(most) > self._slow_of(client) + 1:
            body = self._slow[most][0]
            self._forget_slow(body)
            body.give_way()
