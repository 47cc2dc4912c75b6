"""The schedule of one transfer: which source is asked for which slots, and what a failure costs.

Sans-IO: the caller tells what happened (a source appeared, a request ended) and asks what to do next. Slots
are handed out in guest order, which is also the order in which they lie in the target. A source that sent
wrong bytes is never asked again; one that is busy or unreachable is asked later, a few times.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto

from overlaysync.model.datamap import DataMap

Runs = tuple[tuple[int, int], ...]

MAX_RUNS = 64
"""Most (first, count) runs in a request; the wire's own limit is higher."""

PER_SOURCE = 6
"""Requests in flight at one source: some on the wire, some being verified and written."""

_STRIKES = 4
_REFUSALS = 200
"""Busy answers in a row after which a source is given up: some minutes."""
_BACKOFF_S = 0.5


class Failure(Enum):
    """Why a request failed."""

    WRONG = auto()
    """Bytes did not match their digests."""
    GONE = auto()
    """The source does not have the manifest any more."""
    BUSY = auto()
    """The source asks to come back later."""
    LOST = auto()
    """Connection refused, cut, timed out or stalled."""


@dataclass(frozen=True, slots=True)
class Request:
    """Slots to be asked of one source, in this order."""

    source: str
    runs: Runs
    size: int


@dataclass(slots=True)
class _Source:
    in_flight: int = 0
    strikes: int = 0
    refusals: int = 0
    retry_at: float = 0.0
    dropped: Failure | None = None
    delivered: int = 0


class Schedule:
    """Hands out the missing slots.

    Args:
        missing: (first, count) runs.
        data: knows how many bytes they are.
        request_size: bytes aimed at per request.
        per_source: requests in flight at one source.
    """

    def __init__(
        self,
        missing: Iterable[tuple[int, int]],
        data: DataMap,
        *,
        request_size: int,
        per_source: int = PER_SOURCE,
    ) -> None:
        self.pending = deque(missing)
        self._span = data.span
        self._room = max(1, request_size // data.pages.unit)
        self._per_source = per_source
        self._sources: dict[str, _Source] = {}
        self._in_flight = 0

    def add_source(self, source: str) -> None:
        """A source that holds every slot; known ones stay as they are."""
        self._sources.setdefault(source, _Source())

    @property
    def finished(self) -> bool:
        """Whether nothing is missing and nothing in flight."""
        return not self.pending and not self._in_flight

    @property
    def exhausted(self) -> bool:
        """Whether something is missing and nobody is left to ask."""
        return (
            bool(self.pending)
            and not self._in_flight
            and all(source.dropped for source in self._sources.values())
        )

    def dropped(self) -> dict[str, Failure]:
        """The sources given up, and why."""
        return {name: source.dropped for name, source in self._sources.items() if source.dropped}

    def delivered(self) -> dict[str, int]:
        """Verified bytes by source."""
        return {name: source.delivered for name, source in self._sources.items() if source.delivered}

    def next_request(self, now: float) -> Request | None:
        """What to ask next, None when there is nothing to ask at present."""
        if not self.pending:
            return None
        ready = [
            (source.in_flight, source.strikes, name)
            for name, source in self._sources.items()
            if not source.dropped and source.in_flight < self._per_source and source.retry_at <= now
        ]
        if not ready:
            return None
        name = min(ready)[2]
        runs = self._take()
        self._sources[name].in_flight += 1
        self._in_flight += 1
        return Request(name, runs, sum(self._span(first, count) for first, count in runs))

    def succeeded(self, request: Request) -> None:
        """All bytes of ``request`` came and matched."""
        source = self._ended(request)
        source.strikes = source.refusals = 0
        source.delivered += request.size

    def failed(
        self,
        request: Request,
        failure: Failure,
        now: float,
        *,
        missing: Iterable[tuple[int, int]] | None = None,
        retry_after: float = 0.0,
    ) -> None:
        """``request`` failed; its slots (or those in ``missing``) are to be asked for again."""
        source = self._ended(request)
        self.pending.extendleft(reversed(list(request.runs if missing is None else missing)))
        if failure in (Failure.WRONG, Failure.GONE):
            source.dropped = failure
        elif failure is Failure.BUSY:
            source.retry_at = now + retry_after
            source.refusals += 1
            if source.refusals >= _REFUSALS:
                source.dropped = failure
        elif now >= source.retry_at:
            # Requests that die together with one connection are one strike.
            source.strikes += 1
            source.retry_at = now + _BACKOFF_S * 2**source.strikes
            if source.strikes >= _STRIKES:
                source.dropped = failure

    def _ended(self, request: Request) -> _Source:
        self._in_flight -= 1
        source = self._sources[request.source]
        source.in_flight -= 1
        return source

    def _take(self) -> Runs:
        """The next runs, ``request_size`` bytes of them at most."""
        room = self._room
        runs: list[tuple[int, int]] = []
        while self.pending and room and len(runs) < MAX_RUNS:
            first, count = self.pending.popleft()
            if count > room:
                self.pending.appendleft((first + room, count - room))
                count = room
            runs.append((first, count))
            room -= count
        return tuple(runs)
