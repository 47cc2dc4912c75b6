"""The one rule for names, and the functions through which all foreign text is printed.

A name is NFC, 1 to 64 letters, digits, ``.``, ``_`` or ``-`` (at most 192 bytes of UTF-8), and begins with a
letter or digit. So it can never be a path, an option or a terminal sequence.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable

from overlaysync.errors import UsageError

MAX_NAME = 64
MAX_NAME_BYTES = 192
"""In UTF-8: with a suffix and ``.NAME.part`` around it, it must still be a file's name (255 bytes)."""

_INVISIBLE = "\u115f\u1160\u3164\uffa0"
"""Hangul fillers: letters that show as nothing."""

_EXTRA = "._-"


def is_name(text: str) -> bool:
    """Whether ``text`` obeys the rule."""
    return (
        0 < len(text) <= MAX_NAME
        and unicodedata.is_normalized("NFC", text)
        and _plain(text[0])
        and all(_plain(char) or char in _EXTRA for char in text)
        and len(text.encode()) <= MAX_NAME_BYTES
    )


def check_name(text: str, what: str = "name") -> str:
    """``text`` itself when it is a name.

    Raises:
        UsageError: it is not.
    """
    if is_name(text):
        return text
    raise UsageError(
        f"'{printable(text)}' cannot be a {what}",
        why="a name has 1 to 64 letters, digits, '.', '_' or '-' and begins with a letter or digit",
        hint=f"'{name_from(text)}' would be a valid name",
    )


def name_from(text: str) -> str:
    """Return the nearest name to any text, such as a file's stem."""
    normal = unicodedata.normalize("NFC", text)
    mapped = "".join(char if _plain(char) or char in _EXTRA else "-" for char in normal)
    cut = mapped.lstrip(_EXTRA)[:MAX_NAME].encode()[:MAX_NAME_BYTES].decode(errors="ignore")
    return cut or "image"


def meant(text: str, known: Iterable[str], mark: str = "") -> str:
    """Return the question whether one of the known names was meant that look like ``text``; "" for none.

    Args:
        text: what was typed.
        known: the names that there are.
        mark: what follows each name, as ``/`` follows a team.
    """
    near = difflib.get_close_matches(text, sorted(known), n=3)
    return "did you mean " + " or ".join(f"'{name}{mark}'" for name in near) + "?" if near else ""


def printable(text: str, limit: int = 200) -> str:
    """Foreign text made safe for a terminal: control and bidi characters become ``?``, cut at ``limit``."""
    cut = text[:limit]
    safe = "".join(char if char.isprintable() else "?" for char in cut)
    return safe + ("…" if len(text) > limit else "")


def one_field(text: str, limit: int = 200) -> str:
    """Return foreign text as one field of a line: printable, and without blanks that could part columns."""
    return " ".join(printable(text, limit).split())


def _plain(char: str) -> bool:
    return (char.isalpha() or char.isdecimal()) and char not in _INVISIBLE
