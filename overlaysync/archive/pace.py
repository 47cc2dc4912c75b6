"""How many requests a store gets: so many per second, so many at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Pace:
    """A token bucket for requests, and a limit on those that are under way. Threads share it.

    Args:
        rate: requests per second.
        parallel: requests at once; so many may also follow each other without a wait.
        clock: seconds, rising.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        rate: float,
        parallel: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._interval = 1 / rate
        self._burst = (parallel - 1) * self._interval
        self._clock = clock
        self._sleep = sleep
        self._due = float("-inf")
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(parallel)

    @contextmanager
    def request(self) -> Iterator[None]:
        """Make one request inside, after waiting for its turn."""
        with self._slots:
            self._sleep(self._reserve())
            yield

    def _reserve(self) -> float:
        with self._lock:
            now = self._clock()
            due = max(self._due, now - self._burst)
            self._due = due + self._interval
            return max(0.0, due - now)
