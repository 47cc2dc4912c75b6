"""History: which version follows which, as far as headers are known. Pure.

A version names what it follows by manifest ids, and an id is a hash of all the signed bytes, so nobody can
put a version into another's past. Where a header is not known, what is before it is not known either: then
two versions look unrelated, which is treated like a fork and never like a fast-forward.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypeVar


class Version(Protocol):
    """A version, as far as its place in a history goes."""

    @property
    def id(self) -> bytes:
        """The manifest id."""
        ...

    @property
    def version(self) -> int:
        """Its number."""
        ...

    @property
    def follows(self) -> tuple[bytes, ...]:
        """The ids of the versions it follows, first the one that it was made from."""
        ...


V = TypeVar("V", bound=Version)


class History:
    """What follows what among ``versions``."""

    def __init__(self, versions: Iterable[Version]) -> None:
        self._follows: Mapping[bytes, tuple[bytes, ...]] = {item.id: item.follows for item in versions}

    def before(self, *ids: bytes) -> set[bytes]:
        """Return the ids of all that the given versions follow, directly or through others."""
        found: set[bytes] = set()
        waiting = [before for id in ids for before in self._follows.get(id, ())]
        while waiting:
            id = waiting.pop()
            if id not in found:
                found.add(id)
                waiting += self._follows.get(id, ())
        return found

    def is_before(self, old: bytes, new: bytes) -> bool:
        """Whether ``new`` follows ``old``, directly or through others."""
        return old != new and old in self.before(new)

    def is_made_from(self, old: bytes, new: bytes) -> bool:
        """Whether ``new`` was made from ``old``, directly or through others.

        A version may also follow one that it was only chosen over, of which it may hold nothing.
        """
        seen: set[bytes] = set()
        while new not in seen and (follows := self._follows.get(new)):
            seen.add(new)
            new = follows[0]
            if new == old:
                return True
        return False

    def heirs(self, id: bytes) -> set[bytes]:
        """Return the ids of all versions that were made from one, directly or through others."""
        return _reached(id, {new: follows[:1] for new, follows in self._follows.items()})

    def chosen_over(self, id: bytes) -> set[bytes]:
        """Return the ids of all versions that follow one and were not made from it: they may hold none of it.

        A fork is settled by a version that follows all its sides, and was made from the first of those alone.
        """
        return _reached(id, self._follows) - self.heirs(id)

    def newest(self, versions: Iterable[V]) -> list[V]:
        """Return those of ``versions`` that no other of them follows: one, or the sides of a fork."""
        kept = list(versions)
        old = self.before(*(item.id for item in kept))
        return [item for item in kept if item.id not in old]

    def unknown_before(self, id: bytes) -> set[bytes]:
        """Return the ids in the past of a version whose headers are not known."""
        return {before for before in self.before(id) if before not in self._follows}

    def last_common(self, left: bytes, right: bytes, versions: Sequence[V]) -> V | None:
        """Return the newest of ``versions`` that both sides of a fork come from; None when none is known."""
        shared = ({left} | self.before(left)) & ({right} | self.before(right))
        return max(
            (item for item in versions if item.id in shared), key=lambda item: item.version, default=None
        )


def _reached(id: bytes, follows: Mapping[bytes, tuple[bytes, ...]]) -> set[bytes]:
    """Return the ids of all that follow one, directly or through others."""
    after: dict[bytes, list[bytes]] = {}
    for new, before in follows.items():
        for old in before:
            after.setdefault(old, []).append(new)
    found: set[bytes] = set()
    waiting = [id]
    while waiting:
        for new in after.get(waiting.pop(), ()):
            if new not in found:
                found.add(new)
                waiting.append(new)
    return found
