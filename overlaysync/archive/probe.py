"""Find out what a place of objects can do, with an object made for that, before its first use."""

from __future__ import annotations

import os
from dataclasses import dataclass

from blake3 import blake3

from overlaysync.errors import NotFoundError, OverlaysyncError
from overlaysync.vault.objects import Kind, Objects, hash_of, object_name

_TAG = blake3(b"overlaysync probe").hexdigest()[:32]
"""The space of such objects, which belongs to no team."""
_SIZE = 1024


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a place can do.

    Attributes:
        put: what is stored is there afterwards, whole.
        range: a part of an object can be read.
        list: what is stored is listed at once.
        conditional: it tells that an object was there already, and does not write it again.
        delete: an object can be removed.
    """

    put: bool
    range: bool
    list: bool
    conditional: bool
    delete: bool

    @property
    def is_usable(self) -> bool:
        """Whether states can be stored there and restored."""
        return self.put and self.range and self.list

    @property
    def lacks(self) -> tuple[str, ...]:
        """What it cannot do, and what follows from that, as sentences."""
        sentences = {
            "It does not return what was stored, so it cannot be used.": self.put,
            "It cannot read a part of an object, so it cannot be used.": self.range,
            "It does not list what was stored, so it cannot be used.": self.list,
            "It overwrites objects that exist, which costs traffic and may leave old versions.": (
                self.conditional
            ),
            "It does not remove objects, so the archive only grows.": self.delete,
        }
        return tuple(sentence for sentence, can in sentences.items() if not can)


def probe(objects: Objects) -> Abilities:
    """Store, read, list and remove a small object of a name of its own.

    Where it cannot be removed, it stays: about a kilobyte.

    Raises:
        OverlaysyncError: nothing can be stored there, or nothing read: the key, the bucket or the network.
    """
    data = os.urandom(_SIZE)
    name = object_name(_TAG, Kind.STATE, hash_of(data))
    objects.put(name, data)
    try:
        kept, part = objects.get(name), objects.get(name, 100, 50)
        listed = {stored.name: stored.size for stored in objects.list(f"{_TAG}/{Kind.STATE}/")}
        again = objects.put(name, data)
    except OverlaysyncError:
        _remove(objects, name)
        raise
    return Abilities(
        put=kept == data,
        range=part == data[100:150],
        list=listed.get(name) == _SIZE,
        conditional=not again,
        delete=_remove(objects, name),
    )


def _remove(objects: Objects, name: str) -> bool:
    """Whether the object could be removed, and is gone."""
    try:
        return objects.delete(name) and objects.size(name) is None
    except NotFoundError:
        return True
    except OverlaysyncError:
        return False
