"""The schedule of one transfer: which source is asked for which slots, and what a failure costs.

Sans-IO: the caller tells what happened (a source appeared, it said what it has, a request ended) and asks
what to do next. Times are arguments; seconds of any clock that only goes forward.

What is asked of whom is a :class:`Policy`'s to decide, what is under way stands in a :class:`Table`.

A source is asked for nothing before its first question has ended: it may tell of others. It gets one request
at first, and one more with each success: many nodes begin at once, and do not know of each other yet.
A source that sent wrong bytes is never asked again; one that is busy or unreachable is asked later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

import numpy as np

from overlaysync.model.datamap import DataMap
from overlaysync.model.pieces import MOST_COPIES, Pieces, cells_of
from overlaysync.swarm import questions
from overlaysync.swarm.assignment import Assignment
from overlaysync.swarm.handed import patience
from overlaysync.swarm.missing import MissingPieces, Run, without
from overlaysync.swarm.policy import Choice, DutyPolicy, InFlight, Sizes
from overlaysync.swarm.requests import Request, RequestTable
from overlaysync.swarm.source import Failure, Source

PER_SOURCE = 6
"""Requests in flight at one source: some on the wire, some being verified and written."""

_ENDING = 32
"""With so many pieces missing, the end is near."""

_HOPELESS_S = 20.0
"""Sources that have nothing that is missing, and get nothing new for so long, will never have it."""


class Policy(Protocol):
    """Decides which pieces are asked of whom."""

    @property
    def fetchers(self) -> int:
        """Other nodes that fetch the same, as far as is known."""
        ...

    def begin(self, now: float) -> None:
        """Note that a source has answered."""
        ...

    def share_with(self, fetchers: Iterable[str], crowd: int) -> bool:
        """Note which nodes fetch the same, and how many; whether that may make another source useful."""
        ...

    def taken(self, pieces: Sequence[int], now: float) -> None:
        """Note that a seed has handed these to others."""
        ...

    def next(self, sources: Mapping[str, Source], in_flight: InFlight, now: float) -> Choice | None:
        """Return what to ask next, None when there is nothing to ask at present."""
        ...


class Table(InFlight, Protocol):
    """Holds the requests in flight."""

    def __iter__(self) -> Iterator[Request]: ...

    def begin(self, request: Request) -> None:
        """Note that it is on its way."""
        ...

    def arrived(self, request: Request) -> None:
        """Note that its bytes are here, to be verified."""
        ...

    def end(self, request: Request) -> None:
        """Note that it has ended, in whatever way."""
        ...

    def took(self, seconds: float) -> None:
        """Learn from a success."""
        ...


@dataclass(frozen=True, slots=True)
class Asking:
    """How one node asks.

    Attributes:
        request_size: most bytes in a request.
        per_source: requests in flight at one source.
        me: its member id.
    """

    request_size: int
    per_source: int = PER_SOURCE
    me: str = ""


class Schedule:
    """Hands out the missing slots.

    Args:
        missing: (first, count) runs.
        data: knows how many bytes they are.
        asking: how this node asks.
        random: breaks ties.
        policy: makes the policy from what is missing; by duty and rarity when it is left out.
        table: holds the requests.
    """

    def __init__(
        self,
        missing: Iterable[Run],
        data: DataMap,
        asking: Asking,
        *,
        random: Random | None = None,
        policy: Callable[[MissingPieces], Policy] | None = None,
        table: Table | None = None,
    ) -> None:
        self.pieces = Pieces.of(data.count, data.pages.unit)
        self._span = data.span
        self._unit = data.pages.unit
        random = random or Random()
        generator = np.random.default_rng(random.getrandbits(64))
        self._missing = MissingPieces(missing, self.pieces, generator)
        if policy is None:
            sizes = Sizes(self._unit, self.pieces.slots, asking.request_size, asking.per_source)
            assignment = Assignment(asking.me, self.pieces.count)
            self._policy: Policy = DutyPolicy(self._missing, assignment, sizes, random)
        else:
            self._policy = policy(self._missing)
        self._table = RequestTable() if table is None else table
        self._sources: dict[str, Source] = {}
        self._live: dict[str, Source] = {}
        self._obsolete = False
        self._news_at: float | None = None

    # -- what is known -------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """Whether nothing is missing."""
        return not self._missing.left

    def exhausted(self, now: float) -> bool:
        """Whether something is missing and nobody is left who has it, or is going to."""
        if self.finished or len(self._table):
            return False
        live = self._live.values()
        if any(source.pieces is None or (source.pieces & self._missing.open).any() for source in live):
            return False
        return not live or (self._news_at is not None and now - self._news_at > _HOPELESS_S)

    def sources(self) -> list[str]:
        """Return all sources there have been."""
        return list(self._sources)

    def dropped(self) -> dict[str, Failure]:
        """Return the sources given up, and why."""
        return {name: source.dropped for name, source in self._sources.items() if source.dropped}

    def doubtful(self, now: float) -> set[str]:
        """Return the sources that are given up, failing or late: no work should be shared with them."""
        failing = {name for name, source in self._sources.items() if source.dropped or source.strikes}
        return failing.union(request.source for request in self._table.late(now))

    def delivered(self) -> dict[str, int]:
        """Return the verified bytes by source."""
        return {name: source.delivered for name, source in self._sources.items() if source.delivered}

    @property
    def missing_size(self) -> int:
        """Bytes missing, to about one unit."""
        return self._missing.left * self._unit

    @property
    def whole_count(self) -> int:
        """Pieces that are whole."""
        return self.pieces.count - int(np.count_nonzero(self._missing.open))

    def held(self) -> list[int]:
        """Return the pieces that are whole, rising."""
        whole: list[int] = np.flatnonzero(~self._missing.open).tolist()
        return whole

    def cells(self, count: int) -> tuple[str, str]:
        """Return how much there is of each of so many equal parts, and how many sources have it.

        As digits: see :func:`~overlaysync.model.pieces.cells_of`.
        """
        seeds = sum(source.pieces is None for source in self._live.values())
        copies = self._missing.copies + seeds
        return cells_of(~self._missing.open, count, most=1), cells_of(copies, count, most=MOST_COPIES)

    def cursor(self, name: str) -> int:
        """How far the piece log of a source has been read."""
        return self._sources[name].cursor

    def taken_cursor(self, name: str) -> int | None:
        """How far it has been read what a complete source handed out; None for any other."""
        source = self._sources[name]
        return source.taken_cursor if source.seed else None

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
        crowd = max((source.crowd for source in self._live.values() if source.seed), default=0)
        if self._policy.share_with(fetchers, crowd):
            self._wet()

    def heard(
        self, name: str, *, held: Sequence[int] | None, cursor: int, now: float, crowd: int = 0
    ) -> None:
        """Note what a source said it has.

        Args:
            name: which source.
            held: pieces it has since the last time; None for everything.
            cursor: where its next news will be.
            now: seconds.
            crowd: how many fetch, where it did not tell of all of them.
        """
        source = self._sources[name]
        source.cursor, source.heard, source.crowd = cursor, True, crowd
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
            self._missing.copies[fresh] += 1
            source.dry, self._news_at = False, now

    def taken(self, name: str, pieces: Sequence[int], cursor: int, now: float) -> None:
        """Note what a source says that it handed to others: those are about to pass it on.

        ``cursor``: where its next news of that will be.
        """
        source = self._sources[name]
        source.taken_cursor = cursor
        if source.seed and not source.dropped:
            self._policy.taken(pieces, now)

    def silent(self, name: str, now: float, *, for_good: bool = False) -> None:
        """Note that a source did not say what it has; it may never do (``for_good``)."""
        source = self._sources[name]
        self._answered(source, now)
        questions.unanswered(source, now, for_good=for_good)

    def arrived(self, request: Request) -> None:
        """All bytes of ``request`` are here, to be verified and written: its source is late with nothing."""
        self._table.arrived(request)

    def succeeded(self, request: Request, now: float) -> list[int]:
        """All bytes of ``request`` came and matched; returns the pieces that are whole by it."""
        source = self._ended(request)
        source.good()
        source.delivered += request.size
        source.pace.add(request.size, now)
        self._table.took(now - request.began)
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
        if failure is Failure.TAKEN:
            retry_after = patience(self._policy.fetchers)
        source.bad(failure, now, retry_after)
        if source.dropped and self._live.pop(request.source, None) and source.pieces is not None:
            self._missing.copies -= source.pieces
        self._wet()
        return whole

    def cancelled(self, request: Request) -> None:
        """``request`` was given up because it is not needed any more."""
        self._ended(request)
        self._wet()

    # -- what to do ----------------------------------------------------------------------------------

    def next_request(self, now: float) -> Request | None:
        """Return what to ask next, None when there is nothing to ask at present."""
        if self.finished or (choice := self._policy.next(self._live, self._table, now)) is None:
            return None
        for late in choice.beside:
            self._sources[late.source].late(now)
        size = sum(self._span(first, count) for first, count in choice.runs)
        request = Request(choice.source, choice.runs, size, choice.pieces, now)
        self._table.begin(request)
        self._missing.flying[list(request.pieces)] += 1
        self._sources[request.source].begin(now)
        return request

    def next_question(self, now: float) -> str | None:
        """Return a source to ask what it has, None when none is due."""
        return questions.next_question(self._live, now)

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
        return [request for request in self._table if self._missing.asks_nothing(request.runs)]

    # -- inside --------------------------------------------------------------------------------------

    def _answered(self, source: Source, now: float) -> None:
        """Note that a question has ended; from the first one on there is hope."""
        if self._news_at is None:
            self._news_at = now
        self._policy.begin(now)
        count = sum(source.counts for source in self._live.values())
        ending = self._missing.left <= _ENDING * self.pieces.slots
        questions.answered(source, now, count=count, fetchers=self._policy.fetchers, ending=ending)

    def _came(self, request: Request, runs: Iterable[Run]) -> list[int]:
        whole = self._missing.came(runs, request.pieces)
        touched = list(request.pieces)
        self._obsolete |= bool(self._missing.flying[touched].any())
        if self._missing.open[touched].any():
            self._wet()
        return whole

    def _ended(self, request: Request) -> Source:
        self._table.end(request)
        self._missing.flying[list(request.pieces)] -= 1
        source = self._sources[request.source]
        source.in_flight -= 1
        return source

    def _wet(self) -> None:
        """Something changed that may make any source useful."""
        for source in self._sources.values():
            source.dry = False
