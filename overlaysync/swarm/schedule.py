"""The schedule of one transfer: which source is asked for which slots, and what a failure costs.

Sans-IO: the caller tells what happened (a source appeared, it said what it has, a request ended) and asks
what to do next. Times are arguments; seconds of any clock that only goes forward.

How slots are chosen, piece by piece (:mod:`overlaysync.model.pieces`):

* alone: in guest order, in requests as large as the source is fast;
* among others who fetch, with no more seeds than those: from the seeds only what is this node's duty
  (:mod:`.duty`) and what nobody else has yet, so that a seed sends everything about once; near the end who is
  through with that helps another, a piece at a time; all else from the others, rarest first. When everything
  has been brought in, a seed is a source like any other;
* with seeds enough for all: rarest first from everybody;
* when (almost) nothing is under way any more, from the seeds also what is the duty of others;
* what is late is asked a second time of somebody else, once nothing else is left to ask.

A source is asked for nothing before its first question has ended: it may tell of others. It gets one request
at first, and one more with each success: many nodes begin at once, and do not know of each other yet.
A source that sent wrong bytes is never asked again; one that is busy or unreachable is asked later.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from random import Random

import numpy as np

from overlaysync.model.datamap import DataMap
from overlaysync.model.pieces import Pieces
from overlaysync.swarm.duty import Duty
from overlaysync.swarm.source import Failure, Source
from overlaysync.swarm.wanted import PieceMask, PieceNumbers, Run, Runs, Wanted, join, without

MAX_RUNS = 64
"""Most (first, count) runs in a request; the wire's own limit is higher."""

PER_SOURCE = 6
"""Requests in flight at one source: some on the wire, some being verified and written."""

_IN_FLIGHT = 16
"""Requests in flight in all; among others who fetch, seeds are asked beyond that. More would wait in lines
while their pieces could come from elsewhere, and what is asked for early is chosen badly. Many at once also
crowd each other out on one link: some lose packet after packet, and stand still for seconds."""

_FIRST_IN_FLIGHT = 4
_LONG_S = 4.0
"""So many at first, one more with each success, and one less when that took so long: on a slow link many
requests at once starve each other."""

_LEAST_IN_COMPANY = 8
"""Among others, a source has more than one request only while there are fewer in all."""

_REQUEST_S = 0.25
_COMPANY_REQUEST_S = 0.2
"""A request should take so long at the source's pace; among others less, so that they can have it soon."""

_HELP = 16
"""Others are helped with their duty when only this part of the pieces is still to be brought in: shares are
not alike, and earlier it would bring in much twice."""

_STARVING = 1
_PATIENT_S = 2.0
_STRANGERS_S = 1.0
"""With so few requests under way the rules of duty are put aside. But not so soon after the start: others are
about to bring in what is theirs. And where there are more nodes than one knows, not before nothing was found
for a second: what no neighbour has may be on its way to one.
"""

_LATE_S = 2.0
_LATE_FACTOR = 4.0
"""A request is late after this time, and after this many times what requests take lately."""

_LOOK_S = 0.25
"""When nobody can be asked for what is late, it is tried again after this time."""

_ASK_S = 0.1
_ASK_SOURCE_S = 0.02
_ASK_SEED_S = 1.0
"""What a source has is asked again after 0.1, 0.2, 0.3 s and so on: up to a second for a seed, and for others
up to 0.1 s and 0.02 s for each source there is, so that a node asks fifty times a second at most."""

_CROWD = 30
_CROWD_MOST = 5.0
"""With more fetching nodes than that seeds are asked less often, by up to five times: each answer of a seed
tells of all of them, so what it sends for questions grows with the square of their number."""

_LONGEST_SILENCE_S = 16.0
"""Who has never answered is asked after 1, 2, 4 s and so on, up to this."""

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
        missing: Iterable[Run],
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
        self._random = random or Random()
        self._wanted = Wanted(missing, self.pieces, np.random.default_rng(self._random.getrandbits(64)))
        self._duty = Duty(me, self.pieces.count)
        self._sources: dict[str, Source] = {}
        self._live: dict[str, Source] = {}
        self._requests: dict[Request, None] = {}
        self._here: set[Request] = set()
        self._allowed = _FIRST_IN_FLIGHT
        self._began: float | None = None
        self._fed_at = 0.0
        self._obsolete = False
        self._fetchers = 0
        self._typical_s = _LATE_S / _LATE_FACTOR
        self._news_at: float | None = None
        self._looked_at = 0.0

    # -- what is known -------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """Whether nothing is missing."""
        return not self._wanted.left

    def exhausted(self, now: float) -> bool:
        """Whether something is missing and nobody is left who has it, or is going to."""
        if self.finished or self._requests:
            return False
        live = self._live.values()
        if any(source.pieces is None or (source.pieces & self._wanted.open).any() for source in live):
            return False
        return not live or (self._news_at is not None and now - self._news_at > _HOPELESS_S)

    def dropped(self) -> dict[str, Failure]:
        """Return the sources given up, and why."""
        return {name: source.dropped for name, source in self._sources.items() if source.dropped}

    def doubtful(self, now: float) -> set[str]:
        """Return the sources that are given up, failing or late: no work should be shared with them."""
        failing = {name for name, source in self._sources.items() if source.dropped or source.strikes}
        return failing.union(request.source for request in self._late(now))

    def delivered(self) -> dict[str, int]:
        """Return the verified bytes by source."""
        return {name: source.delivered for name, source in self._sources.items() if source.delivered}

    @property
    def missing_size(self) -> int:
        """Bytes missing, to about one unit."""
        return self._wanted.left * self._unit

    @property
    def whole_count(self) -> int:
        """Pieces that are whole."""
        return self.pieces.count - int(np.count_nonzero(self._wanted.open))

    def held(self) -> list[int]:
        """Return the pieces that are whole, rising."""
        whole: list[int] = np.flatnonzero(~self._wanted.open).tolist()
        return whole

    def cursor(self, name: str) -> int:
        """How far the piece log of a source has been read."""
        return self._sources[name].cursor

    # -- what happens --------------------------------------------------------------------------------

    def add_source(self, name: str, *, whole: bool = True) -> None:
        """Add a source that holds everything, or (not ``whole``) one that is fetching; known ones stay.

        It is asked for data once its first question has ended: before that nobody knows who else fetches.
        """
        if name not in self._sources:
            pieces = None if whole else np.zeros(self.pieces.count, dtype=np.bool_)
            self._sources[name] = self._live[name] = Source(pieces)

    def share_with(self, fetchers: Iterable[str]) -> None:
        """Note which nodes (member ids) fetch the same at present."""
        others = set(fetchers)
        self._fetchers = len(others)
        if self._duty.share_with(others):
            self._wet()

    def heard(self, name: str, *, held: Sequence[int] | None, cursor: int, now: float) -> None:
        """Note what a source said it has.

        Args:
            name: which source.
            held: pieces it has since the last time; None for everything.
            cursor: where its next news will be.
            now: seconds.
        """
        source = self._sources[name]
        source.cursor, source.heard = cursor, True
        self._answered(source, now)
        if source.dropped or (source.seed and held is None):
            return
        if source.pieces is None:
            source.pieces = np.zeros(self.pieces.count, dtype=np.bool_)
        if held is None:
            fresh = np.flatnonzero(~source.pieces)
        else:
            said = np.asarray(held, dtype=np.intp)
            fresh = said[~source.pieces[said]]
        if len(fresh):
            source.pieces[fresh] = True
            self._wanted.copies[fresh] += 1
            source.dry, self._news_at = False, now

    def silent(self, name: str, now: float, *, for_good: bool = False) -> None:
        """Note that a source did not say what it has; it may never do (``for_good``)."""
        source = self._sources[name]
        self._answered(source, now)
        source.silences += not source.heard
        wait_s = min(_LONGEST_SILENCE_S, _ASK_SEED_S * 2 ** max(0, source.silences - 1))
        source.ask_at = None if for_good else now + wait_s

    def arrived(self, request: Request) -> None:
        """All bytes of ``request`` are here, to be verified and written: its source is late with nothing."""
        self._here.add(request)

    def succeeded(self, request: Request, now: float) -> list[int]:
        """All bytes of ``request`` came and matched; returns the pieces that are whole by it."""
        source = self._ended(request)
        source.good()
        source.delivered += request.size
        source.pace.add(request.size, now)
        took = now - request.began
        self._allowed = min(self._allowed + 1, _IN_FLIGHT) if took < _LONG_S else max(2, self._allowed - 1)
        self._typical_s = 0.9 * self._typical_s + 0.1 * took
        return self._came(request, request.runs)

    def failed(
        self,
        request: Request,
        failure: Failure,
        now: float,
        *,
        missing: Iterable[Run] | None = None,
        retry_after: float = 0.0,
    ) -> list[int]:
        """``request`` failed; its slots (or those in ``missing``) are to be asked for again.

        Returns the pieces that are whole by what came all the same.
        """
        source = self._ended(request)
        good = [] if missing is None else without(request.runs, sorted(missing))
        source.delivered += sum(self._span(first, count) for first, count in good)
        whole = self._came(request, good) if good else []
        source.bad(failure, now, retry_after)
        if source.dropped and self._live.pop(request.source, None) and source.pieces is not None:
            self._wanted.copies -= source.pieces
        self._wet()
        return whole

    def cancelled(self, request: Request) -> None:
        """``request`` was given up because it is not needed any more."""
        self._ended(request)
        self._wet()

    # -- what to do ----------------------------------------------------------------------------------

    def next_request(self, now: float) -> Request | None:
        """Return what to ask next, None when there is nothing to ask at present."""
        if self.finished:
            return None
        fresh, late = self._fresh(), self._late(now)
        full = len(self._requests) - len(late) >= self._allowed
        ready = self._ready(now, seeds=full) if not full or fresh is not None else []
        for name, source in ready:
            if not source.dry:
                room = self._room(source)
                if request := self._make(name, self._choose(source, fresh, room).tolist(), room, now):
                    self._fed_at = now
                    return request
                # A seed has something again when others have got the last piece; all else is heard of.
                source.dry = not (source.seed and self._fetchers)
        if fresh is not None and self._starving(now):
            for name, source in ready:
                if source.seed:
                    room = self._room(source)
                    if request := self._make(name, self._others_duty(room).tolist(), room, now):
                        return request
        return self._second_try(late, ready, now)

    def next_question(self, now: float) -> str | None:
        """Return a source to ask what it has, None when none is due."""
        for name, source in self._live.items():
            if source.ask_at is not None and source.ask_at <= now and not source.asking:
                source.asking = True
                return name
        return None

    def answering(self) -> list[str]:
        """Return the sources that say what they have."""
        return [
            name for name, source in self._live.items() if source.ask_at is not None and not source.strikes
        ]

    def obsolete(self) -> list[Request]:
        """Return the requests under way that ask for nothing that is still missing."""
        if not self._obsolete:
            return []
        self._obsolete = False
        return [request for request in self._requests if self._wanted.asks_nothing(request.runs)]

    # -- choosing ------------------------------------------------------------------------------------

    def _starving(self, now: float) -> bool:
        """Whether (almost) nothing is under way, and that is not because others are about to bring it in."""
        if len(self._requests) > _STARVING:
            return False
        if self._began is None or now - self._began < _PATIENT_S:
            return False
        return self._fetchers <= self._count() or now - self._fed_at > _STRANGERS_S

    def _fresh(self) -> PieceMask | None:
        """Return what seeds should be asked for; None when they are sources like any other."""
        if not self._fetchers or sum(source.seed for source in self._live.values()) > self._fetchers:
            return None
        fresh = self._wanted.fresh()
        return fresh & self._duty.mine if fresh.any() else None

    def _ready(self, now: float, *, seeds: bool) -> list[tuple[str, Source]]:
        """Return the sources, or only ``seeds``, that can take a request; those that failed come last."""
        depth = self._depth
        ready = [
            (source.strikes, source.in_flight, self._random.random(), name, source)
            for name, source in self._live.items()
            if source.in_flight < depth
            and source.in_flight < source.depth
            and source.answers
            and source.retry_at <= now
            and (source.seed or not seeds)
        ]
        return [(name, source) for *_, name, source in sorted(ready)]

    @property
    def _depth(self) -> int:
        """Requests that may be under way at one source."""
        if not self._fetchers:
            return self._per_source
        return min(self._per_source, max(1, _LEAST_IN_COMPANY // max(1, self._count())))

    def _choose(self, source: Source, fresh: PieceMask | None, room: int) -> PieceNumbers:
        """Pieces to fill ``room`` slots with from a source, the best first."""
        most = min(room, MAX_RUNS)
        free = self._wanted.free(source.pieces)
        if not self._fetchers:
            return np.flatnonzero(free)[:most]
        if source.seed and fresh is not None:
            own = np.flatnonzero(free & fresh)[:most]
            return own if len(own) else self._help(free)
        return self._wanted.rarest(free, most)

    def _help(self, free: PieceMask) -> PieceNumbers:
        """Return, near the end, a piece that is another's duty and this node's next.

        It is the last of them, as the other begins with the first.
        """
        fresh = self._wanted.fresh()
        if np.count_nonzero(fresh) > len(fresh) // _HELP:
            return np.empty(0, dtype=np.intp)
        return np.flatnonzero(free & fresh & self._duty.next)[-1:]

    def _others_duty(self, room: int) -> PieceNumbers:
        """Return what no peer has and is not under way, first what is nearly this node's duty."""
        pieces = np.flatnonzero(self._wanted.free(None) & self._wanted.fresh())
        return pieces[np.argsort(self._duty.scores[pieces])[: -min(room, MAX_RUNS) - 1 : -1]]

    def _late(self, now: float) -> list[Request]:
        """Return the requests that take too long, the oldest first."""
        since = now - max(_LATE_S, _LATE_FACTOR * self._typical_s)
        old = takewhile(lambda request: request.began <= since, self._requests)
        return [request for request in old if request not in self._here]

    def _second_try(self, late: list[Request], ready: list[tuple[str, Source]], now: float) -> Request | None:
        """Return what is late wherever it was asked for, asked of another source as well."""
        if not late or now - self._looked_at < _LOOK_S:
            return None
        asked: dict[int, set[str]] = {}
        for request in late:
            for piece in request.pieces:
                asked.setdefault(piece, set()).add(request.source)
        wanted = self._wanted
        pieces = [
            piece for piece in asked if wanted.open[piece] and wanted.flying[piece] == len(asked[piece])
        ]
        for name, source in ready:
            again = [piece for piece in pieces if name not in asked[piece] and source.has(piece)]
            if second := self._make(name, again, self._room(source), now):
                for request in late:
                    if not set(second.pieces).isdisjoint(request.pieces):
                        self._sources[request.source].late(now)
                return second
        self._looked_at = now
        return None

    def _make(self, name: str, pieces: Iterable[int], room: int, now: float) -> Request | None:
        """Return a request for ``room`` slots of these pieces, None when nothing is missing of them."""
        source = self._sources[name]
        asked: list[int] = []
        runs: list[Run] = []
        for piece in pieces:
            found = self._wanted.runs_of(piece, room, MAX_RUNS - len(runs))
            asked.append(piece)
            runs += found
            room -= sum(count for _, count in found)
            if room <= 0 or len(runs) >= MAX_RUNS:
                break
        if not runs:
            return None
        joined = join(sorted(runs))
        size = sum(self._span(first, count) for first, count in joined)
        request = Request(name, joined, size, tuple(asked), now)
        self._requests[request] = None
        self._wanted.flying[asked] += 1
        if not source.in_flight:
            source.pace.begin(now)
        source.in_flight += 1
        return request

    def _room(self, source: Source) -> int:
        """Slots to ask of a source at once: what it sends in a quarter of a second, less near the end."""
        size = int(source.pace.rate * (_COMPANY_REQUEST_S if self._fetchers else _REQUEST_S))
        count = self._count()
        if count > 1:
            size = min(size, self._wanted.left * self._unit // (2 * count * self._depth))
        least = self.pieces.slots * self._unit
        return max(1, min(max(size, least), self._request_size) // self._unit)

    # -- inside --------------------------------------------------------------------------------------

    def _count(self) -> int:
        """Return how many sources are there, as far as is known."""
        return sum(source.counts for source in self._live.values())

    def _answered(self, source: Source, now: float) -> None:
        """Note that a question has ended; from the first one on there is hope."""
        if self._news_at is None:
            self._news_at = now
        source.asking = False
        source.answers += 1
        if self._began is None:
            self._began = now
        often = _ASK_SEED_S if source.seed else _ASK_S + _ASK_SOURCE_S * self._count()
        crowd = min(_CROWD_MOST, max(1.0, self._fetchers / _CROWD)) if source.seed else 1.0
        source.ask_at = now + crowd * min(often, _ASK_S * source.answers)

    def _came(self, request: Request, runs: Iterable[Run]) -> list[int]:
        whole = self._wanted.came(runs, request.pieces)
        touched = list(request.pieces)
        self._obsolete |= bool(self._wanted.flying[touched].any())
        if self._wanted.open[touched].any():
            self._wet()
        return whole

    def _ended(self, request: Request) -> Source:
        del self._requests[request]
        self._here.discard(request)
        self._wanted.flying[list(request.pieces)] -= 1
        source = self._sources[request.source]
        source.in_flight -= 1
        return source

    def _wet(self) -> None:
        """Something changed that may make any source useful."""
        for source in self._sources.values():
            source.dry = False
