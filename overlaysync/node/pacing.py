"""Bounds on what others can make a machine do again and again: pauses, and things said once."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable

_REMEMBERED = 1 << 16
"""Pauses that are remembered; who invents more than that waits less."""
_SAID = 1024
"""Sentences that are remembered."""
_AN_HOUR = 120
"""Sentences that are said in an hour: others can give themselves any name."""
_HOUR_S = 3600.0


class Pauses:
    """When something may be done again.

    Args:
        ticks: tells seconds that never go back.
    """

    def __init__(self, ticks: Callable[[], float]) -> None:
        self._ticks = ticks
        self._until: OrderedDict[Hashable, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._until)

    def are_over(self, key: Hashable) -> bool:
        """Whether there is no pause for this, or not any more."""
        until = self._until.get(key)
        if until is None:
            return True
        if self._ticks() < until:
            return False
        del self._until[key]
        return True

    def begin(self, key: Hashable, seconds: float) -> None:
        """Pause for so long from now on."""
        self._until[key] = self._ticks() + seconds
        self._until.move_to_end(key)
        while len(self._until) > _REMEMBERED:
            self._until.popitem(last=False)


class Once:
    """Says each sentence once, and not too many of them.

    Args:
        say: says one.
        ticks: tells seconds that never go back.
    """

    def __init__(self, say: Callable[[str], None], ticks: Callable[[], float]) -> None:
        self._say = say
        self._ticks = ticks
        self._said: OrderedDict[str, None] = OrderedDict()
        self._lately: deque[float] = deque()

    def __len__(self) -> int:
        return len(self._said)

    def tell(self, text: str) -> None:
        """Say a sentence, unless it was said before, or too much was said in the last hour."""
        if text in self._said:
            self._said.move_to_end(text)
            return
        now = self._ticks()
        while self._lately and self._lately[0] <= now - _HOUR_S:
            self._lately.popleft()
        if len(self._lately) >= _AN_HOUR:
            return
        self._lately.append(now)
        self._said[text] = None
        while len(self._said) > _SAID:
            self._said.popitem(last=False)
        self._say(text)
