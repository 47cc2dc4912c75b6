"""Care for a vault directory: what heads list and is missing comes again, and what is there is read again.

An object that has rotted stays until a good one takes its place: other records of it may still be good. The
lock of the vault is held while anything here runs.
"""

from __future__ import annotations

from collections.abc import Sequence

from overlaysync.errors import NotFoundError, OverlaysyncError, VerificationError
from overlaysync.ops.recovery.cleaning import listed
from overlaysync.ops.recovery.pulling import Place, Pull
from overlaysync.vault.directory import DirectoryObjects
from overlaysync.vault.objects import get_whole

READ_IN_S = 28 * 86400.0
"""Everything is read once in so many seconds."""


def missing_objects(objects: DirectoryObjects) -> list[str]:
    """Return the names of what heads list and is not there."""
    names, _ = listed(objects)
    return sorted(name for name in names if objects.size(name) is None)


def heal(objects: DirectoryObjects, names: Sequence[str], places: Sequence[Place]) -> list[str]:
    """Pull what is missing; returns what no place could give.

    Raises:
        NoSpaceError, OverlaysyncError: it cannot be stored.
    """
    return Pull(places, objects).run(names, check=True) if names else []


class Reader:
    """Reads a vault again, a little at a time.

    Args:
        objects: the vault.
        period_s: everything is read once in so many seconds.
    """

    def __init__(self, objects: DirectoryObjects, period_s: float = READ_IN_S) -> None:
        self._objects = objects
        self._period_s = period_s
        self._waiting: list[str] = []
        self._total = 0
        self._owed = 0.0

    def read_some(self, elapsed_s: float) -> list[str]:
        """Read what is due after so many seconds; returns the names of what has rotted.

        What cannot be read at all stays: ``vault check --read`` names it.
        """
        if not self._waiting:
            self._waiting = sorted(listed(self._objects)[0], reverse=True)
            self._total = sum(self._objects.size(name) or 0 for name in self._waiting)
        self._owed += self._total * elapsed_s / self._period_s
        rotten = []
        while self._waiting and self._owed > 0:
            name = self._waiting.pop()
            try:
                self._owed -= len(get_whole(self._objects, name))
            except NotFoundError:
                continue
            except VerificationError:
                rotten.append(name)
            except OverlaysyncError:
                continue
        self._owed = min(self._owed, 0.0)
        return rotten
