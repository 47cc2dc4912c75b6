"""Lines at the end of a terminal that are drawn again and again, each time in the place of the last ones."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TextIO, TypeAlias

from overlaysync.cli import streams

Drawn: TypeAlias = tuple[str, int]
"""A line, and how many columns it takes."""


class Block:
    """The last lines of the terminal that a stream is; the cursor stays behind the last of them.

    Args:
        stream: ``stdout`` or ``stderr``.
    """

    def __init__(self, stream: str = "stderr") -> None:
        self._stream = stream
        self._cells: list[int] = []

    def draw(self, lines: Sequence[Drawn]) -> None:
        """Put lines where the last ones were drawn."""
        streams.put(self._out, self._begin() + "\n".join(text for text, _ in lines))
        self._cells = [cells for _, cells in lines]

    def clear(self) -> None:
        """Take the lines away."""
        if any(self._cells):
            streams.put(self._out, self._begin())
            self._cells = []

    def leave(self) -> None:
        """Let the lines stay, and go on below them."""
        if self._cells:
            streams.put(self._out, "\n")
            self._cells = []

    @property
    def _out(self) -> TextIO:
        found: TextIO = getattr(sys, self._stream)
        return found

    def _begin(self) -> str:
        """Go to where the lines began: those that a narrower terminal has broken take several of its rows."""
        width = streams.width_of(self._out)
        if "XTERM_VERSION" in os.environ:  # xterm cuts lines instead
            width = max([width, *self._cells])
        above = sum(1 + max(0, cells - 1) // width for cells in self._cells) - 1
        return f"\r\x1b[{above}A\x1b[J" if above > 0 else "\r\x1b[K"
