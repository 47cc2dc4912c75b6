"""What a peer says instead of what it was asked for, as errors."""

from __future__ import annotations

from overlaysync.errors import OverlaysyncError, PeerError
from overlaysync.net.bounds import CLIENT
from overlaysync.net.messages import Endpoint
from overlaysync.net.receiving import SilentError
from overlaysync.swarm.handed import News


class BusyError(PeerError):
    """The peer is busy; ``retry_after`` seconds later it may not be."""

    def __init__(self, what: str, retry_after: float) -> None:
        super().__init__(what)
        self.retry_after = retry_after


class TakenError(PeerError):
    """The peer has handed this to others, who are about to pass it on: ``news`` says what."""

    def __init__(self, what: str, news: News) -> None:
        super().__init__(what)
        self.news = news


class GoneError(PeerError):
    """The peer does not serve this, or no longer."""


def check_status(address: Endpoint, status: int, retry_after: str) -> None:
    """Raise what an answer with another status than 200 means."""
    if status == 200:
        return
    if status == 503:
        seconds = int(retry_after) if retry_after.isdecimal() and len(retry_after) < 7 else 1
        raise BusyError(f"{address} is busy", min(max(seconds, 1), CLIENT.max_retry_s))
    if status in (404, 410):
        raise GoneError(f"{address} does not serve this" + (" any more" if status == 410 else ""))
    raise PeerError(f"{address} answers {status}")


def no_data(address: Endpoint, error: OverlaysyncError) -> PeerError:
    """Return the failure of a new connection, with the address.

    Of what a caller tells apart the kind is kept.
    """
    if isinstance(error, BusyError | GoneError):
        return error
    kind = SilentError if isinstance(error, SilentError) else PeerError
    return kind(f"No data from {address}", why=str(error))
