"""What a command that stays says where no person watches: lines with the time, one for each thing done.

Leaves out where the lines go.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from enum import IntEnum

from overlaysync.units import format_size

_LEAST_S = 1.0
"""Work that takes less is not worth a line."""


class Level(IntEnum):
    """How much a line matters, as systemd's journal counts (sd-daemon(3))."""

    ERROR = 3
    WARNING = 4
    INFO = 6


_WARNINGS = ("cannot ", "damaged ", "missing ", "no copy ", "no longer ", "not ", "left out: ", "✗ ")
"""How notes begin that want attention."""


def goes_to_journal(descriptor: int, environment: Mapping[str, str]) -> bool:
    """Whether a stream ends in systemd's journal, which has the time of each line and knows levels."""
    try:
        device, inode = map(int, environment.get("JOURNAL_STREAM", "").split(":"))
        found = os.fstat(descriptor)
    except (OSError, ValueError):
        return False
    return (found.st_dev, found.st_ino) == (device, inode)


def level_of(note: str) -> Level:
    """Return how much a note matters, by how it begins."""
    return Level.WARNING if note.lstrip().lower().startswith(_WARNINGS) else Level.INFO


def leveled(text: str, level: Level) -> str:
    """Return the lines of ``text`` as the journal reads them."""
    return "\n".join(f"<{int(level)}>{line}" for line in text.split("\n"))


def stamped(text: str) -> str:
    """Return the lines of ``text``, each after the time: local, with the offset from UTC."""
    at = datetime.now().astimezone().isoformat(timespec="seconds")
    return "\n".join(f"{at} {line}" for line in text.split("\n"))


def took(seconds: float) -> str:
    """Return a duration for people."""
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


class LoggedWork:
    """One piece of work: a line when it is done, and one each time it stalls.

    Args:
        what: what it is, safe to print.
        say: prints a line.
        clock: seconds, rising.
    """

    def __init__(
        self, what: str, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._what = what
        self._say = say
        self._clock = clock
        self._begun = clock()
        self._done = 0
        self._stalled = False

    def advance(self, size: int) -> None:
        """``size`` more bytes are done."""
        self._done += size

    def waiting(self, sources: Sequence[str], stalled_s: float) -> None:
        """Nothing has come from these sources for so long; 0: something comes."""
        if stalled_s and not self._stalled:
            self._say(f"{self._what}: {stalled_text(sources, stalled_s)}")
        self._stalled = stalled_s > 0

    def end(self) -> None:
        """Note that the work has ended, well or not."""
        seconds = self._clock() - self._begun
        if seconds >= _LEAST_S and self._done:
            self._say(f"{self._what}: {format_size(self._done)} in {took(seconds)}")


def stalled_text(sources: Sequence[str], stalled_s: float, shown: int = 3) -> str:
    """Return the words for a stall: who is waited for, so many of them by name, and for how long."""
    if not sources or shown < 1:
        return f"stalled for {int(stalled_s)} s"
    names = ", ".join(sources[:shown])
    more = f" and {len(sources) - shown} more" if len(sources) > shown else ""
    return f"stalled: waiting for {names}{more} for {int(stalled_s)} s"
