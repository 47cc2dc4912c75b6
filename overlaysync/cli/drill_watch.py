"""What is seen of a drill while it runs: a line for each step, or a clock for a whole room to read."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from overlaysync.cli import streams
from overlaysync.cli.output import Output
from overlaysync.ops.drill.report import Phase
from overlaysync.ops.drill.verdict import VERDICTS, duration

_DIGITS = {
    "0": ("█▀█", "█ █", "█▄█"),
    "1": ("▀█ ", " █ ", "▄█▄"),
    "2": ("▀▀█", "█▀▀", "█▄▄"),
    "3": ("▀▀█", " ▀█", "▄▄█"),
    "4": ("█ █", "▀▀█", "  █"),
    "5": ("█▀▀", "▀▀█", "▄▄█"),
    "6": ("█▀▀", "█▀█", "█▄█"),
    "7": ("▀▀█", "  █", "  █"),
    "8": ("█▀█", "█▀█", "█▄█"),
    "9": ("█▀█", "▀▀█", "▄▄█"),
    ":": (" ", "▪", "▪"),
}
_CLEAR, _END = "\x1b[H\x1b[2J", "\x1b[?25h"
_HIDE = "\x1b[?25l"
_EVERY_S = 0.5
_DOING = {
    "discover": "looking for machines",
    "plan": "planning",
    "fetch": "fetching",
    "rebuild": "rebuilding",
    "boot": "booting",
}


class Told:
    """Tells of each step, a line each."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def began(self, phase: Phase, vm: str) -> None:
        if phase in ("discover", "boot"):
            self._output.note(f"  {f'{vm}: ' if vm else ''}{_DOING[phase]}")

    def ended(self, phase: Phase, vm: str) -> None:
        if phase == "rebuild":
            self._output.note(f"  {vm}: rebuilt and verified")

    def back(self, vm: str, verdict: str) -> None:
        self._output.note(f"  {vm}: {VERDICTS.get(verdict, verdict)}")


class Clock:
    """A clock that counts up against the RTO, and what each VM is doing; it fills the terminal.

    Args:
        team: whose drill.
        target_s: the RTO; None for none.
    """

    def __init__(self, team: str, target_s: float | None) -> None:
        self._team = team
        self._target_s = target_s
        self._started = monotonic()
        self._doing = ""
        self._vms: dict[str, str] = {}
        self._over = threading.Event()

    def began(self, phase: Phase, vm: str) -> None:
        if vm:
            self._vms[vm] = _DOING[phase]
        else:
            self._doing = _DOING[phase]

    def ended(self, phase: Phase, vm: str) -> None:
        if not vm:
            self._doing = ""

    def back(self, vm: str, verdict: str) -> None:
        words = VERDICTS.get(verdict, verdict)
        self._vms[vm] = f"{words} after {duration(monotonic() - self._started)}"

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show it while the block runs."""
        self._started = monotonic()
        thread = threading.Thread(target=self._show, name="clock", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()
            self._draw()  # how it ended stays on the screen
            streams.put(sys.stderr, f"{_END}\n")

    def lines(self, elapsed_s: float) -> list[str]:
        """Return what the terminal shows ``elapsed_s`` after the start."""
        found = [f"Recovery drill · team {self._team}", ""]
        found += ["   ".join(row) for row in zip(*map(_DIGITS.__getitem__, _hours(elapsed_s)), strict=True)]
        if self._target_s is not None:
            left = self._target_s - elapsed_s
            words = f"{duration(left)} left" if left >= 0 else f"exceeded by {duration(-left)}"
            found += ["", f"RTO {duration(self._target_s)}: {words}"]
        found += ["", self._doing] if self._doing else [""]
        width = max(map(len, self._vms), default=0)
        return [*found, *(f"  {vm:<{width}}  {words}" for vm, words in list(self._vms.items()))]

    def _show(self) -> None:
        streams.put(sys.stderr, _HIDE)
        while not self._over.wait(_EVERY_S):
            self._draw()

    def _draw(self) -> None:
        streams.put(sys.stderr, _CLEAR + "\r\n".join(self.lines(monotonic() - self._started)))


def _hours(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest:02d}"
