"""The schedule of one transfer: which source is asked for which slots, and what a failure costs.

Sans-IO: the caller tells what happened (a source appeared, it said what it has, a request ended) and asks
what to do next. Times are arguments; seconds of any clock that only goes forward.

How slots are chosen, piece by piece (:mod:`overlaysync.model.pieces`):

* alone with sources that have everything: in guest order, in requests as large as the source is fast;
* among others who fetch, with no more complete sources than those: from the complete ones only what is this
  node's duty (:mod:`.duty`) and what nobody else has yet, so that a seed sends everything about once; all
  else from the others, rarest first;
* with complete sources enough for all: rarest first from everybody;
* when (almost) nothing is under way any more, whatever is left from whoever has it;
* what is late is asked a second time of somebody else, once nothing else is left to ask.

A source that sent wrong bytes is never asked again; one that is busy or unreachable is asked later.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from random import Random

import numpy as np
from numpy.typing import NDArray

from overlaysync.model.datamap import DataMap
from overlaysync.model.pieces import Pieces
from overlaysync.swarm.duty import Duty
from overlaysync.swarm.source import Failure, Source
from overlaysync.units import MIB

Runs = tuple[tuple[int, int], ...]

MAX_RUNS = 64
"""Most (first, count) runs in a request; the wire's own limit is higher."""

PER_SOURCE = 6
"""Requests in flight at one source: some on the wire, some being verified and written."""

PER_SWARM_SOURCE = 2
"""The same among others who fetch: there are many sources, and what is asked for early is chosen badly."""

_FIRST_REQUEST = MIB
"""Bytes asked for of a source whose pace is not known, when no other fetches."""

_REQUEST_S = 0.25
"""A request should take so long at the source's pace."""

_STARVING = 1
"""With so few requests under way the rules of duty are put aside."""

_LATE_S = 2.0
_LATE_FACTOR = 4.0
"""A request is late after this time, and after this many times what requests take lately."""

_ASK_S = 0.2
_ASK_MEMBER_S = 0.03
_ASK_COMPLETE_S = 1.0
"""What a source has is asked every 0.2 s and 0.03 s for each source there is; complete ones each second."""

_HOPELESS_S = 20.0
"""Sources that have nothing that is missing, and get nothing new for so long, will never have it."""


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


class Schedule:
    """Hands out the missing slots.

    Args:
        missing: (first, count) runs.
        data: knows how many bytes they are.
        request_size: most bytes in a request.
        per_source: requests in flight at one source.
        me: this node's member id.
        random: breaks ties.
    """

    def __init__(
        self,
        missing: Iterable[tuple[int, int]],
        data: DataMap,
        *,
        request_size: int,
        per_source: int = PER_SOURCE,
        me: str = "",
        random: Random | None = None,
    ) -> None:
        self.pieces = Pieces.of(data.count, data.pages.unit)
        self._span = data.span
        self._unit = data.pages.unit
        self._request_size = request_size
        self._per_source = per_source
        self._random = np.random.default_rng((random or Random()).getrandbits(64))
        self._duty = Duty(me, self.pieces.count)
        self._missing = np.zeros(data.count, dtype=np.bool_)
        for first, count in missing:
            self._missing[first : first + count] = True
        self._left = int(np.count_nonzero(self._missing))
        starts = np.arange(0, data.count, self.pieces.slots)
        self._open = (
            np.logical_or.reduceat(self._missing, starts) if data.count else np.zeros(0, dtype=np.bool_)
        )
        self._flying = np.zeros(self.pieces.count, dtype=np.int16)
        self._copies = np.zeros(self.pieces.count, dtype=np.int16)
        self._sources: dict[str, Source] = {}
        self._requests: set[Request] = set()
        self._fetchers = 0
        self._typical_s = _LATE_S / _LATE_FACTOR
        self._news_at: float | None = None
        self._looked_at = 0.0
        self._doubled = False

    # -- what is known -------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """Whether nothing is missing."""
        return not self._left

    def exhausted(self, now: float) -> bool:
        """Whether something is missing and nobody is left who has it, or is going to."""
        if not self._left or self._requests:
            return False
        live = [source for source in self._sources.values() if not source.dropped]
        if any(source.whole for source in live):
            return False
        return not live or (self._news_at is not None and now - self._news_at > _HOPELESS_S)

    def dropped(self) -> dict[str, Failure]:
        """The sources given up, and why."""
        return {name: source.dropped for name, source in self._sources.items() if source.dropped}

    def delivered(self) -> dict[str, int]:
        """Verified bytes by source."""
        return {name: source.delivered for name, source in self._sources.items() if source.delivered}

    @property
    def missing_size(self) -> int:
        """Bytes missing, to about one unit."""
        return self._left * self._unit

    @property
    def whole_count(self) -> int:
        """Pieces that are whole."""
        return self.pieces.count - int(np.count_nonzero(self._open))

    def held(self) -> list[int]:
        """The pieces that are whole, rising."""
        whole: list[int] = np.flatnonzero(~self._open).tolist()
        return whole

    def cursor(self, name: str) -> int:
        """How far the piece log of a source has been read."""
        return self._sources[name].cursor

    # -- what happens --------------------------------------------------------------------------------

    def add_source(self, name: str, *, whole: bool = True) -> None:
        """A source that holds everything, or (not ``whole``) one that is fetching; known ones stay."""
        if name not in self._sources:
            pieces = None if whole else np.zeros(self.pieces.count, dtype=np.bool_)
            self._sources[name] = Source(pieces)

    def share_with(self, fetchers: Iterable[str]) -> None:
        """These nodes (member ids) fetch the same at present."""
        others = set(fetchers)
        self._fetchers = len(others)
        if self._duty.share_with(others):
            self._wet()

    def heard(self, name: str, *, held: Sequence[int] | None, cursor: int, now: float) -> None:
        """A source said what it has.

        Args:
            name: which source.
            held: pieces it has since the last time; None for everything.
            cursor: where its next news will be.
            now: seconds.
        """
        source = self._sources[name]
        source.asking, source.cursor = False, cursor
        source.ask_at = now + self._interval(source)
        if source.dropped:
            return
        if held is None:
            if source.pieces is not None:
                self._copies -= source.pieces
                source.pieces, source.dry, self._news_at = None, False, now
            return
        if source.pieces is None:
            source.pieces = np.zeros(self.pieces.count, dtype=np.bool_)
        fresh = np.array([piece for piece in held if not source.pieces[piece]], dtype=np.int64)
        if len(fresh):
            source.pieces[fresh] = True
            self._copies[fresh] += 1
            source.dry, self._news_at = False, now

    def silent(self, name: str, now: float, *, for_good: bool = False) -> None:
        """A source did not say what it has; it may not know how to (``for_good``)."""
        source = self._sources[name]
        source.asking = False
        source.ask_at = None if for_good else now + _ASK_COMPLETE_S

    def succeeded(self, request: Request, now: float) -> list[int]:
        """All bytes of ``request`` came and matched; returns the pieces that are whole by it."""
        source = self._ended(request)
        source.good()
        source.delivered += request.size
        source.pace.add(request.size, now)
        self._typical_s = 0.9 * self._typical_s + 0.1 * (now - request.began)
        for first, count in request.runs:
            self._left -= int(np.count_nonzero(self._missing[first : first + count]))
            self._missing[first : first + count] = False
        whole = []
        for piece in request.pieces:
            first, count = self.pieces.span(piece)
            if self._open[piece] and not self._missing[first : first + count].any():
                self._open[piece] = False
                whole.append(piece)
        return whole

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
        if missing is not None:
            wrong = {slot for first, count in missing for slot in range(first, first + count)}
            for first, count in request.runs:
                good = [slot for slot in range(first, first + count) if slot not in wrong]
                self._left -= int(np.count_nonzero(self._missing[good]))
                self._missing[good] = False
        source.bad(failure, now, retry_after)
        if source.dropped and source.pieces is not None:
            self._copies -= source.pieces
            source.pieces[:] = False
        self._wet()

    def cancelled(self, request: Request) -> None:
        """``request`` was given up because it is not needed any more."""
        self._ended(request)

    # -- what to do ----------------------------------------------------------------------------------

    def next_request(self, now: float) -> Request | None:
        """What to ask next, None when there is nothing to ask at present."""
        if not self._left:
            return None
        ready = self._ready(now)
        for name in ready:
            source = self._sources[name]
            if not source.dry:
                wanted = self._choose(source)
                if len(wanted):
                    return self._make(name, wanted, now)
                source.dry = True
        if len(self._requests) <= _STARVING:
            for name in ready:
                wanted = self._choose_any(self._sources[name])
                if len(wanted):
                    return self._make(name, wanted, now)
        return self._second_try(ready, now)

    def next_question(self, now: float) -> str | None:
        """A source to ask what it has, None when none is due."""
        for name, source in self._sources.items():
            if source.ask_at is not None and source.ask_at <= now and not (source.asking or source.dropped):
                source.asking = True
                return name
        return None

    def answering(self) -> list[str]:
        """The sources that say what they have."""
        return [
            name
            for name, source in self._sources.items()
            if source.ask_at is not None and not source.dropped and not source.strikes
        ]

    def obsolete(self) -> list[Request]:
        """Requests under way that ask for nothing that is missing any more."""
        if not self._doubled:
            return []
        return [
            request
            for request in self._requests
            if not any(self._missing[first : first + count].any() for first, count in request.runs)
        ]

    # -- choosing ------------------------------------------------------------------------------------

    def _ready(self, now: float) -> list[str]:
        """Sources that can take another request, the idlest first."""
        depth = self._depth
        ready = [
            (source.in_flight, source.strikes, name)
            for name, source in self._sources.items()
            if not source.dropped and source.in_flight < depth and source.retry_at <= now
        ]
        return [name for _, _, name in sorted(ready)]

    @property
    def _depth(self) -> int:
        """Requests under way at one source."""
        return min(PER_SWARM_SOURCE, self._per_source) if self._in_company else self._per_source

    @property
    def _in_company(self) -> bool:
        return self._fetchers > 0

    @property
    def _scarce(self) -> bool:
        """Whether fewer sources hold everything than nodes want it."""
        complete = sum(source.whole and not source.dropped for source in self._sources.values())
        return complete <= self._fetchers

    def _choose(self, source: Source) -> NDArray[np.intp]:
        """Pieces to ask of a source, the best first."""
        free = self._free(source)
        if not self._in_company:
            return np.flatnonzero(free)
        if source.whole and self._scarce:
            return np.flatnonzero(free & self._duty.mine & (self._copies == 0))
        return self._rarest(np.flatnonzero(free))

    def _choose_any(self, source: Source) -> NDArray[np.intp]:
        """The same when nothing else is under way: what nobody has, first what is nearly a duty."""
        free = self._free(source)
        fresh = np.flatnonzero(free & (self._copies == 0))
        if len(fresh):
            return fresh[np.argsort(self._duty.scores[fresh])[::-1]]
        return self._rarest(np.flatnonzero(free))

    def _free(self, source: Source) -> NDArray[np.bool_]:
        free: NDArray[np.bool_] = self._open & (self._flying == 0)
        return free if source.pieces is None else free & source.pieces

    def _rarest(self, pieces: NDArray[np.intp]) -> NDArray[np.intp]:
        """In the order of how few have them, at random among equals."""
        return pieces[np.argsort(self._copies[pieces] + self._random.random(len(pieces)))]

    def _second_try(self, ready: list[str], now: float) -> Request | None:
        """What is late, asked of another source as well."""
        late_s = max(_LATE_S, _LATE_FACTOR * self._typical_s)
        if now - self._looked_at < late_s / 8:
            return None
        self._looked_at = now
        for request in sorted(self._requests, key=lambda request: request.began):
            if now - request.began < late_s:
                break
            twice = np.array(
                [piece for piece in request.pieces if self._open[piece] and self._flying[piece] == 1],
                dtype=np.intp,
            )
            for name in ready:
                source = self._sources[name]
                if name == request.source or source.in_flight:
                    continue
                wanted = twice if source.pieces is None else twice[source.pieces[twice]]
                if len(wanted):
                    self._doubled = True
                    return self._make(name, wanted, now)
        return None

    def _make(self, name: str, wanted: NDArray[np.intp], now: float) -> Request:
        """A request for as many of these pieces as the source should be asked for at once."""
        source = self._sources[name]
        room = max(1, self._size_for(source) // self._unit)
        pieces: list[int] = []
        runs: list[tuple[int, int]] = []
        for piece in wanted.tolist():
            found = self._runs_of(piece, room, MAX_RUNS - len(runs))
            pieces.append(piece)
            runs += found
            room -= sum(count for _, count in found)
            if room <= 0 or len(runs) >= MAX_RUNS:
                break
        joined = _join(sorted(runs))
        request = Request(
            name, joined, sum(self._span(first, count) for first, count in joined), tuple(pieces), now
        )
        self._requests.add(request)
        self._flying[list(request.pieces)] += 1
        if not source.in_flight:
            source.pace.begin(now)
        source.in_flight += 1
        return request

    def _runs_of(self, piece: int, room: int, most: int) -> list[tuple[int, int]]:
        """What is missing of a piece, at most ``room`` slots in at most ``most`` runs."""
        first, count = self.pieces.span(piece)
        missing = self._missing[first : first + count]
        if missing.all():
            return [(first, min(count, room))]
        edges = np.flatnonzero(np.diff(missing.view(np.int8), prepend=np.int8(0), append=np.int8(0)))
        runs: list[tuple[int, int]] = []
        for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            if room <= 0 or len(runs) == most:
                break
            runs.append((first + start, min(end - start, room)))
            room -= end - start
        return runs

    def _size_for(self, source: Source) -> int:
        """Bytes to ask of a source at once: what it sends in a quarter of a second, less near the end."""
        least = self.pieces.slots * self._unit
        rate = source.pace.rate
        size = int(rate * _REQUEST_S) or (least if self._in_company else _FIRST_REQUEST)
        live = sum(not source.dropped for source in self._sources.values())
        if live > 1:
            size = min(size, self._left * self._unit // (2 * live * self._depth))
        return min(max(size, least), self._request_size)

    # -- inside --------------------------------------------------------------------------------------

    def _interval(self, source: Source) -> float:
        """Seconds until a source is asked again what it has."""
        if source.whole:
            return _ASK_COMPLETE_S
        return _ASK_S + _ASK_MEMBER_S * len(self._sources)

    def _ended(self, request: Request) -> Source:
        self._requests.discard(request)
        self._flying[list(request.pieces)] -= 1
        source = self._sources[request.source]
        source.in_flight -= 1
        return source

    def _wet(self) -> None:
        """Something changed that may make any source useful."""
        for source in self._sources.values():
            source.dry = False


def _join(runs: list[tuple[int, int]]) -> Runs:
    """Rising runs, neighbours made one."""
    joined: list[tuple[int, int]] = []
    for first, count in runs:
        if joined and sum(joined[-1]) == first:
            joined[-1] = joined[-1][0], joined[-1][1] + count
        else:
            joined.append((first, count))
    return tuple(joined)
