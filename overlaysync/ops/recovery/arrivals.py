"""Arrivals: which objects have come by now, for who uses each one as soon as it is here."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator

from overlaysync.ops.hashing import Progress

_LOOK_S = 0.2
"""So often who waits is asked whether it is to go on."""


class Arrivals:
    """What is being pulled, and what of it is settled: it is here, or no place could give it.

    One thread tells, others wait. What nobody has said to expect is not waited for.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._expected: set[str] = set()
        self._error: BaseException | None = None

    def expect(self, names: Iterable[str]) -> None:
        """Have everybody wait for these objects from now on."""
        with self._changed:
            self._expected.update(names)

    def settle(self, name: str) -> None:
        """Note that an object is here, or will not come."""
        with self._changed:
            self._expected.discard(name)
            self._changed.notify_all()

    def end(self, error: BaseException | None = None) -> None:
        """Note that nothing more will come.

        Args:
            error: why not; it is raised where something is awaited that has not come.
        """
        with self._changed:
            self._error = error
            if error is None:
                self._expected.clear()
            self._changed.notify_all()

    def as_they_come(self, names: Collection[str], waiting: Progress) -> Iterator[str]:
        """Yield each of ``names`` when it is settled.

        Args:
            names: of objects.
            waiting: is called with 0 while none is; may end it with an exception.

        Raises:
            OverlaysyncError: the pull has failed.
        """
        left = dict.fromkeys(names)
        while left:
            with self._changed:
                settled = [name for name in left if name not in self._expected]
                if not settled:
                    if self._error is not None:
                        raise self._error
                    self._changed.wait(_LOOK_S)
            if not settled:
                waiting(0)
            for name in settled:
                del left[name]
                yield name
