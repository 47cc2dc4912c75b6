"""Retention: which states are forgotten, and which must stay. Pure.

A node forgets only what it saved itself. Of every VM the newest state stays, whatever the rules say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from overlaysync.ops.recovery.tips import newest_of_vms
from overlaysync.vault.state import SignedState


@dataclass(frozen=True, slots=True)
class Rules:
    """Which states are kept besides the newest of each VM; 0 for none by that rule.

    Attributes:
        last: so many of the newest.
        hourly, daily, weekly: the newest of each of so many hours, days and weeks that have one.
    """

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0

    @property
    def is_empty(self) -> bool:
        return not (self.last or self.hourly or self.daily or self.weekly)


_PERIODS: tuple[tuple[str, Callable[[datetime], tuple[int, ...]]], ...] = (
    ("hourly", lambda at: (at.year, at.month, at.day, at.hour)),
    ("daily", lambda at: (at.year, at.month, at.day)),
    ("weekly", lambda at: tuple(at.isocalendar())[:2]),
)


def kept(states: Sequence[SignedState], rules: Rules) -> set[bytes]:
    """Return the ids of the states that rules keep.

    Args:
        states: of one node and team, the oldest first.
        rules: which.
    """
    newest_first = sorted(states, key=lambda one: (one.state.saved, one.state.number), reverse=True)
    found = {one.id for one in newest_first[: rules.last]}
    for name, period_of in _PERIODS:
        seen: set[tuple[int, ...]] = set()
        for one in newest_first:
            period = period_of(datetime.fromisoformat(one.state.saved))
            if period not in seen and len(seen) < getattr(rules, name):
                seen.add(period)
                found.add(one.id)
    return found


def needed(states: Iterable[SignedState]) -> set[bytes]:
    """Return the ids of the states that are the newest of some VM."""
    newest = newest_of_vms(list(states))
    return {saving.state.id for savings in newest.values() for saving in savings}
