"""The table of requests in flight: which there are, how many there may be, which are late, which are in vain.

Leaves out why they were made: that is :mod:`.policy`. Sans-IO: times are arguments, in seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import takewhile

from overlaysync.swarm.missing import Runs

_IN_FLIGHT = 16
"""Requests in flight in all; among others who fetch, seeds are asked beyond that. More would wait in lines
while their pieces could come from elsewhere, and what is asked for early is chosen badly. Many at once also
crowd each other out on one link: some lose packet after packet, and stand still for seconds."""

_FIRST_IN_FLIGHT = 4
_LONG_S = 4.0
"""So many at first, one more with each success, and one less when that took so long: on a slow link many
requests at once starve each other."""

_LATE_S = 2.0
_LATE_FACTOR = 4.0
"""A request is late after this time, and after this many times what requests take lately."""


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """Slots to be asked of one source, in this order.

    Attributes:
        source: whom to ask.
        runs: (first, count) of slots.
        size: bytes they have.
        pieces: the pieces they belong to.
        began: when it was made.
    """

    source: str
    runs: Runs
    size: int
    pieces: tuple[int, ...] = field(repr=False)
    began: float


class RequestTable:
    """The requests in flight, the oldest first."""

    def __init__(self) -> None:
        self._requests: dict[Request, None] = {}
        self._here: set[Request] = set()
        self._allowed = _FIRST_IN_FLIGHT
        self._typical_s = _LATE_S / _LATE_FACTOR

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[Request]:
        return iter(self._requests)

    def begin(self, request: Request) -> None:
        """Note that it is on its way."""
        self._requests[request] = None

    def arrived(self, request: Request) -> None:
        """Note that its bytes are here, to be verified: it is late no more."""
        self._here.add(request)

    def end(self, request: Request) -> None:
        """Note that it has ended, in whatever way."""
        del self._requests[request]
        self._here.discard(request)

    def took(self, seconds: float) -> None:
        """Learn from a success."""
        longer = seconds >= _LONG_S
        self._allowed = max(2, self._allowed - 1) if longer else min(self._allowed + 1, _IN_FLIGHT)
        self._typical_s = 0.9 * self._typical_s + 0.1 * seconds

    def late(self, now: float) -> list[Request]:
        """Return the requests that take too long, the oldest first."""
        since = now - max(_LATE_S, _LATE_FACTOR * self._typical_s)
        old = takewhile(lambda request: request.began <= since, self._requests)
        return [request for request in old if request not in self._here]

    def is_full(self, late: int) -> bool:
        """Whether there are as many as may be, not counting so many that are late."""
        return len(self._requests) - late >= self._allowed
