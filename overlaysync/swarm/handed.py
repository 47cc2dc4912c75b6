"""What a seed hands out, and to whom: so that it sends each piece once while others are about to pass it on.

A node that fetches *claims* the pieces it asks for. Who else asks for them meanwhile is refused, and told
what was handed out since it was told the last time: it turns to another piece, and gets this one from the
claimant. A claim holds while its request waits in line, for a few seconds in service, and for a moment after
the delivery, in which the claimant tells others that it has the piece.

Who claims and does not take what it claimed must block nobody: a claim ends with its connection, and lapses;
a host claims only so many pieces at once; one that has let a body lapse, or broken it off, claims nothing
for a while; and a piece that is claimed again and again is given to anybody after a time. What is not claimed
is given all the same: a claim is never needed to get something.

Sans-IO: times are arguments, in seconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

LINE_S = 10.0
"""A claim holds for so long in the line at most, which is longer than anybody waits there."""

SERVICE_S = 4.0
DELIVERED_S = 4.0
"""It holds for so long from when its body begins, and from when that has been sent."""

NEWS_S = 6.0
"""What was handed out before that is no news: others have it by now, or never will."""

SERIES_S = 20.0
SERIES_GAP_S = 6.0
"""A piece is claimed for so long at most, by whomever, until nobody has claimed it for a while."""

DISTRUST_S = 30.0
"""Who did not take what it claimed claims nothing for so long."""

MAX_CLAIMED = 256
"""Pieces that one host claims at once: some forty nodes with six requests each."""

_PATIENT_CROWD = 100
_LEAST_PATIENCE = 0.15
"""After the delivery, claims hold as long as said above in rooms of so many, and for a part of that in
smaller ones. What has been sent is on its way for a while, and then others ask for it some times a second."""

_LONGEST_LOG = 1 << 16


@dataclass(slots=True, eq=False)
class Claim:
    """The pieces of one request.

    Attributes:
        member: whose they are.
        host: where that is.
        pieces: none when it may not claim any.
        until: when it lapses.
        patience: how long it holds after the delivery in a room of this size, as a part of the longest.
        begun: whether its body has begun. If it lapses after that, its host has not taken what it claimed.
    """

    member: str
    host: str
    pieces: tuple[int, ...]
    until: float
    patience: float = 1.0
    begun: bool = False


@dataclass(frozen=True, slots=True)
class News:
    """What was handed out since some cursor.

    Attributes:
        pieces: the latest of them, in order.
        cursor: to be sent the next time.
    """

    pieces: tuple[int, ...]
    cursor: int


def patience(crowd: int) -> float:
    """Return how long to wait in a room of so many for what others have been handed: a part of the longest.

    In a small room all hear of it from the claimant itself, and soon.
    """
    return min(1.0, max(_LEAST_PATIENCE, (crowd / _PATIENT_CROWD) ** 2))


class Handed:
    """The claims on the pieces of one content.

    Args:
        per_host: pieces one host may claim at once.
    """

    def __init__(self, *, per_host: int = MAX_CLAIMED) -> None:
        self._per_host = per_host
        self._claims: dict[int, Claim] = {}  # the latest of each piece
        self._since: dict[int, float] = {}  # when the first of a series of claims on a piece was made
        self._open: dict[str, set[Claim]] = {}  # that have not ended, by host
        self._distrusted: dict[str, float] = {}  # hosts, until when
        self._log: deque[tuple[float, int, str]] = deque(maxlen=_LONGEST_LOG)
        self._cursor = 1

    def taken(self, pieces: Iterable[int], member: str, now: float) -> list[int]:
        """Return those of ``pieces`` that another than ``member`` has claimed."""
        return [
            piece
            for piece in pieces
            if (claim := self._claims.get(piece)) and claim.member != member and claim.until > now
        ]

    def claim(self, pieces: Iterable[int], member: str, host: str, now: float, *, crowd: int) -> Claim:
        """Claim pieces, as many as the host may, in a room of so many; the claim has to be ended."""
        free = (piece for piece in pieces if self._may_claim(piece, now))
        claim = Claim(member, host, tuple(islice(free, self._room(host, now))), now + LINE_S, patience(crowd))
        self._open.setdefault(host, set()).add(claim)
        for piece in claim.pieces:
            self._claims[piece] = claim
            self._log.append((now, piece, member))
            self._cursor += 1
        while self._log and self._log[0][0] < now - NEWS_S:
            self._log.popleft()
        return claim

    def sending(self, claim: Claim, now: float) -> None:
        """Note that the body of its request begins."""
        claim.begun, claim.until = True, now + SERVICE_S

    def delivered(self, claim: Claim, now: float) -> None:
        """End a claim: all of it has been sent."""
        claim.until = now + DELIVERED_S * claim.patience
        self._distrusted.pop(claim.host, None)
        self._end(claim)

    def refused(self, claim: Claim) -> None:
        """End a claim whose request this node could not answer."""
        claim.until = 0.0
        self._end(claim)

    def dropped(self, claim: Claim, now: float) -> None:
        """End a claim whose client has gone, or did not take what it asked for."""
        if claim.pieces and claim.begun:  # who leaves the line has found it elsewhere
            self._distrust(claim.host, now)
        self.refused(claim)

    def news(self, cursor: int, member: str, now: float, *, most: int) -> News:
        """Return what others than ``member`` were given since ``cursor``, at most so many pieces."""
        since = cursor if 0 < cursor <= self._cursor else 0
        fresh = (
            piece
            for number, (time, piece, whose) in zip(
                range(self._cursor - 1, since - 1, -1), reversed(self._log), strict=False
            )
            if time >= now - NEWS_S and whose != member
        )
        return News(tuple(islice(dict.fromkeys(fresh), most))[::-1], self._cursor)

    # -- inside ----------------------------------------------------------------------------------------

    def _may_claim(self, piece: int, now: float) -> bool:
        """Whether nobody has claimed a piece for too long; begins a series when none goes on."""
        before = self._claims.get(piece)
        if before is None or now - before.until >= SERIES_GAP_S:
            self._since[piece] = now
        return now - self._since[piece] < SERIES_S

    def _room(self, host: str, now: float) -> int:
        """Return how many pieces a host may claim now."""
        if self._distrusted.get(host, 0.0) > now:
            return 0
        held = self._open.get(host, set())
        if any(claim.pieces and claim.begun and claim.until <= now for claim in held):
            self._distrust(host, now)
            return 0
        return max(0, self._per_host - sum(len(claim.pieces) for claim in held))

    def _distrust(self, host: str, now: float) -> None:
        self._distrusted = {one: until for one, until in self._distrusted.items() if until > now}
        self._distrusted[host] = now + DISTRUST_S

    def _end(self, claim: Claim) -> None:
        claims = self._open.get(claim.host)
        if claims:
            claims.discard(claim)
            if not claims:
                del self._open[claim.host]
        # A lapsed claim says nothing: it is forgotten when the piece is claimed again.
