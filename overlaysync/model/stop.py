"""Stopping long work that runs in threads."""

from __future__ import annotations

from dataclasses import dataclass

from overlaysync.errors import StoppedError


@dataclass(slots=True)
class Stop:
    """Says whether work is to stop. It is given to the work as its progress, so that it is asked often.

    Attributes:
        wanted: whether to stop; may be set from any thread.
    """

    wanted: bool = False

    def __call__(self, size: int) -> None:
        """End the work that has just done ``size`` bytes, if it is to stop.

        Raises:
            StoppedError: it is.
        """
        if self.wanted:
            raise StoppedError("stopped")
