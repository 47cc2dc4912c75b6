"""Which of the others a node asks, and with which of them it shares the work of bringing pieces in.

It knows of those that ask it and of those that sources tell of. It asks some of them, chosen at random, and
those that ask it, up to a number. Work is shared with all that are known, except for those that have been
met and do not do what they are asked for. Sans-IO: times are arguments, in seconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from random import Random

from overlaysync.swarm.members import MAX_SOURCES, Member, Members

CHOOSE_S = 0.2
"""It chooses a few, and after this time the next."""

_MET = 256
"""Members met in one transfer at most: somebody may invent them."""

_UNHEARD = 3
"""A member that has left so many questions unanswered is no company; another one may be asked instead."""

_INVENTED = 5
"""A member that has left so many questions unanswered is not asked again: it may be another's address."""


class Neighbours:
    """The others, as one node knows them.

    Args:
        me: this node's member id.
        asking: those that ask this node; kept by whoever answers them.
        random: chooses among them.
        most: how many it asks; half as many of its own choice.
    """

    def __init__(self, me: str, asking: Members, random: Random, *, most: int = MAX_SOURCES) -> None:
        self._me = me
        self._asking = asking
        self._told = Members()
        self._random = random
        self._most = most
        self._choose_at = 0.0
        self._met: dict[str, str] = {}  # member id → source
        self._unheard: Counter[str] = Counter()  # questions in a row without an answer
        self._heard: set[str] = set()

    # -- what happens --------------------------------------------------------------------------------

    def told(self, member: Member, count: int, now: float) -> None:
        """Note a member of a content of ``count`` pieces that a source tells of."""
        self._told.seen(member, count, now)

    def met(self, member: Member, source: str) -> None:
        """Note that a member is asked from now on, by this name."""
        self._met[member.id] = source

    def answered(self, source: str) -> None:
        """Note that a source has answered a question."""
        self._unheard[source] = 0
        self._heard.add(source)

    def unanswered(self, source: str) -> None:
        """Note that a source has not answered a question."""
        self._unheard[source] += 1

    # -- who is there --------------------------------------------------------------------------------

    def known(self, now: float) -> dict[str, Member]:
        """Return all other members known, by id."""
        return {
            member.id: member
            for known in (self._told, self._asking)
            for member in known.current(now)
            if member.id != self._me
        }

    def sharing(self, count: int, now: float, doubtful: Collection[str]) -> list[str]:
        """Return the ids of those that fetch and have not got all ``count`` pieces.

        ``doubtful``: sources that work should not be shared with.
        """
        useless = self.useless(doubtful)
        return [id for id, one in self.known(now).items() if one.held < count and id not in useless]

    def useless(self, doubtful: Collection[str]) -> set[str]:
        """Return the members met that do not do what they are asked for."""
        return {
            id for id, source in self._met.items() if source in doubtful or self._unheard[source] >= _UNHEARD
        }

    def company(self, dropped: Collection[str]) -> int:
        """Return how many of the members met are still there; those ``dropped`` are not."""
        return sum(
            source not in dropped and self._unheard[source] < _UNHEARD for source in self._met.values()
        )

    def to_meet(self, now: float, dropped: Collection[str]) -> Iterator[Member]:
        """Yield members that may be asked as well; the caller says which of them it has :meth:`met`."""
        for member in list(self._asking.current(now)):  # who is done stays for a moment, longer when asked
            if self._may_meet(member, self._most, dropped):
                yield member
        if now >= self._choose_at and self.company(dropped) < self._most // 2:
            for member in self._told.strangers(self._met, now, self._random):
                self._choose_at = now + CHOOSE_S
                if self._may_meet(member, self._most // 2, dropped):
                    yield member

    def is_invented(self, source: str) -> bool:
        """Whether a member has left all questions unanswered, and enough of them to give it up."""
        never = source in self._met.values() and source not in self._heard
        return never and self._unheard[source] >= _INVENTED

    def _may_meet(self, member: Member, most: int, dropped: Collection[str]) -> bool:
        if member.id in self._met or member.id == self._me or len(self._met) >= _MET:
            return False
        return self.company(dropped) < most
