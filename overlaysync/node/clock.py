"""What long-running work reads the time from, so that a test can let months go by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from overlaysync.node.node import now
from overlaysync.ops.dates import utc


@dataclass(frozen=True, slots=True)
class Clock:
    """A clock and a stopwatch.

    Attributes:
        ticks: seconds that never go back.
        now: seconds since 1970.
    """

    ticks: Callable[[], float] = monotonic
    now: Callable[[], float] = now

    def timestamp(self, *, ago_s: float = 0.0) -> str:
        """Return the present time, or a time ago, ISO 8601 UTC."""
        return utc(self.now() - ago_s)


SYSTEM = Clock()
