"""What fills an assembly at one go: the images here, and whatever else holds units and is no peer."""

from __future__ import annotations

from typing import Protocol

from overlaysync.ops.assemble import Assembly
from overlaysync.ops.hashing import Progress


class Filler(Protocol):
    """A place that units are taken from, before any peer is asked."""

    def take(self, assembly: Assembly, progress: Progress) -> int:
        """Take what is missing and held there; returns the bytes taken.

        Called from a thread. What is not there, or not as it should be, is simply not taken.

        Args:
            assembly: takes the units, and verifies them.
            progress: is told of the bytes taken; called often, it ends the work with an exception.
        """
