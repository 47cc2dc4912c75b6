"""Who else is fetching one content: a list that every node of a swarm keeps and tells the others.

Sans-IO: times are arguments. A member that has not been heard of for a while is forgotten. Everything here is
hearsay: it says whom to ask and how the work is divided, never what is believed.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass
from random import Random

from overlaysync.swarm.handed import Handed

AGE_S = 10.0
"""A member that has been silent for so long has gone."""

MAX_SOURCES = 48
"""A node asks half as many others of its own choice, and as many in all with those that ask it."""

_AT_ONCE = 6
"""It chooses so few at a time: at first only the earliest are known, and all would choose them."""

ALL_TOLD = 64
MORE_TOLD = 16
"""A node is told of all members when there are no more than that. Where there are more it is told of so many
at random until it knows as many, and then of a few each time: else telling all of all takes a part of the
link that grows with the square of their number."""

MAX_MEMBERS = 1024
MAX_PER_HOST = 64
"""Members with one host address: many nodes share a hypervisor."""


@dataclass(frozen=True, slots=True)
class Member:
    """A node that fetches, or has just fetched.

    Attributes:
        id: made up by the node for this transfer.
        host, port: where it answers.
        held: pieces it has.
        label: its label as it says itself, safe to print; "" where that is not known.
    """

    id: str
    host: str
    port: int
    held: int
    label: str = ""

    @property
    def key(self) -> str:
        """What it counts as: a node that fetches twice is one."""
        return self.label or self.id


class Members:
    """The members known, by id.

    Attributes:
        joined: keys of those that have been heard of, whether they are still there or not.
        done: those of them that had everything when they were last heard of.
    """

    def __init__(self, *, limit: int = MAX_MEMBERS, per_host: int = MAX_PER_HOST) -> None:
        self._limit = limit
        self._per_host = per_host
        self._members: dict[str, Member] = {}
        self._seen: dict[str, float] = {}
        self.joined: set[str] = set()
        self.done: set[str] = set()

    def seen(self, member: Member, count: int, now: float) -> bool:
        """Note a member; whether it is new. One too many is left out.

        Args:
            member: as it is now.
            count: pieces there are.
            now: seconds.
        """
        known = self._members.get(member.id)
        if known is None or now - self._seen[member.id] >= AGE_S:
            known = None
            self._forget(now)
            if len(self._members) >= self._limit or self._of_host(member.host) >= self._per_host:
                return False
        elif known.host != member.host:
            return False  # an id belongs to the host that came with it first
        self._members[member.id] = member
        self._seen[member.id] = now
        if len(self.joined) < self._limit * 16:
            self.joined.add(member.key)
        if member.held < count:
            self.done.discard(member.key)
        elif member.key in self.joined:
            self.done.add(member.key)
        return known is None

    def knows(self, id: str, host: str, now: float) -> bool:
        """Whether a member with this id is there, and at this host."""
        member = self._members.get(id)
        return member is not None and member.host == host and now - self._seen[id] < AGE_S

    def current(self, now: float, *, age_s: float = AGE_S) -> Iterator[Member]:
        """Those that have been heard of in the last ``age_s`` seconds."""
        return (member for id, member in self._members.items() if now - self._seen[id] < age_s)

    def strangers(self, known: Container[str], now: float, random: Random) -> list[Member]:
        """Return a few of those not known yet, at random."""
        strangers = [member for member in self.current(now) if member.id not in known]
        return random.sample(strangers, min(_AT_ONCE, len(strangers)))

    def __len__(self) -> int:
        return len(self._members)

    def _of_host(self, host: str) -> int:
        return sum(member.host == host for member in self._members.values())

    def _forget(self, now: float) -> None:
        for id in [id for id, seen in self._seen.items() if now - seen >= AGE_S]:
            del self._members[id], self._seen[id]


def some_of(members: list[Member], *, known: int, random: Random) -> list[Member]:
    """Return those to tell a node of that knows so many."""
    if len(members) <= ALL_TOLD:
        return members
    return random.sample(members, max(MORE_TOLD, min(ALL_TOLD, ALL_TOLD - known)))


class Swarms:
    """The members of every swarm this node takes part in, by manifest id."""

    def __init__(self) -> None:
        self._swarms: dict[bytes, Members] = {}
        self._handed: dict[bytes, Handed] = {}

    def of(self, manifest: bytes) -> Members:
        """Return the members of one swarm."""
        return self._swarms.setdefault(manifest, Members())

    def handed(self, manifest: bytes) -> Handed:
        """Return what this node hands out in one swarm."""
        return self._handed.setdefault(manifest, Handed())

    def leave(self, manifest: bytes) -> None:
        """Forget a swarm."""
        self._swarms.pop(manifest, None)
        self._handed.pop(manifest, None)
