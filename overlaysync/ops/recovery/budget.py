"""Budgets: how much of a vault is taken by what is kept for a team or for others, and no byte more."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator

from overlaysync.errors import NoSpaceError
from overlaysync.ops.recovery.vaults import read_heads
from overlaysync.units import KIB, ceil_div
from overlaysync.vault.objects import Objects, Part, Stored, parse_name
from overlaysync.vault.spaces import PUBLIC

_BLOCK = 4 * KIB
"""What a file takes at least: a million objects of one byte take more than a megabyte."""


def room_of(size: int) -> int:
    """Return the bytes that an object of ``size`` bytes takes on a disk."""
    return max(1, ceil_div(size, _BLOCK)) * _BLOCK


def used_by(objects: Objects, tag: str) -> int:
    """Return the bytes that a team takes: its space, and what of the public space it needs."""
    public = _public_of(objects, tag)
    names = (one for one in objects.list("") if one.name.startswith(f"{tag}/") or one.name in public)
    return sum(room_of(one.size) for one in names)


def used_by_others(objects: Objects, own: Collection[str]) -> int:
    """Return the bytes that belong to none of the teams with the tags ``own``.

    Public objects count too, if none of these teams needs them.
    """
    public = {name for tag in own for name in _public_of(objects, tag)}
    return sum(
        room_of(one.size)
        for one in objects.list("")
        if (named := parse_name(one.name)) and named.tag not in own and one.name not in public
    )


def _public_of(objects: Objects, tag: str) -> set[str]:
    heads, _ = read_heads(objects, tag)
    names = (name for head in heads.values() for name in head.head.names(PUBLIC.tag))
    return {name for name in names if name.startswith(f"{PUBLIC.tag}/")}


class BudgetError(NoSpaceError):
    """What is pulled is larger than the budget."""


class Limited:
    """A place that takes so many bytes more at most: a head can say less than its objects have.

    Args:
        objects: the place.
        room: bytes.

    Raises:
        BudgetError: from :meth:`put` and :meth:`store`, when there is no room for it.
    """

    def __init__(self, objects: Objects, room: int) -> None:
        self._objects = objects
        self._room = room
        self._lock = threading.Lock()

    def put(self, name: str, data: bytes) -> bool:
        return self.store(name, (data,))

    def store(self, name: str, parts: Iterable[Part]) -> bool:
        taken = _Taken(self, parts)
        try:
            return self._objects.store(name, taken)
        except BaseException:
            self.take(-taken.room)
            raise

    def take(self, room: int) -> None:
        """Take so many bytes of the room.

        Raises:
            BudgetError: there is less.
        """
        with self._lock:
            if room > self._room:
                raise BudgetError("The budget is used up", hint="overlaysync keep --budget SIZE")
            self._room -= room

    def parts(self, name: str) -> Iterator[Part]:
        return self._objects.parts(name)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        return self._objects.get(name, offset, length)

    def size(self, name: str) -> int | None:
        return self._objects.size(name)

    def list(self, prefix: str) -> Iterator[Stored]:
        return self._objects.list(prefix)

    def delete(self, name: str) -> bool:
        return self._objects.delete(name)


class _Taken:
    """The parts of an object, each of which takes its room before it is stored.

    Attributes:
        room: bytes that are taken so far.
    """

    def __init__(self, target: Limited, parts: Iterable[Part]) -> None:
        self.room = 0
        self._target = target
        self._parts = parts

    def __iter__(self) -> Iterator[Part]:
        size = 0
        for part in self._parts:
            size += len(part)
            more = room_of(size) - self.room
            self._target.take(more)
            self.room += more
            yield part
