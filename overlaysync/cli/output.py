"""What commands print: results to stdout, everything else to stderr, JSON when asked for."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import typer

from overlaysync.cli import streams
from overlaysync.cli.later import later
from overlaysync.cli.log import Level, LoggedWork, goes_to_journal, level_of, leveled, stamped
from overlaysync.cli.progress import STALLED_S, Audience, Progress
from overlaysync.cli.report import report_to
from overlaysync.cli.tables import Table
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
    """Where a command's words go.

    Attributes:
        json, quiet: as in :class:`Settings`.
        logs: whether lines carry the time, because the command stays and no person watches.
    """

    def __init__(self, settings: Settings) -> None:
        self.json = settings.json
        self.quiet = settings.quiet
        self._color = settings.color and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        self._progress: Progress | None = None
        self._work: LoggedWork | None = None
        self._stays = self.logs = self._journal = False
        self._audience = Audience(settings.json, color=self._color)
        self._report = report_to(os.environ)
        self._printed = False
        self._lock = threading.RLock()

    def stay(self) -> None:
        """From now on the command stays: it outlives its terminal, and where there is none it keeps a log."""
        self._stays = True
        self.logs = not self.json and not sys.stderr.isatty()
        self._journal = self.logs and goes_to_journal(2, os.environ)

    # -- results -------------------------------------------------------------------------------------

    def result(self, document: object, *parts: str | Table) -> None:
        """Print the command's result: a JSON document, or lines and tables for people.

        A line stays one line; the rows of a table do too, but on a terminal that is too narrow for them.
        """
        self._printed = True
        if self.json:
            self._put(_indented(document))
        else:
            for line in self.lines(*parts):
                self._put(line)

    def lines(self, *parts: str | Table) -> list[str]:
        """Return lines and tables as they are printed on stdout."""
        return [
            line
            for part in parts
            for line in (self._rows(part) if isinstance(part, Table) else [self._line(part)])
        ]

    def print_line(self, line: str) -> None:
        """Print a line as it is, of what :meth:`lines` has returned."""
        self._printed = True
        self._put(line)

    def _line(self, line: str) -> str:
        return self._painted(printable(line, _LONGEST), sys.stdout)

    def _rows(self, table: Table) -> list[str]:
        """Return the lines of a table."""
        if not table.rows or not sys.stdout.isatty():
            return list(map(self._line, table.lines()))
        width = streams.width_of(sys.stdout)
        lines: list[str] = later("cli.terminal").table_lines(table, width, color=self._color)
        return lines

    def _put(self, text: str) -> None:
        """Print a line of the result; only a command that stays goes on when nothing reads it."""
        if self._stays:
            streams.put(sys.stdout, f"{text}\n")
        else:
            print(text, flush=True)

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
                self._printed = True
                streams.put(sys.stdout, f"{json.dumps({'error': fields}, indent=2)}\n")
            streams.show(f"{json.dumps({'error': fields})}\n")
            return
        text = _safe(f"✗ {text}")
        if self.logs:
            text = self._logged(text, Level.ERROR)
        else:
            text = self._painted(streams.wrapped(text), sys.stderr)
        streams.show(f"{text}\n")

    def _logged(self, text: str, level: Level) -> str:
        """Return the lines of a log: the journal has the time itself, and wants to know what matters."""
        return leveled(text, level) if self._journal else stamped(text)

    def _painted(self, text: str, stream: Any) -> str:
        """Return the tick or cross that ``text`` begins with in its colour."""
        color = _COLORS.get(text[:1])
        if color is None or not self._color or not stream.isatty():
            return text
        return f"{color}{text[:1]}{_PLAIN}{text[1:]}"

    # -- the observer --------------------------------------------------------------------------------

    @property
    def tells(self) -> bool:
        """Whether people read its notes."""
        return not (self.quiet or self.json)

    def note(self, text: str) -> None:
        """Print a line on stderr, unless ``--quiet`` is given."""
        if self.quiet:
            return
        with self._lock:
            if self._progress:
                self._progress.clear()
            self._audience.clear()
            if self.json:
                text = json.dumps({"note": text})
            else:
                level = level_of(text)
                text = self._logged(_safe(text), level) if self.logs else streams.wrapped(_safe(text))
            streams.show(f"{text}\n")

    def log(self, text: str) -> None:
        """Print a line for a log only: a terminal and JSON show it in other ways."""
        if self.logs:
            self.note(text)

    def begin(self, what: str, total: int, done: int = 0) -> None:
        """Work of ``total`` bytes begins, of which ``done`` were done before."""
        with self._lock:
            self._report.begin(printable(what), total)
            self._progress = self._work = None
            if self.logs:
                self._work = LoggedWork(printable(what), self.note)
            elif not self.quiet:
                self._progress = Progress(printable(what), total, self.json, color=self._color)
        if done:
            self.advance(done)

    def advance(self, size: int, source: str = "") -> None:
        """``size`` more bytes are done, and who gave them; from any thread."""
        with self._lock:
            self._report.advance(size, one_field(source))
            if self._progress:
                self._progress.advance(size, one_field(source))
            elif self._work:
                self._work.advance(size)

    def fetching(self, sources: Sequence[str], idle_s: float, cells: str = "", copies: str = "") -> None:
        """Which nodes are asked, for how long nothing has come from any, and what there is of each part."""
        stalled_s = idle_s if idle_s >= STALLED_S else 0.0
        names = [one_field(source) for source in sources]
        with self._lock:
            self._report.fetching(stalled_s, cells, copies)
            if self._progress:
                self._progress.waiting(names, stalled_s)
            elif self._work:
                self._work.waiting(names, stalled_s)

    def serving(
        self, what: str, total: int, done: int, joined: int, fetching: Sequence[tuple[str, float]]
    ) -> None:
        """Who fetches from this node: how many are done, and how far the others are."""
        with self._lock:
            if not self.quiet and not self._progress and not self.logs:
                shown = [(one_field(label), held) for label, held in fetching]
                self._audience.show(one_field(what), total, done, joined, shown)

    def end(self) -> None:
        """Take the progress away: the work has ended."""
        with self._lock:
            self._report.end()
            self._audience.clear()
            if self._progress:
                self._progress.clear()
                self._progress = None
            if self._work:
                self._work.end()
                self._work = None


def output_of(context: typer.Context) -> Output:
    """Return the output that the global options set up."""
    output = context.obj
    assert isinstance(output, Output)
    return output


def _safe(text: str) -> str:
    """``text`` without what a terminal would obey: names of files and of strangers' things are in it.

    A note or an error may have several lines. All but the first are indented, so that nothing within the text
    can look like another note or error.
    """
    first, *more = (printable(line, _LONGEST) for line in text.split("\n"))
    return "\n".join([first, *(line if line.startswith("  ") else f"  {line}" for line in more)])


def _indented(document: object) -> str:
    text = json.dumps(document)
    try:
        # The standard library's own indenting is slow: seconds for thousands of rows.
        return msgspec.json.format(text, indent=2)
    except msgspec.DecodeError:
        # A path that is no UTF-8 is written with lone surrogates, which msgspec refuses.
        return json.dumps(document, indent=2)
