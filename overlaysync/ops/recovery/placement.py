"""Placement without a server: which of the machines that keep something takes what lacks copies. Pure.

Every machine computes the same order, from a keyed hash of what is to be kept and of each machine's key. If N
copies are missing, the first N machines in the order take one each, the later ones after a longer wait. So a
few machines take what is new, all others see that, and no machine has to ask another.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable
from dataclasses import dataclass

from blake3 import blake3

from overlaysync.model.digest import derive

_CONTEXT = "overlaysync v1 vault placement"
_STEP_S = 30.0
"""How much longer, at most, each later machine in the order waits before it takes something."""
_STEP_IN_S = 3600.0
"""How much longer each machine waits that is not among the next: others may be pulling for a while."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What a node keeps.

    Attributes:
        tags: of the spaces of its teams that it keeps.
        others: bytes that it gives to what belongs to others.
    """

    tags: tuple[str, ...] = ()
    others: int = 0


def rank(tag: str, group: bytes, keeper: bytes) -> bytes:
    """Return what keepers are ordered by, the lowest first.

    Args:
        tag: of the space.
        group: what is kept together: the key of the node that saved it.
        keeper: public key of a machine that keeps.
    """
    return blake3(group + keeper, key=derive(_CONTEXT, tag.encode())).digest()


def place_of(own: bytes, tag: str, group: bytes, lacking: Iterable[bytes]) -> int:
    """Return how many of the keepers that lack a group come before ``own``, which lacks it too."""
    mine = rank(tag, group, own)
    return sum(rank(tag, group, other) < mine for other in set(lacking) - {own})


def wait_s(place: int, missing: int) -> float:
    """Return how long a keeper waits before it takes what lacks copies, in seconds.

    One that is not among the next takes it all the same when these do not: they have no room, or fail.

    Args:
        place: how many of those that lack it come before this one.
        missing: copies that are missing.
    """
    return place * _STEP_S if place < missing else (place - missing + 1) * _STEP_IN_S


def count_hosts(hosts: Iterable[Collection[Hashable]]) -> int:
    """Return how many machines holders stand for: two that have anything in common are one.

    Args:
        hosts: of each holder what tells its machine: its boot, its address, ...
    """
    joined: list[set[Hashable]] = []
    for marks in hosts:
        one = set(marks)
        apart = []
        for other in joined:
            if other & one:
                one |= other
            else:
                apart.append(other)
        joined = [*apart, one]
    return len(joined)
