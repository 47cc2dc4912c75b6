"""One source of a transfer as the schedule sees it: what it has, how fast it is, how it has behaved."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

import numpy as np
from numpy.typing import NDArray

_STRIKES = 4
_SILENCES = 3
_REFUSALS = 200
"""Refusals in a row after which a source is given up: some minutes."""
_TAKEN = 3
_LONGEST_REST = 4
"""From so many answers in a row that say a piece is taken, it rests for 1, 2 and 4 times what it is told."""
_BACKOFF_S = 0.5
_LONGEST_BACKOFF_S = 4.0
_PATIENCE_S = 45.0
"""A source that has gone silent is given up after this time: a cable may have been pulled, and put back."""
_FADE = 0.8


class Failure(Enum):
    """Why a request failed."""

    WRONG = auto()
    """Bytes did not match their digests."""
    GONE = auto()
    """The source does not have the manifest any more."""
    TAKEN = auto()
    """A seed has just handed it to another, who is about to pass it on."""
    BUSY = auto()
    """The source asks to come back later."""
    LOST = auto()
    """Connection refused or cut."""
    SILENT = auto()
    """No answer, or no more bytes, in time."""


@dataclass(slots=True)
class Pace:
    """Bytes per second of a source, the latest counting most; 0 while it is unknown."""

    _bytes: float = 0.0
    _seconds: float = 0.0
    _since: float = 0.0

    def begin(self, now: float) -> None:
        """Note that the source gets something to do after it had nothing."""
        self._since = now

    def add(self, size: int, now: float) -> None:
        """``size`` bytes came since the last time."""
        self._bytes = self._bytes * _FADE + size
        self._seconds = self._seconds * _FADE + max(now - self._since, 1e-6)
        self._since = now

    @property
    def rate(self) -> float:
        return self._bytes / self._seconds if self._seconds else 0.0


@dataclass(slots=True)
class Source:
    """A source.

    Attributes:
        pieces: which it has; None for a seed, which has had all from the start. Shape (pieces,).
        cursor: how far its piece log has been read.
        taken_cursor: how far it has been read what it handed out.
        crowd: how many nodes fetch, as it says.
        answers: questions that ended, answered or not; before the first it is asked for nothing.
        depth: requests it may have under way so far: it starts with one, and each success allows one more.
        in_flight: requests under way.
        dry: nothing that it has is wanted from it at present.
        retry_at: it is not asked before.
        dropped: why it is not asked any more.
        delivered: verified bytes it gave.
        ask_at: it is asked what it has not before that; None when it cannot say.
        asking: whether that question is under way.
        heard: whether it has ever answered.
        silences: questions without an answer before its first one.
    """

    pieces: NDArray[np.bool_] | None = None
    cursor: int = 0
    taken_cursor: int = 0
    crowd: int = 0
    answers: int = 0
    depth: int = 1
    in_flight: int = 0
    dry: bool = False
    retry_at: float = 0.0
    dropped: Failure | None = None
    delivered: int = 0
    ask_at: float | None = 0.0
    asking: bool = False
    heard: bool = False
    silences: int = 0
    pace: Pace = field(default_factory=Pace)
    _strikes: int = 0
    _refusals: int = 0
    _taken: int = 0
    _struck_at: float = 0.0

    @property
    def seed(self) -> bool:
        """Whether it has had everything from the start."""
        return self.pieces is None

    def has(self, piece: int) -> bool:
        """Whether it has a piece."""
        return self.pieces is None or bool(self.pieces[piece])

    @property
    def counts(self) -> bool:
        """Whether it is there, as far as one knows: anybody can invent a member."""
        return self.seed or self.heard or self.silences < _SILENCES

    @property
    def strikes(self) -> int:
        """Failures in a row."""
        return self._strikes

    def begin(self, now: float) -> None:
        """Note that it is asked for something."""
        if not self.in_flight:
            self.pace.begin(now)
        self.in_flight += 1

    def good(self) -> None:
        """Note that it did what it was asked for."""
        self._strikes = self._refusals = self._taken = 0
        self.depth += 1

    def late(self, now: float) -> None:
        """Somebody else had to be asked as well: it gets nothing more to be late with, for a moment."""
        if not self._strikes:
            self._strikes, self._struck_at = 1, now
        wait_s = 2 * _BACKOFF_S if self.delivered else _LONGEST_BACKOFF_S
        self.retry_at = max(self.retry_at, now + wait_s)

    def bad(self, failure: Failure, now: float, retry_after: float = 0.0) -> None:
        """Note that it failed: it is asked later, or not any more."""
        if failure in (Failure.WRONG, Failure.GONE):
            self.dropped = failure
        elif failure is Failure.TAKEN:
            # No fault of the source: there are other pieces. But many in a row say that it has few left.
            self._taken += 1
            if self._taken >= _TAKEN:
                rest_s = retry_after * min(_LONGEST_REST, 2.0 ** (self._taken - _TAKEN))
                self.retry_at = max(self.retry_at, now + rest_s)
            if self._taken >= _REFUSALS:
                self.dropped = failure
        elif failure is Failure.BUSY:
            # Requests that are refused together count once.
            self._refusals += now >= self.retry_at
            self.retry_at = now + retry_after
            if self._refusals >= _REFUSALS:
                self.dropped = failure
        elif now >= self.retry_at:
            # Requests that die together with one connection are one strike.
            if not self._strikes:
                self._struck_at = now
            self._strikes += 1
            self.retry_at = now + min(_LONGEST_BACKOFF_S, _BACKOFF_S * 2**self._strikes)
            patient = failure is Failure.SILENT and now - self._struck_at < _PATIENCE_S
            if self._strikes >= _STRIKES and not patient:
                self.dropped = failure
