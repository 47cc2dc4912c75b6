"""Choose between two ways to do the same work by trying both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

Spent: TypeAlias = Callable[[], float]
"""Returns the processor time that this thread has taken, in seconds."""

_TURNS = 4
"""Times that each way is tried before one is chosen."""


class Quicker:
    """The one of two ways, called False and True, that takes less processor time for a byte.

    Which one that is depends on the processor, and is the same for all of a file. Several threads may ask at
    once: a turn that two of them take at the same moment only makes the trial shorter or longer by one.
    """

    def __init__(self, spent: Spent) -> None:
        self._spent = spent
        self._turns = [0, 0]
        self._seconds = [0.0, 0.0]
        self._bytes = [0, 0]

    def way(self) -> bool:
        """Return the way to take now: each in turn at first, then the quicker one."""
        if min(self._turns) < _TURNS:
            return self._turns[True] < self._turns[False]
        return self._seconds[True] * self._bytes[False] < self._seconds[False] * self._bytes[True]

    @contextmanager
    def timed(self, way: bool, length: int) -> Iterator[None]:
        """Count what is done meanwhile, to ``length`` bytes and by this thread, as a turn of ``way``."""
        start = self._spent()
        yield
        self._seconds[way] += self._spent() - start
        self._bytes[way] += length
        self._turns[way] += 1
