"""What commands print: results to stdout, everything else to stderr, JSON when asked for."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from overlaysync.cli.progress import Audience, Progress
from overlaysync.model.names import one_field, printable

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
        self._progress: Progress | None = None
        self._audience = Audience(settings.json)
        self._printed = False
        self._lock = threading.RLock()

    # -- results -------------------------------------------------------------------------------------

    def result(self, document: object, *lines: str) -> None:
        """The command's result: one JSON document, or lines for people, each of which stays one line."""
        self._printed = True
        if self.json:
            print(json.dumps(document, indent=2), flush=True)
        else:
            for line in lines:
                print(self._painted(printable(line, _LONGEST), sys.stdout), flush=True)

    def good(self, text: str) -> str:
        """``text`` with a tick."""
        return f"✔ {text}"

    def error(self, text: str, fields: Mapping[str, object]) -> None:
        """Say what went wrong, to programs in ``fields``; a progress bar is ended first.

        It is the document as well, where there is no other.
        """
        self.end()
        if self.json:
            if not self._printed:
                self.result({"error": fields})
            print(json.dumps({"error": fields}), file=sys.stderr, flush=True)
            return
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
            self._audience.clear()
            text = json.dumps({"note": text}) if self.json else _safe(text)
            print(text, file=sys.stderr, flush=True)

    def begin(self, what: str, total: int) -> None:
        """Work of ``total`` bytes begins."""
        with self._lock:
            self._progress = None if self.quiet else Progress(printable(what), total, self.json)

    def advance(self, size: int, source: str = "") -> None:
        """``size`` more bytes are done, and who gave them; from any thread."""
        with self._lock:
            if self._progress:
                self._progress.advance(size, one_field(source))

    def serving(self, what: str, done: int, joined: int, fetching: Sequence[tuple[str, float]]) -> None:
        """Who fetches from this node: how many are done, and how far the others are."""
        with self._lock:
            if not self.quiet and not self._progress:
                shown = [(one_field(label), held) for label, held in fetching]
                self._audience.show(one_field(what), done, joined, shown)

    def end(self) -> None:
        """The work has ended."""
        with self._lock:
            self._audience.clear()
            if self._progress:
                self._progress.clear()
                self._progress = None


def _safe(text: str) -> str:
    """``text`` without what a terminal would obey: names of files and of strangers' things are in it.

    A note or an error may have several lines. All but the first are indented, so that nothing within the text
    can look like another note or error.
    """
    first, *more = (printable(line, _LONGEST) for line in text.split("\n"))
    return "\n".join([first, *(line if line.startswith("  ") else f"  {line}" for line in more)])
