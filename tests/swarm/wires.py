"""Links and places of simulated nodes: a clock with events, uplinks and downlinks, and who is served when.

Bodies cross the wire in parts. An uplink sends the parts of its bodies in turns, one after the other; a
part then waits its turn in the receiver's downlink; a body has at most WINDOW parts between the two. So
bodies share whichever link is the bottleneck evenly, and no link idles while a body could use it: near to
max-min fair, for two events a part.

Leaves out: loss, slow start and headers.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Any

WINDOW = 3
"""Parts of a body between uplink and downlink."""

PARTS = 4
"""Parts of a piece."""

YOUNG_S = 1.0
"""A body that takes longer gives its place free."""

YOUNG_BODIES = 8
ALL_BODIES = 64
WAITING = 512


class Clock:
    """Time that passes from event to event."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._number = count()

    def at(self, time: float, do: Callable[..., object], *args: Any) -> None:
        heapq.heappush(self._events, (time, next(self._number), do, args))

    def after(self, delay: float, do: Callable[..., object], *args: Any) -> None:
        self.at(self.now + delay, do, *args)

    def run(self, until: Callable[[], bool], deadline: float) -> None:
        """Let time pass until ``until()`` or ``deadline``."""
        while self._events and self._events[0][0] <= deadline and not until():
            self.now, _, do, args = heapq.heappop(self._events)
            do(*args)


class Body:
    """An answer with data on its way, or waiting for a place."""

    __slots__ = (
        "arrived_at",
        "began",
        "client",
        "credit",
        "ended",
        "key",
        "parked",
        "part",
        "server",
        "size",
        "unreceived",
        "unsent",
    )

    def __init__(self, key: Any, client: Wire, server: Wire, size: int, part: int, now: float) -> None:
        self.key = key
        self.client = client
        self.server = server
        self.size = self.unsent = self.unreceived = size
        self.part = part
        self.credit = WINDOW
        self.parked = False
        self.ended = False
        self.began = now
        self.arrived_at = now


class Wire:
    """The link of one node, and the places its server has.

    Args:
        clock: the time.
        up, down: bytes per second.
        latency: seconds one way.
        done: told each body that has come here whole.
        begun: told each body that has got a place here.
        left: told each body that has left here, and whether it has been sent whole.

    Attributes:
        sent_bytes: of bodies.
        said_bytes: of all else.
    """

    def __init__(
        self,
        clock: Clock,
        up: float,
        down: float,
        latency: float,
        done: Callable[[Body], None],
        *,
        begun: Callable[[Body], None] = lambda body: None,
        left: Callable[[Body, bool], None] = lambda body, whole: None,
    ):
        self.clock = clock
        self.up, self.down, self.latency = up, down, latency
        self.done, self.begun, self.left = done, begun, left
        self.is_cut = self.stalls = False
        self.sent_bytes = self.said_bytes = 0
        self._turns: deque[Body] = deque()
        self._sending = False
        self._said = 0
        self._down_free = 0.0
        self._held_back: list[Body] = []
        self._bodies: set[Body] = set()
        self._old: set[Body] = set()
        self._lines: dict[Wire, deque[Body]] = {}
        self._waiting = 0

    # -- places ---------------------------------------------------------------------------------------

    def request(self, body: Body) -> bool:
        """A request comes in; False when the server is too busy to let it wait."""
        if self._waiting >= WAITING:
            return False
        self._lines.setdefault(body.client, deque()).append(body)
        self._waiting += 1
        self._give_places()
        return True

    def cancel(self, body: Body) -> None:
        """A client has closed its connection."""
        if body.ended:
            return
        body.ended = True
        if body.unsent:
            self.left(body, False)
        line = self._lines.get(body.client)
        if line and body in line:
            line.remove(body)
            self._waiting -= 1
            if not line:
                del self._lines[body.client]
        self._free(body)

    def bodies(self) -> list[Body]:
        """All requests that are here."""
        return [*self._bodies, *(body for line in self._lines.values() for body in line)]

    def _give_places(self) -> None:
        while (
            self._waiting
            and len(self._bodies) - len(self._old) < YOUNG_BODIES
            and len(self._bodies) < ALL_BODIES
        ):
            client, line = next(iter(self._lines.items()))
            del self._lines[client]
            body = line.popleft()
            self._waiting -= 1
            if line:
                self._lines[client] = line
            self._begin(body)

    def _begin(self, body: Body) -> None:
        body.began = self.clock.now
        self._bodies.add(body)
        self.begun(body)
        self.clock.after(YOUNG_S, self._grow_old, body)
        if not self.stalls:
            self._turns.append(body)
            self._send()

    def _grow_old(self, body: Body) -> None:
        if body in self._bodies:
            self._old.add(body)
            self._give_places()

    def _free(self, body: Body) -> None:
        if body in self._bodies:
            self._bodies.discard(body)
            self._old.discard(body)
            self._give_places()

    # -- links ----------------------------------------------------------------------------------------

    def cut(self, seconds: float) -> None:
        """Nothing goes in or out for so long."""
        self.is_cut = True
        self.clock.after(seconds, self._heal)

    def say(self, size: int) -> None:
        """So many bytes beside the bodies: the next part has to wait for them."""
        self._said += size
        self.said_bytes += size

    def _heal(self) -> None:
        self.is_cut = False
        held_back, self._held_back = self._held_back, []
        for body in held_back:
            body.server.go_on(body)
        self._send()

    def go_on(self, body: Body) -> None:
        """Send more of a body that had to wait."""
        body.parked = False
        self._turns.append(body)
        self._send()

    def _send(self) -> None:
        if self._sending or self.is_cut:
            return
        while self._turns:
            body = self._turns.popleft()
            if body.ended:
                continue
            if body.client.is_cut:
                body.client._held_back.append(body)
                continue
            size = min(body.part, body.unsent)
            body.unsent -= size
            body.credit -= 1
            self._sending = True
            self.clock.after((size + self._said) / self.up, self._sent, body, size)
            self._said = 0
            return

    def _sent(self, body: Body, size: int) -> None:
        self._sending = False
        self.sent_bytes += size
        client = body.client
        client._down_free = max(self.clock.now + self.latency, client._down_free) + size / client.down
        self.clock.at(client._down_free, client._receive, body, size)
        if not body.unsent:
            if not body.ended:
                self.left(body, True)
            self._free(body)
        elif body.credit:
            self._turns.append(body)
        else:
            body.parked = True
        self._send()

    def _receive(self, body: Body, size: int) -> None:
        if body.ended:
            return
        if self.is_cut:
            self.clock.after(0.1, self._receive, body, size)
            return
        body.arrived_at = self.clock.now
        body.unreceived -= size
        body.credit += 1
        if body.parked:
            body.server.go_on(body)
        if not body.unreceived:
            body.ended = True
            self.done(body)
