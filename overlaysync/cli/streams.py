"""Standard output and error that may go away while a command runs: a closed pipe, a lost terminal.

What cannot be shown any more is dropped, and the work goes on: the stream leads to ``/dev/null`` from then
on, so that nothing is tried again and again. Leaves out what is shown.
"""

from __future__ import annotations

import io
import os
import sys
import textwrap
from contextlib import suppress
from os import get_terminal_size
from typing import TextIO

CLOSED = 141
"""Exit code when what reads the result closes the pipe: as of a program that SIGPIPE ended, in a shell."""

TRY = "try: "
"""Begins a line with a command to type."""

_GOES_ON = " " * 4
"""Before what goes on: more than before a hint, so that no words of a peer look like one."""

_NARROWEST = 30
"""Columns below which text is not wrapped more narrowly."""

_WIDTH, _HEIGHT = 80, 24
"""Columns and rows of a terminal that does not say how many it has."""


def prepare() -> None:
    """Make both streams usable: open those that were closed before, and let no name be unprintable."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (as long as the process)
        elif isinstance(stream, io.TextIOWrapper):
            # Names of files may be any bytes, and terminals of any alphabet: showing them never fails.
            stream.reconfigure(errors="backslashreplace")


def show(text: str) -> None:
    """Write ``text`` to standard error; when that has gone away, it is dropped."""
    put(sys.stderr, text)


def put(stream: TextIO, text: str) -> None:
    """Write ``text`` to a stream; when that has gone away, it is dropped."""
    try:
        stream.write(text)
        stream.flush()
    except BlockingIOError:
        pass  # another program made the terminal non-blocking, and it is full: it may have room later
    except (OSError, ValueError):
        silence(stream)


def silence(stream: TextIO) -> None:
    """Lead a stream to ``/dev/null``, with what is still to be written: the interpreter writes it at exit."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, stream.fileno())
        finally:
            os.close(nowhere)


def columns() -> int:
    """Return the columns for a line on standard error; two are left free, as some terminals wrap early."""
    return width_of(sys.stderr) - 2


def rows() -> int:
    """Return the rows of the terminal that a stream is; a usual number where none says."""
    for stream in (sys.stderr, sys.stdout):
        with suppress(OSError, ValueError):
            return get_terminal_size(stream.fileno()).lines or _HEIGHT
    return _HEIGHT


def width_of(stream: TextIO) -> int:
    """Return the columns of a terminal; a usual number where it does not say."""
    return _width(stream) or _WIDTH


def wrapped(text: str) -> str:
    """Return ``text`` with its lines wrapped between words, where standard error is a terminal.

    A line that says what to type stays whole, so that it can be copied.
    """
    return wrapped_to(text, _width(sys.stderr))


def wrapped_to(text: str, width: int) -> str:
    """Return ``text`` with its lines wrapped to so many columns; 0 for any number."""
    if not width:
        return text
    return "\n".join(_wrapped_line(line, width) for line in text.split("\n"))


def _wrapped_line(line: str, width: int) -> str:
    words = line.lstrip()
    if len(line) <= width or words.startswith(TRY):
        return line
    indent = line[: len(line) - len(words)]
    return textwrap.fill(
        words,
        max(width, _NARROWEST),
        initial_indent=indent,
        subsequent_indent=f"{indent}{_GOES_ON}",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _width(stream: TextIO) -> int:
    """Return the columns of the terminal that a stream is; 0 when it is none, or does not say."""
    try:
        return get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):  # no terminal, or one that has gone
        return 0
