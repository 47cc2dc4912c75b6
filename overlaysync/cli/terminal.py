"""What only a terminal gets: tables that fit it, and a bar.

Rich draws them. It is slow to import, so nothing imports this module before there is something to draw on a
terminal. A colour has a meaning: green is well, yellow asks for attention, red does not work.

Leaves out what is said, and where it goes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TextIO

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table as Grid
from rich.text import Text

from overlaysync.cli.tables import GAP, Fail, Table, Warn
from overlaysync.model.names import printable

_LONGEST = 8192
_SIGNS = {"✔": "green", "!": "yellow", "✗": "red"}
_CELLS = {Warn: "yellow", Fail: "red"}
_BAR_WIDTH, _LEAST_BAR = 24, 8
_LEAST_COLUMN = 16
"""Columns below which words are not wrapped: the rows are put below one another instead."""
_NARROW_COLUMN, _MOST_LINES = 24, 2
"""In narrower columns a cell is not wrapped into more lines: the rows are put below one another instead."""
_STACKED = 2
"""Blanks before what belongs to the line above."""


# -- tables ------------------------------------------------------------------------------------------


def table_lines(table: Table, width: int, *, color: bool) -> list[str]:
    """Return the lines of a table that is at most ``width`` columns wide.

    Where there is less room than it needs, words are wrapped within their columns; where there is hardly any,
    the first cell of a row is a line, and the others follow below it. No word is ever cut.
    """
    console = _console(sys.stdout, width - table.indent, color=color)
    rows = [[_cell(text) for text in row] for row in table.used()]
    columns = list(zip(*rows, strict=True))
    widths = _widths(columns, console.width)
    if sum(widths) + GAP * (len(widths) - 1) > console.width or any(map(_is_strip, columns, widths)):
        below = table.below or [" " * _STACKED] * len(rows)
        lines = [
            line for row, margin in zip(rows, below, strict=True) for line in _stacked(console, row, margin)
        ]
    else:
        grid = Grid.grid()
        for at, column in enumerate(widths):
            if at:  # rich would count padding behind the last column as well
                grid.add_column(width=GAP)
            grid.add_column(width=column, overflow="fold")
        for row in rows:
            grid.add_row(row[0], *(cell for text in row[1:] for cell in ("", text)))
        lines = _lines(console, grid)
    return [f"{' ' * table.indent}{line}" for line in lines]


def _widths(columns: Sequence[Sequence[Text]], room: int) -> list[int]:
    """Return how wide each column is: as wide as its cells, or at least so wide that no word is broken.

    Rich gives columns less than the least width that they are said to have.
    """
    widest = [max(text.cell_len for text in column) for column in columns]
    words = [
        max((cell_len(word) for text in column for word in text.plain.split()), default=0)
        for column in columns
    ]
    widths = [min(most, max(_LEAST_COLUMN, word)) for most, word in zip(widest, words, strict=True)]
    spare = room - sum(widths) - GAP * (len(widths) - 1)
    for at, most in enumerate(widest):
        more = min(most - widths[at], max(0, spare))
        widths[at] += more
        spare -= more
    return widths


def _is_strip(column: Sequence[Text], width: int) -> bool:
    """Whether a column is a narrow strip of words."""
    return width < _NARROW_COLUMN and any(text.cell_len > _MOST_LINES * width for text in column)


def _stacked(console: Console, row: Sequence[Text], margin: str) -> list[str]:
    """Return the first cell, and below it the others after ``margin``, each whole where it fits."""
    first, *more = row
    room = console.width - cell_len(margin)
    below: list[Text] = []
    for cell in filter(None, more):
        if below and below[-1].cell_len + GAP + cell.cell_len <= room:
            below[-1] = Text(" " * GAP).join([below[-1], cell])
        else:
            below.append(cell)
    return _broken(console, first, "") + [line for text in below for line in _broken(console, text, margin)]


def _broken(console: Console, text: Text, margin: str) -> list[str]:
    """Return a text in lines; for a longer word they are wider, as it could not be copied in parts."""
    longest = max(map(cell_len, text.plain.split()), default=1)
    lines = text.wrap(console, max(longest, console.width - len(margin)))
    return [margin + shown for line in lines if line.plain for shown in _lines(console, line)]


def _cell(text: str) -> Text:
    """Return a cell in its colour; a sign that it begins with has one of its own."""
    cell = Text(printable(text, _LONGEST), style=_CELLS.get(type(text), ""))
    if text[1:2] == " " and text[0] in _SIGNS:
        cell.stylize(_SIGNS[text[0]], 0, 1)
    return cell


def _lines(console: Console, what: RenderableType) -> list[str]:
    with console.capture() as captured:
        console.print(what, soft_wrap=isinstance(what, Text))
    return [line.rstrip() for line in captured.get().splitlines()]


def shown_width(line: str) -> int:
    """Return how many columns a line takes that may have colours in it."""
    return Text.from_ansi(line).cell_len


def padded(text: str, width: int) -> str:
    """Return ``text`` in exactly so many columns."""
    shown = cut(text, width)
    return shown + " " * (width - cell_len(shown))


def cut(text: str, width: int) -> str:
    """Return as much of ``text`` as there is room for; an ellipsis stands for the rest."""
    whole = Text(printable(text, _LONGEST))
    whole.truncate(max(1, width), overflow="ellipsis")
    return whole.plain


# -- the bar -----------------------------------------------------------------------------------------


class Bar:
    """The line that shows a piece of work.

    Args:
        what: what it is, safe to print.
        total: its bytes.
        color: whether there is colour.
    """

    def __init__(self, what: str, total: int, *, color: bool) -> None:
        self._what, self._total, self._color = what, total, color

    def line(
        self, done: int, texts: Iterable[tuple[str, int]], shortest: str, columns: int, *, stalled: bool
    ) -> tuple[str, int]:
        """Return the line in so many columns, and how many it takes.

        Args:
            done: bytes.
            texts: what may be said beside the bar, the longest first, each with the least columns of the bar.
            shortest: what is said where even the last of them does not fit.
            columns: what there is room for.
            stalled: whether the work has stalled, which has a colour.
        """
        text, least, room = "", 0, 0
        for text, least in texts:
            room = columns - cell_len(f"  {self._what}    {text}")
            if room >= least:
                break
        if least:
            width = min(_BAR_WIDTH, room)
            bar = self._drawn(done, width, columns, stalled=stalled)
            return f"  {self._what}  {bar}  {text}", columns - room + width
        if cell_len(f"  {text}") > columns:
            text = shortest
        # A name that hardly says anything is left out.
        room = columns - cell_len(f"    {text}")
        line = f"  {cut(self._what, room)}  {text}" if room >= 3 else f"  {text}"
        return line, cell_len(line)

    def _drawn(self, done: int, width: int, columns: int, *, stalled: bool) -> str:
        style = "yellow" if stalled else "green"
        return _drawn_bar((done, self._total), width, columns, style, color=self._color)


def member_line(name: str, held: float, text: str, columns: int, *, color: bool) -> tuple[str, int]:
    """Return the line of a machine that fetches here, and how many columns it takes.

    Args:
        name: of the machine, as wide as all of them.
        held: how much it has, 0 to 1.
        text: said behind the bar.
        columns: what there is room for; without room for a bar, there is none.
        color: whether there is colour.
    """
    room = columns - cell_len(f"    {name}    {text}")
    if room < _LEAST_BAR:
        line = cut(f"    {name}  {text}", columns)
        return line, cell_len(line)
    width = min(_BAR_WIDTH, room)
    bar = _drawn_bar((int(held * 1000), 1000), width, columns, "green", color=color)
    return f"    {name}  {bar}  {text}", columns - room + width


def _drawn_bar(done: tuple[int, int], width: int, columns: int, style: str, *, color: bool) -> str:
    """Return a bar, of so many of all; without colour, brackets show where it ends."""
    around = 0 if color else 2
    bar = ProgressBar(
        max(1, done[1]),
        done[0] if done[1] else 1,
        width - around,
        style="bright_black",
        complete_style=style,
        finished_style=style,
    )
    console = _console(sys.stderr, columns, color=color)
    with console.capture() as captured:
        console.print(bar, end="")
    shown = captured.get().rstrip("\n")
    return shown if color else f"[{shown.ljust(width - around)}]"


def _console(stream: TextIO, width: int, *, color: bool) -> Console:
    """Return what draws for a stream; it never writes to it."""
    return Console(
        file=stream,
        width=max(1, width),
        height=1,
        force_terminal=True,
        color_system="standard" if color else None,
        no_color=not color,
        legacy_windows=False,
        markup=False,
        emoji=False,
        highlight=False,
    )
