"""Places for bodies with image data: few are sent at once, the others wait in line.

A body that is sent with few others at its side is there sooner, and can be passed on sooner. Clients take
turns, however many requests each of them has in line. A body keeps its place for a moment only: who takes the
bytes slowly, or not at all, does not hold up the others.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from overlaysync.net.bounds import ServerBounds


class NoPlaceError(Exception):
    """Too many bodies are under way or in line."""


class Places:
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
        self._waiting = 0
        self._lines: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def place(self, client: str) -> AsyncIterator[None]:
        """A place while the block runs, after waiting for it.

        Raises:
            NoPlaceError: the line is too long, or does not move.
        """
        if self._waiting or not self._take():
            await self._wait(client)
        vacate = _Once(self._vacate)
        timer = asyncio.get_running_loop().call_later(self._bounds.place_s, vacate)
        try:
            yield
        finally:
            self._bodies -= 1
            timer.cancel()
            vacate()
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
            raise NoPlaceError
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lines.setdefault(client, deque()).append(turn)
        self._waiting += 1
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
                raise NoPlaceError from None
            raise

    def _vacate(self) -> None:
        self._free += 1
        self._call_next()

    def _call_next(self) -> None:
        """Give free places to those in line, one client after the other."""
        while self._waiting and self._free and self._bodies < self._most:
            client, line = self._lines.popitem(last=False)
            turn = line.popleft()
            self._waiting -= 1
            if line:
                self._lines[client] = line
            if not turn.done():  # else it has just been cancelled
                self._take()
                turn.set_result(None)

    def _forget(self, client: str, turn: asyncio.Future[None]) -> None:
        line = self._lines.get(client)
        if line and turn in line:
            line.remove(turn)
            self._waiting -= 1
            if not line:
                del self._lines[client]


class _Once:
    """A call that is made once, whoever makes it first."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call: Callable[[], None] | None = call

    def __call__(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call()
