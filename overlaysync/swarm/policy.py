"""The policy of a transfer: which pieces are asked of whom.

Piece by piece (:mod:`overlaysync.model.pieces`):

* alone: in guest order, in requests as large as the source is fast;
* among other fetching nodes, with no more seeds than these: from the seeds only this node's duty
  (:mod:`.assignment`) and what no other node has yet, so that a seed sends everything about once; later on
  a node that has done its duty helps another, a piece at a time; all else from the others, rarest first.
  When everything has been brought in, a seed is a source like any other;
* with enough seeds for all: rarest first from all sources;
* when (almost) nothing is under way any more, from the seeds also the duty of other nodes;
* what is late is asked of a second source, once nothing else is left to ask.

Leaves out what becomes of a request: that is :mod:`.requests`. Sans-IO: times are arguments, in seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

import numpy as np

from overlaysync.swarm.assignment import Assignment
from overlaysync.swarm.handed import patience
from overlaysync.swarm.missing import MissingPieces, PieceMask, PieceNumbers, Runs
from overlaysync.swarm.requests import Request
from overlaysync.swarm.source import Source

MAX_RUNS = 64
"""Most (first, count) runs in a request; the wire's own limit is higher."""

_LEAST_IN_COMPANY = 8
"""Among others, a source has more than one request only while there are fewer in all."""

_AHEAD = 16
"""From a node that has so many pieces more two requests may be under way: a node that is behind gets little
of the others' links, as one request at a time leaves gaps, and would stay behind."""

_REQUEST_S = 0.25
_COMPANY_REQUEST_S = 0.2
"""A request should take so long at the source's pace; among others less, so that they can have it soon."""

_HELP = 4
"""Others are helped with their duty when only this part of the pieces is still to be brought in: shares are
not alike, and earlier it would bring in much twice."""

_HELPERS = 3
"""So many nodes may help with a piece: with one, a seed's link would be idle at the end, as each node's own
link is full of what the others send it."""

_STARVING = 1
_PATIENT_S = 2.0
_STRANGERS_S = 1.0
"""With so few requests under way the rules of duty are put aside. But not so soon after the start: others are
about to bring in what is theirs. And where there are more nodes than one knows, not before nothing was found
for a second: what no neighbour has may be on its way to one.
"""

_ELSEWHERE_S = 6.0
"""What a seed has handed to another is not asked of it for so long: the other is about to pass it on."""

_LOOK_S = 0.25
"""When nobody can be asked for what is late, it is tried again after this time."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What to ask next.

    Attributes:
        source: whom.
        pieces: for which pieces.
        runs: (first, count) of their slots.
        beside: requests under way that it doubles, as they are late.
    """

    source: str
    pieces: tuple[int, ...]
    runs: Runs
    beside: tuple[Request, ...] = ()


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large requests may be, and how many.

    Attributes:
        unit: bytes of a slot.
        piece: slots of a piece.
        request: most bytes in a request.
        per_source: most requests in flight at one source.
    """

    unit: int
    piece: int
    request: int
    per_source: int


class InFlight(Protocol):
    """What a policy knows of the requests in flight."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def late(self, now: float) -> Sequence[Request]:
        """Return those that take too long, the oldest first."""
        ...

    def is_full(self, late: int) -> bool:
        """Whether there are as many as may be, not counting so many that are late."""
        ...


class DutyPolicy:
    """Chooses by duty and rarity.

    Args:
        missing: what is missing; only read here.
        assignment: which pieces are whose.
        sizes: of requests.
        random: breaks ties.

    Attributes:
        fetchers: other nodes that fetch the same, as far as is known.
    """

    def __init__(self, missing: MissingPieces, assignment: Assignment, sizes: Sizes, random: Random) -> None:
        self.fetchers = 0
        self._missing = missing
        self._assignment = assignment
        self._sizes = sizes
        self._random = random
        self._elsewhere = np.full(missing.flying.shape, -np.inf)
        self._began: float | None = None
        self._fed_at = 0.0
        self._looked_at = 0.0

    # -- what is known -------------------------------------------------------------------------------

    def begin(self, now: float) -> None:
        """Note that a source has answered: from the first one on there is hope."""
        if self._began is None:
            self._began = now

    def taken(self, pieces: Sequence[int], now: float) -> None:
        """Note that a seed has handed these to others."""
        self._elsewhere[list(pieces)] = now + _ELSEWHERE_S * patience(self.fetchers)

    def share_with(self, fetchers: Iterable[str], crowd: int = 0) -> bool:
        """Note which nodes (member ids) fetch the same at present; whether that changes a duty.

        ``crowd``: how many there are as seeds say, who tell of some only when there are many.
        """
        others = set(fetchers)
        self.fetchers = max(len(others), crowd)
        return self._assignment.share_with(others)

    # -- what to do ----------------------------------------------------------------------------------

    def next(self, sources: Mapping[str, Source], in_flight: InFlight, now: float) -> Choice | None:
        """Return what to ask next of one of ``sources``, None when there is nothing to ask at present."""
        here = self._elsewhere <= now
        fresh, late = self._fresh(sources), in_flight.late(now)
        full = in_flight.is_full(len(late))
        ready = self._ready(sources, now, seeds=full) if not full or fresh is not None else []
        count = _count(sources)
        for name, source in ready:
            if not source.dry:
                room = self._room(source, count)
                if choice := self._cut(name, self._choose(source, fresh, here, room).tolist(), room):
                    self._fed_at = now
                    return choice
                # A seed has something again when others have got the last piece; all else is heard of.
                source.dry = not (source.seed and self.fetchers)
        if fresh is not None and self._is_starving(in_flight, count, now):
            for name, source in ready:
                if source.seed:
                    room = self._room(source, count)
                    if choice := self._cut(name, self._others_duty(here, room).tolist(), room):
                        return choice
        return self._second_try(late, ready, count, now)

    # -- choosing ------------------------------------------------------------------------------------

    def _is_starving(self, in_flight: InFlight, count: int, now: float) -> bool:
        """Whether (almost) nothing is under way, and that is not because others are about to bring it in."""
        if len(in_flight) > _STARVING:
            return False
        if self._began is None or now - self._began < _PATIENT_S:
            return False
        return self.fetchers <= count or now - self._fed_at > _STRANGERS_S

    def _fresh(self, sources: Mapping[str, Source]) -> PieceMask | None:
        """Return what seeds should be asked for; None when they are sources like any other."""
        if not self.fetchers or sum(source.seed for source in sources.values()) > self.fetchers:
            return None
        fresh = self._missing.fresh()
        return fresh & self._assignment.mine if fresh.any() else None

    def _ready(self, sources: Mapping[str, Source], now: float, *, seeds: bool) -> list[tuple[str, Source]]:
        """Return the sources, or only ``seeds``, that can take a request; those that failed come last."""
        depth = self._depth(_count(sources))
        ready = [
            (source.strikes, source.in_flight, self._random.random(), name, source)
            for name, source in sources.items()
            if self._may_take_more(source, depth)
            and source.answers
            and source.retry_at <= now
            and (source.seed or not seeds)
        ]
        return [(name, source) for *_, name, source in sorted(ready)]

    def _depth(self, count: int) -> int:
        """Requests that may be under way at one of ``count`` sources."""
        most = self._sizes.per_source
        return min(most, max(1, _LEAST_IN_COMPANY // max(1, count))) if self.fetchers else most

    def _may_take_more(self, source: Source, depth: int) -> bool:
        """Whether one more request may be under way at a source; ``depth``: at most so many, as a rule."""
        if source.in_flight >= min(source.depth, self._sizes.per_source):
            return False
        return source.in_flight < depth or (source.in_flight == depth and self._is_ahead(source))

    def _is_ahead(self, source: Source) -> bool:
        """Whether a node that fetches too has much that this one has not."""
        if source.pieces is None:
            return False
        return bool(np.count_nonzero(self._missing.free(source.pieces)) >= _AHEAD)

    def _choose(self, source: Source, fresh: PieceMask | None, here: PieceMask, room: int) -> PieceNumbers:
        """Pieces to fill ``room`` slots with from a source, the best first.

        ``here``: what seeds have not handed to others a moment ago.
        """
        most = min(room, MAX_RUNS)
        free = self._missing.free(source.pieces)
        if not self.fetchers:
            return np.flatnonzero(free)[:most]
        if source.seed and fresh is not None:
            own = np.flatnonzero(free & fresh & here)[:most]
            return own if len(own) else self._help(free & here)
        return self._missing.rarest(free, most)

    def _help(self, free: PieceMask) -> PieceNumbers:
        """Return, later on, a piece that is another's duty, of those that come to this node next.

        It is one that comes to this node before other helpers, if there is any, and of these the last, as
        the other begins with the first.
        """
        fresh = self._missing.fresh()
        if np.count_nonzero(fresh) > len(fresh) // _HELP:
            return np.empty(0, dtype=np.intp)
        rank = self._assignment.rank
        pieces = np.flatnonzero(free & fresh & (rank <= _HELPERS))[::-1]
        return pieces[np.argsort(rank[pieces], kind="stable")[:1]]

    def _others_duty(self, here: PieceMask, room: int) -> PieceNumbers:
        """Return what no peer has and is not under way, first what is nearly this node's duty."""
        pieces = np.flatnonzero(self._missing.free(None) & self._missing.fresh() & here)
        return pieces[np.argsort(self._assignment.scores[pieces])[: -min(room, MAX_RUNS) - 1 : -1]]

    def _second_try(
        self, late: Sequence[Request], ready: list[tuple[str, Source]], count: int, now: float
    ) -> Choice | None:
        """Return what is late wherever it was asked for, asked of another source as well."""
        if not late or now - self._looked_at < _LOOK_S:
            return None
        asked: dict[int, set[str]] = {}
        for request in late:
            for piece in request.pieces:
                asked.setdefault(piece, set()).add(request.source)
        missing = self._missing
        pieces = [
            piece for piece in asked if missing.open[piece] and missing.flying[piece] == len(asked[piece])
        ]
        for name, source in ready:
            again = [piece for piece in pieces if name not in asked[piece] and source.has(piece)]
            if second := self._cut(name, again, self._room(source, count), late):
                return second
        self._looked_at = now
        return None

    # -- how much ------------------------------------------------------------------------------------

    def _cut(
        self, name: str, pieces: Iterable[int], room: int, late: Sequence[Request] = ()
    ) -> Choice | None:
        """Return a choice of ``room`` slots of these pieces, None when nothing is missing of them."""
        asked, runs = self._missing.cut(pieces, room, MAX_RUNS)
        if not runs:
            return None
        beside = (request for request in late if not set(asked).isdisjoint(request.pieces))
        return Choice(name, asked, runs, tuple(beside))

    def _room(self, source: Source, count: int) -> int:
        """Slots to ask of a source at once: what it sends in a quarter of a second, less near the end."""
        sizes = self._sizes
        size = int(source.pace.rate * (_COMPANY_REQUEST_S if self.fetchers else _REQUEST_S))
        if count > 1:
            size = min(size, self._missing.left * sizes.unit // (2 * count * self._depth(count)))
        return max(1, min(max(size, sizes.piece * sizes.unit), sizes.request) // sizes.unit)


def _count(sources: Mapping[str, Source]) -> int:
    """Return how many sources are there, as far as is known."""
    return sum(source.counts for source in sources.values())
