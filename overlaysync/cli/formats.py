"""The format of an image on the command line: what one that is read is, or what a new one shall be."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, TypeAlias

import typer

from overlaysync.errors import UsageError
from overlaysync.formats.image import WRITTEN, Format
from overlaysync.model.names import printable

_READ = tuple(Format)


def _listed(formats: Collection[Format]) -> str:
    *first, last = formats
    return f"{', '.join(first)} or {last}" if first else last


FormatOption: TypeAlias = Annotated[
    str | None, typer.Option("--format", metavar="|".join(WRITTEN), help="Format of the new image.")
]
"""Of an image that is written; for :func:`format_to_write`."""
InsistOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="|".join(_READ),
        help="Read the image as this format, whatever its name or content suggests.",
    ),
]
"""Of an image that is read; for :func:`format_to_read`."""


def format_to_read(text: str | None) -> Format | None:
    """Return the format that an image is said to have, None when nothing is said.

    Raises:
        UsageError: there is no such format.
    """
    return _parsed(text, _READ)


def format_to_write(text: str | None) -> Format | None:
    """Return the format that is wanted of a new image, None when any will do.

    Raises:
        UsageError: there is no such format, or images of it can only be read.
    """
    format = _parsed(text, WRITTEN)
    if format is not None and format not in WRITTEN:
        raise UsageError(
            f"Images of the format {format} can only be read", hint=f"--format {_listed(WRITTEN)}"
        )
    return format


def refuse_format(format: Format | None, what: str, why: str) -> None:
    """Refuse a ``--format`` that has no meaning for ``what``.

    Raises:
        UsageError: one was given.
    """
    if format is not None:
        raise UsageError(f"--format does not fit '{printable(what)}'", why=why, hint="leave --format out")


def _parsed(text: str | None, offered: Collection[Format]) -> Format | None:
    if text is None:
        return None
    try:
        return Format(text.lower())
    except ValueError:
        raise UsageError(f"'{text}' is not a format", hint=f"--format {_listed(offered)}") from None
