"""``--watch``: a command shows the same thing again and again until Ctrl-C, with what has changed since.

On a terminal each view takes the place of the one before. Elsewhere a view is printed again when it has
changed, and with ``--json`` each view is one line. Leaves out what is shown.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, NoReturn, TypeAlias

import typer

from overlaysync.cli import streams
from overlaysync.cli.block import Block, Drawn
from overlaysync.cli.later import later
from overlaysync.cli.output import Output
from overlaysync.cli.refusals import error_fields
from overlaysync.cli.streams import TRY
from overlaysync.cli.tables import Table
from overlaysync.errors import OverlaysyncError
from overlaysync.node.node import timestamp
from overlaysync.node.observer import Silent

if TYPE_CHECKING:  # see overlaysync.node.session
    from overlaysync.node.reach import Reach

EVERY_S = 2.0
_ASK_S = 5.0
"""Peers whose changes are not announced are asked again so often."""

WatchOption: TypeAlias = Annotated[
    bool, typer.Option("--watch", "-w", help="Keep running until Ctrl-C, and show what changes.")
]


@dataclass(frozen=True, slots=True)
class View:
    """What a command shows at one moment.

    Attributes:
        document: its JSON form, an object.
        parts: lines and tables, for people.
        notes: said below them.
        error: why there is no more to show, or what is wrong with what is shown.
    """

    document: dict[str, object]
    parts: tuple[str | Table, ...]
    notes: tuple[str, ...] = ()
    error: OverlaysyncError | None = None


class Notes(Silent):
    """Keeps what is noted while a view is made, so that it is shown with the view."""

    def __init__(self) -> None:
        self._texts: dict[str, None] = {}

    def note(self, text: str) -> None:
        self._texts[text] = None

    def taken(self) -> tuple[str, ...]:
        """Return what was noted since the last view, each once."""
        texts = tuple(self._texts)
        self._texts.clear()
        return texts


def show(output: Output, view: View) -> None:
    """Show a view once, as the result of a command.

    Raises:
        OverlaysyncError: the view's own error, after what there is to show.
    """
    document = view.document | ({"error": error_fields(view.error)} if view.error else {})
    output.result(document, *view.parts)
    for text in view.notes:
        output.note(text)
    if view.error:
        raise view.error


def watch(output: Output, views: Callable[[Callable[[View], None]], Awaitable[None]]) -> NoReturn:
    """Show views until Ctrl-C, which is the usual end.

    Args:
        output: of the command.
        views: makes them, and shows each with the function that it is given; never ends by itself.
    """
    screen = _Screen(output)
    try:
        asyncio.run(_forever(views, screen))
    except KeyboardInterrupt:
        screen.end()
    raise SystemExit(0)


async def _forever(views: Callable[[Callable[[View], None]], Awaitable[None]], screen: _Screen) -> None:
    await views(screen.show)


async def next_look(reach: Reach, asked_at: float) -> float:
    """Wait until it is time to look again; return when peers were asked last, by the loop's clock."""
    await asyncio.sleep(EVERY_S)
    reach.check()
    now = asyncio.get_running_loop().time()
    if now - asked_at < _ASK_S:
        return asked_at
    reach.polling.ask_again()
    return now


@dataclass(slots=True)
class _Screen:
    """Where views are shown."""

    output: Output
    _block: Block = field(default_factory=lambda: Block("stdout"))
    _said: list[str] = field(default_factory=list)

    def show(self, view: View) -> None:
        at = time.strftime("%H:%M:%S")
        if self.output.json:
            error = {"error": error_fields(view.error)} if view.error else {}
            document = {"at": timestamp()} | view.document | error
            self.output.print_line(json.dumps(document))
            return
        lines = self.output.lines(*view.parts, *_remarks(self.output, view))
        if sys.stdout.isatty():
            self._redraw(lines, f"{at}  every {EVERY_S:g} s, until Ctrl-C")
        elif lines != self._said:
            self._said = lines
            for line in [at, *lines]:
                self.output.print_line(line)

    def end(self) -> None:
        """Leave the last view where it is."""
        self._block.leave()

    def _redraw(self, lines: Sequence[str], footer: str) -> None:
        """Draw a view in the place of the last one; what the terminal has no rows for is counted."""
        terminal = later("cli.terminal")
        width, rows = streams.width_of(sys.stdout), streams.rows() - 2
        drawn: list[Drawn] = [(line, terminal.shown_width(line)) for line in lines]
        while len(drawn) > 1 and sum(1 + max(0, cells - 1) // width for _, cells in drawn) > rows:
            drawn.pop()
        if len(drawn) < len(lines):
            more = f"… {len(lines) - len(drawn) + 1} more lines"
            drawn[-1:] = [(more, len(more))]
        last = terminal.cut(footer, width - 1)
        self._block.draw([*drawn, (last, terminal.cell_len(last))])


def _remarks(output: Output, view: View) -> list[str]:
    """Return what is said below a view, in lines."""
    error = view.error
    texts = [] if output.quiet else list(view.notes)
    if error is not None:
        texts.append(f"✗ {error.what}" + (f": {error.why}" if error.why else ""))
        texts += [f"  {TRY}{error.hint}"] if error.hint else []
    width = streams.width_of(sys.stdout) if sys.stdout.isatty() else 0
    return [line for text in texts for line in streams.wrapped_to(text, width).split("\n")]
