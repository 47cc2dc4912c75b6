"""Tables as commands make them: rows of cells, and their plain form, which a pipe gets.

Leaves out what a terminal gets, see :mod:`overlaysync.cli.terminal`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

GAP = 2
"""Blanks between two columns."""


class Warn(str):
    """A cell that asks for attention: yellow where there is colour."""

    __slots__ = ()


class Fail(str):
    """A cell that says what does not work: red where there is colour."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Table:
    """Rows that have the same columns.

    Attributes:
        rows: cells, each of them one line.
        indent: blanks before each row.
        widths: of the first columns in the plain form; the others are as wide as their widest cell.
        below: of each row, what begins its further lines on a terminal; two blanks where nothing is said.
    """

    rows: Sequence[Sequence[str]]
    indent: int = 0
    widths: tuple[int, ...] = ()
    below: Sequence[str] = ()

    def used(self) -> list[tuple[str, ...]]:
        """Return the rows without the columns that are empty in all of them."""
        columns = [column for column in zip(*self.rows, strict=True) if any(column)]
        return list(zip(*columns, strict=True))

    def lines(self) -> list[str]:
        """Return the plain form."""
        rows = self.used()
        widest = [max(map(len, column)) for column in zip(*rows, strict=True)]
        widths = [*self.widths, *widest[len(self.widths) :]]
        between, before = " " * GAP, " " * self.indent
        return [before + between.join(map(str.ljust, row, widths)).rstrip() for row in rows]
