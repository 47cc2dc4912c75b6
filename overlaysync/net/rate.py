"""A limit on a rate, shared by everything that takes from it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from overlaysync.units import KIB, MIB

_BURST_S = 0.1
_STEP_S = 0.05


class RateLimit:
    """A token bucket: bytes are reserved in order, each reservation is told how long to wait.

    Args:
        rate: bytes per second; None for no limit.
        clock: seconds, rising.
    """

    def __init__(self, rate: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        if rate is not None and rate <= 0:
            raise ValueError(f"a rate of {rate}")
        self.rate = rate
        self._clock = clock
        self._due = float("-inf")
        self._turn = asyncio.Lock()

    @property
    def step(self) -> int:
        """Bytes to take at a time so that the flow is even."""
        return MIB if self.rate is None else max(4 * KIB, min(MIB, int(self.rate * _STEP_S)))

    def reserve(self, count: int) -> float:
        """Take ``count`` bytes and return the seconds to wait for them."""
        if self.rate is None:
            return 0.0
        now = self._clock()
        # What was not used is lost but for a short burst.
        self._due = max(self._due, now - _BURST_S) + count / self.rate
        return max(0.0, self._due - now)

    async def take(self, count: int) -> None:
        """Take ``count`` bytes, after waiting for them; who is cancelled meanwhile takes nothing."""
        if self.rate is None:
            return
        # Only the first in line has a reservation: given back, it leaves no gap that would be filled twice.
        async with self._turn:
            try:
                await asyncio.sleep(self.reserve(count))
            except asyncio.CancelledError:
                self._due -= count / self.rate
                raise
