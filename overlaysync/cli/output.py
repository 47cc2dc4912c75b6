"""What commands print: results to stdout, everything else to stderr, JSON when asked for.

Progress is a bar on a terminal, a plain line every few seconds elsewhere, and JSON lines with ``--json``.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

from overlaysync.model.names import printable
from overlaysync.units import format_size

_LINE_S = 3.0
_BAR_S = 0.1
_BAR_WIDTH = 24
_LONGEST = 8192
_COLORS = {"✔": "\x1b[32m", "✗": "\x1b[31m"}
_PLAIN = "\x1b[0m"


@dataclass(slots=True)
class Settings:
    """The global options."""

    json: bool = False
    quiet: bool = False
    color: bool = True


class Output:
    """Where a command's words go."""

    def __init__(self, settings: Settings) -> None:
        self.json = settings.json
        self.quiet = settings.quiet
        self._color = settings.color and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        self._progress: _Progress | None = None
        self._lock = threading.RLock()

    # -- results -------------------------------------------------------------------------------------

    def result(self, document: object, *lines: str) -> None:
        """The command's result: one JSON document, or lines for people."""
        if self.json:
            print(json.dumps(document, indent=2), flush=True)
        else:
            for line in lines:
                print(self._painted(_safe(line), sys.stdout), flush=True)

    def good(self, text: str) -> str:
        """``text`` with a tick."""
        return f"✔ {text}"

    def error(self, text: str) -> None:
        """Say what went wrong; a progress bar is ended first."""
        self.end()
        print(self._painted(_safe(f"✗ {text}"), sys.stderr), file=sys.stderr, flush=True)

    def _painted(self, text: str, stream: Any) -> str:
        """The tick or cross that ``text`` begins with in its colour."""
        color = _COLORS.get(text[:1])
        if color is None or not self._color or not stream.isatty():
            return text
        return f"{color}{text[:1]}{_PLAIN}{text[1:]}"

    # -- the observer --------------------------------------------------------------------------------

    def note(self, text: str) -> None:
        """A line on stderr that ``--quiet`` leaves out."""
        if self.quiet:
            return
        with self._lock:
            if self._progress:
                self._progress.clear()
            if self.json:
                text = json.dumps({"note": text})
            print(_safe(text), file=sys.stderr, flush=True)

    def begin(self, what: str, total: int) -> None:
        """Work of ``total`` bytes begins."""
        with self._lock:
            self._progress = None if self.quiet else _Progress(what, total, self.json)

    def advance(self, size: int) -> None:
        """``size`` more bytes are done; from any thread."""
        with self._lock:
            if self._progress:
                self._progress.advance(size)

    def end(self) -> None:
        """The work has ended."""
        with self._lock:
            if self._progress:
                self._progress.clear()
                self._progress = None


def _safe(text: str) -> str:
    """``text`` without what a terminal would obey: names of files and of strangers' things are in it."""
    return "\n".join(printable(line, _LONGEST) for line in text.split("\n"))


class _Progress:
    """One piece of work, shown at most a few times a second."""

    def __init__(self, what: str, total: int, as_json: bool) -> None:
        self._what = _safe(what)
        self._total = total
        self._done = 0
        self._json = as_json
        self._bar = sys.stderr.isatty() and not as_json
        self._started = time.monotonic()
        self._shown = self._started
        self._every = _BAR_S if self._bar else _LINE_S
        self._drawn = False

    def advance(self, size: int) -> None:
        self._done += size
        now = time.monotonic()
        if now - self._shown >= self._every:
            self._shown = now
            self._show(now - self._started)

    def clear(self) -> None:
        if self._drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._drawn = False

    def _show(self, elapsed: float) -> None:
        done = min(self._done, self._total)
        rate = self._done / elapsed if elapsed > 0 else 0.0
        left = (self._total - done) / rate if rate else 0.0
        if self._json:
            fields = {"progress": self._what, "done": done, "total": self._total, "rate": int(rate)}
            print(json.dumps(fields), file=sys.stderr, flush=True)
            return
        text = (
            f"{format_size(self._total - done)} missing of {format_size(self._total)}"
            f"  {format_size(int(rate))}/s  {int(left) // 60}:{int(left) % 60:02d} left"
        )
        if not self._bar:
            print(f"{self._what}: {text}", file=sys.stderr, flush=True)
            return
        full = int(_BAR_WIDTH * done / self._total) if self._total else _BAR_WIDTH
        bar = "█" * full + "░" * (_BAR_WIDTH - full)
        width = os.get_terminal_size(sys.stderr.fileno()).columns
        sys.stderr.write("\r\x1b[K" + f"  {self._what}  {bar}  {text}"[: width - 1])
        sys.stderr.flush()
        self._drawn = True
