"""A request's claim on the pieces it asks for, from when it comes in until its body is sent or will not be.

What a claim is, and whom it keeps out: :mod:`overlaysync.swarm.handed`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from overlaysync.errors import NotFoundError
from overlaysync.net.bounds import MAX_TAKEN_FIELD
from overlaysync.net.messages import Runs
from overlaysync.net.swarm_messages import Claim
from overlaysync.net.upload_slots import NoSlotError
from overlaysync.ops.offer import Offer
from overlaysync.swarm import handed
from overlaysync.swarm.handed import Handed, News
from overlaysync.swarm.members import Swarms


class TakenError(Exception):
    """Another member is about to pass on what was asked for."""

    def __init__(self, news: News) -> None:
        super().__init__()
        self.news = news


class Progress:
    """What becomes of a request."""

    def __init__(self, claims: Handed, claim: handed.Claim | None) -> None:
        self._claims = claims
        self._claim = claim

    def sending(self) -> None:
        """Note that its body begins."""
        if self._claim is not None:
            self._claims.sending(self._claim, _now())

    def sent(self) -> None:
        """Note that all of its body has been sent."""
        if self._claim is not None:
            self._claims.delivered(self._claim, _now())
            self._claim = None

    def _end(self, error: BaseException | None) -> None:
        if self._claim is None:
            return
        if isinstance(error, NoSlotError | NotFoundError):
            self._claims.refused(self._claim)  # it is not the client's fault
        else:
            self._claims.dropped(self._claim, _now())


@contextmanager
def claimed(swarms: Swarms, offer: Offer, runs: Runs, asking: Claim | None, host: str) -> Iterator[Progress]:
    """Hold what ``asking`` claims of a complete offer while the block runs; nothing where it claims nothing.

    Only a member that others are told of may claim: nobody could get from another what that one has.

    Raises:
        TakenError: another member has it.
    """
    claims, claim, members = swarms.handed(offer.manifest.id), None, swarms.of(offer.manifest.id)
    now = _now()
    if asking and offer.log is None and members.knows(asking.member, host, now):
        pieces = offer.pieces.touched(runs)
        if taken := claims.taken(pieces, asking.member, now):
            news = claims.news(asking.taken, asking.member, now, most=MAX_TAKEN_FIELD)
            named = list(dict.fromkeys([*taken, *reversed(news.pieces)]))[:MAX_TAKEN_FIELD]
            raise TakenError(News(tuple(named), news.cursor))
        claim = claims.claim(pieces, asking.member, host, now, crowd=len(members))
    progress = Progress(claims, claim)
    try:
        yield progress
    except BaseException as error:
        progress._end(error)
        raise
    progress._end(None)


def _now() -> float:
    return asyncio.get_running_loop().time()
