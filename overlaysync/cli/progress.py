"""Progress as a command shows it: of one piece of work, and of those who fetch from this node.

A bar on a terminal, a plain line every few seconds elsewhere, and JSON lines with ``--json``.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence

from overlaysync.cli import streams
from overlaysync.cli.block import Block
from overlaysync.cli.later import later
from overlaysync.cli.log import stalled_text
from overlaysync.cli.room import Room
from overlaysync.units import format_size

_LINE_S = 3.0
_BAR_S = 0.1
_LEAST_BAR = 6
_WINDOW_S = 5.0
"""The rate, and the time left that follows from it, is that of the last seconds."""
STALLED_S = 2.0
"""Work that nothing has come for in so long has stalled."""
_SOURCES_SHOWN = 3
_FITTING = [
    (3, True, _LEAST_BAR),
    (3, False, _LEAST_BAR),
    (2, False, _LEAST_BAR),
    (1, False, _LEAST_BAR),
    (1, False, 0),
    (0, True, _LEAST_BAR),
    (0, False, _LEAST_BAR),
    (0, False, 0),
    (-1, False, 0),
]
"""What is said where there is less room, the first that fits: sources by name (below 0 not even how many),
whether of how much in all, and the least columns of the bar. No figure is ever cut."""
_CLIENTS_SHOWN = 3


class Progress:
    """One piece of work, shown at most a few times a second.

    Args:
        what: what it is, safe to print.
        total: its bytes.
        as_json: whether to print JSON lines.
        clock: seconds, rising.
        color: whether a bar has colours.
    """

    def __init__(
        self,
        what: str,
        total: int,
        as_json: bool,
        clock: Callable[[], float] = time.monotonic,
        *,
        color: bool = False,
    ) -> None:
        self._what = what
        self._total = total
        self._done = 0
        self._sources: Counter[str] = Counter()
        self._json = as_json
        on_terminal = sys.stderr.isatty() and not as_json
        self._bar = later("cli.terminal").Bar(what, total, color=color) if on_terminal else None
        self._block = Block()
        self._clock = clock
        self._shown = clock()
        self._window = deque([(self._shown, 0)])
        self._every = _BAR_S if self._bar else _LINE_S
        self._stalled = 0.0
        self._waiting: Sequence[str] = ()

    def advance(self, size: int, source: str = "") -> None:
        """``size`` more bytes are done; they came from ``source``."""
        self._done += size
        self._stalled = 0.0
        if source:
            self._sources[source] += size
        now = self._clock()
        if now - self._shown >= self._every:
            self._shown = now
            self._show(self._rate(now))

    def waiting(self, sources: Sequence[str], stalled_s: float) -> None:
        """Nothing has come from these sources for so long; 0: something comes. Called again and again."""
        begins = stalled_s > 0 and not self._stalled
        self._stalled, self._waiting = stalled_s, sources
        now = self._clock()
        if begins or now - self._shown >= self._every:
            self._shown = now
            self._show(self._rate(now))

    def clear(self) -> None:
        """Take the bar away."""
        self._block.clear()

    def _rate(self, now: float) -> float:
        """Bytes per second of late; what came before a stall does not count."""
        self._window.append((now, self._done))
        while len(self._window) > 2 and now - self._window[1][0] > _WINDOW_S:
            self._window.popleft()
        since, done = self._window[0]
        if self._stalled:
            return 0.0
        return (self._done - done) / (now - since) if now > since else 0.0

    def _show(self, rate: float) -> None:
        done = min(self._done, self._total)
        if self._json:
            streams.show(f"{json.dumps(self._fields(done, rate))}\n")
            return
        if not self._bar:
            streams.show(f"{self._what}: {self._text(done, rate)}\n")
            return
        texts, shortest = self._texts(done, rate), self._in_short(done, rate)
        line = self._bar.line(done, texts, shortest, streams.columns(), stalled=self._stalled > 0)
        self._block.draw([line])

    def _texts(self, done: int, rate: float) -> Iterator[tuple[str, int]]:
        """Return what can be said, the longest first, with the least columns of the bar beside it."""
        for sources, total, least in _FITTING:
            yield self._text(done, rate, sources=sources, total=total), least

    def _fields(self, done: int, rate: float) -> dict[str, object]:
        """Return the JSON form."""
        fields: dict[str, object] = {
            "progress": self._what,
            "done": done,
            "total": self._total,
            "rate": int(rate),
            "stalled": round(self._stalled, 1),
        }
        if self._stalled:
            fields["waiting_for"] = list(self._waiting)
        if self._sources:
            fields["sources"] = dict(self._sources)
        return fields

    def _text(self, done: int, rate: float, *, sources: int = _SOURCES_SHOWN, total: bool = True) -> str:
        missing = self._total - done
        of = f" of {format_size(self._total)}" if total else ""
        if self._stalled:
            stalled = stalled_text(self._waiting, self._stalled, sources)
            return f"{format_size(missing)} missing{of}  {stalled}"
        return f"{format_size(missing)} missing{of}  {_speed(missing, rate)}{self._from(sources)}"

    def _in_short(self, done: int, rate: float) -> str:
        """Return what is said where hardly anything fits."""
        percent = done * 100 // max(1, self._total)
        return f"{percent} %  {'stalled' if self._stalled else _speed(self._total - done, rate)}"

    def _from(self, shown: int) -> str:
        """Who gave how much of what has come, so many of them by name."""
        every, count = self._sources.total(), len(self._sources)
        if not every or shown < 0:
            return ""
        if count == 1 and shown:
            return f"  from {next(iter(self._sources))}"
        if not shown:
            return f"  from {count} node" + "s" * (count > 1)
        parts = [f"{name} {size * 100 // every} %" for name, size in self._sources.most_common(shown)]
        return f"  from {', '.join(parts)}" + (f" and {count - shown} more" if count > shown else "")


def _speed(missing: int, rate: float) -> str:
    """Return the rate and the time left; without a rate no time is promised."""
    left = f"  {format_time(missing / rate)} left" if rate else ""
    return f"{format_size(int(rate))}/s{left}"


class Audience:
    """Those who fetch from this node, shown when it changes: how many are done, and who is last.

    Args:
        as_json: whether to print JSON lines.
        color: whether a terminal has colours.
    """

    def __init__(self, as_json: bool, *, color: bool = False) -> None:
        self._json = as_json
        self._said: dict[str, tuple[str, float]] = {}
        self._block = Block()
        on_terminal = sys.stderr.isatty() and not as_json
        self._room = Room(color) if on_terminal else None

    def show(
        self, what: str, total: int, done: int, joined: int, fetching: Sequence[tuple[str, float]]
    ) -> None:
        """Show it, if it is time to.

        Args:
            what: what they fetch, safe to print.
            total: its bytes.
            done: how many have it.
            joined: how many have begun.
            fetching: label of each who still fetches, and how much it has (0 to 1).
        """
        slowest = sorted(fetching, key=lambda client: client[1])
        now = time.monotonic()
        if self._json:
            clients = {label: round(held, 3) for label, held in slowest}
            text = json.dumps({"serving": what, "done": done, "joined": joined, "clients": clients})
        else:
            text = f"{what}: {done} of {joined} done{_stragglers(slowest, joined - done)}"
        said, shown = self._said.get(what, ("", 0.0))
        if self._room is not None:
            self._room.take(what, total, (done, joined), fetching, now)
            if fetching or said == text:
                self._said[what] = (said, shown) if fetching else (text, now)
                self._redraw()
                return
        elif text == said or (now - shown < _LINE_S and fetching):
            return
        self._said[what] = text, now
        self.clear()
        streams.show(f"{text if self._json else f'  {text}'}\n")
        self._redraw()

    def clear(self) -> None:
        """Take away what is drawn."""
        self._block.clear()

    def _redraw(self) -> None:
        lines = self._room.lines(streams.columns(), streams.rows() - 2) if self._room else []
        if lines:
            self._block.draw(lines)
        else:
            self.clear()


def _stragglers(slowest: Sequence[tuple[str, float]], not_done: int) -> str:
    parts = [f"{label} {int(held * 100)} %" for label, held in slowest[:_CLIENTS_SHOWN]]
    if len(slowest) > _CLIENTS_SHOWN:
        parts.append(f"{len(slowest) - _CLIENTS_SHOWN} more")
    if not_done > len(slowest):
        parts.append(f"{not_done - len(slowest)} gone")
    return f"  {', '.join(parts)}" if parts else ""


def format_time(seconds: float) -> str:
    """Minutes and seconds, with hours where there are any."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
