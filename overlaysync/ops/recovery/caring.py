"""Care for a vault directory: what heads list and is missing or has rotted comes again; all is read again.

An object that has rotted stays until a good one takes its place: most of it may still be readable, and
there may be no other copy. Until then, it is noted. The lock of the vault is held while anything here writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from overlaysync.errors import NotFoundError, OverlaysyncError, VerificationError
from overlaysync.ops.recovery import notes
from overlaysync.ops.recovery.cleaning import listed
from overlaysync.ops.recovery.pulling import Place, Pull
from overlaysync.vault.directory import DirectoryObjects
from overlaysync.vault.objects import Kind, get_whole, parse_name

READ_IN_S = 28 * 86400.0
"""Everything is read once in so many seconds."""
_DAMAGED = ".damaged.json"


def note_damaged(objects: DirectoryObjects, names: Iterable[str]) -> None:
    """Note objects that are not what they are named for, so that they are pulled again.

    Raises:
        OverlaysyncError: it cannot be written.
    """
    before = set(notes.load(objects.root, _DAMAGED, list[str]))
    known = before | {name for name in names if _can_come_again(name)}
    if known != before:
        notes.save(objects.root, _DAMAGED, sorted(known))


def lacking_objects(objects: DirectoryObjects, *, keep_notes: bool = False) -> list[str]:
    """Return the names of what heads list and is not there, or was noted as damaged and still is.

    Args:
        objects: the vault.
        keep_notes: write nothing; else the notes of what is good again are dropped.
    """
    names, _ = listed(objects)
    noted = set(notes.load(objects.root, _DAMAGED, list[str]))
    damaged = {name for name in noted & names if _is_damaged(objects, name)}
    if damaged != noted and not keep_notes:
        notes.save(objects.root, _DAMAGED, sorted(damaged))
    return sorted(name for name in names if name in damaged or objects.size(name) is None)


def heal(objects: DirectoryObjects, names: Sequence[str], places: Sequence[Place]) -> list[str]:
    """Pull what is missing or damaged; returns what no place could give.

    Raises:
        NoSpaceError, OverlaysyncError: it cannot be stored.
    """
    return Pull(places, objects).run(names, check=True) if names else []


def _can_come_again(name: str) -> bool:
    named = parse_name(name)
    return named is not None and named.kind is not Kind.HEAD


def _is_damaged(objects: DirectoryObjects, name: str) -> bool:
    try:
        get_whole(objects, name)
    except VerificationError:
        return True
    except OverlaysyncError:  # missing, or not to be read at all: that is seen without a note
        return False
    return False


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
        """Read what is due after so many seconds; returns the names of what has rotted, which is noted.

        What cannot be read at all is left to ``vault check --read``, which names it.

        Raises:
            OverlaysyncError: the note cannot be written.
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
        note_damaged(self._objects, rotten)
        return rotten
