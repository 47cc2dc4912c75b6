"""How wide text is, and how it is shortened to fit. Leaves out which fonts there are.

Widths are those of Helvetica. Arial, Liberation Sans, Arimo and Nimbus Sans have the same, so a text takes
the same room with each of them.
"""

from __future__ import annotations

import unicodedata

from overlaysync.ops.pictures.scene import Type

FONTS = ("Helvetica", "Arial", "Liberation Sans", "Arimo", "Nimbus Sans")
"""Fonts of the same widths, the first that is there is used."""

_REGULAR = """
278 278 355 556 556 889 667 191 333 333 389 584 278 333 278 278 556 556 556 556 556 556 556 556 556 556 278
278 584 584 584 556 1015 667 667 722 722 667 611 778 722 278 500 667 556 833 722 778 667 778 722 667 611 722
667 944 667 667 611 278 278 278 469 556 333 556 556 500 556 556 278 556 556 222 222 500 222 833 556 556 556
556 333 500 278 556 500 722 500 500 500 334 260 334 584
"""
_BOLD = """
278 333 474 556 556 889 722 238 333 333 389 584 278 333 278 278 556 556 556 556 556 556 556 556 556 556 333
333 584 584 584 611 975 722 722 722 722 667 611 778 722 278 556 722 611 833 722 778 667 778 722 667 611 722
667 944 667 667 611 333 278 333 584 556 333 556 611 556 611 556 333 611 611 278 278 556 278 889 611 611 611
611 389 556 333 611 556 778 556 556 500 389 280 389 584
"""
_FIRST = " "
"""The character that the tables begin with; they end with ``~``."""

_TABLES = {bold: tuple(map(int, text.split())) for bold, text in ((False, _REGULAR), (True, _BOLD))}
_OTHERS = {
    "\u00a0": 278,
    "…": 1000,
    "·": 278,
    "×": 584,
    "–": 556,
    "’": 278,
    "“": 500,
    "”": 500,
    "«": 556,
    "»": 556,
    "→": 1000,
}
_ROUNDING = 0.01
_UNKNOWN, _WIDE = 800, 1000
"""Of a letter of another alphabet, on the wide side; of a Chinese or Japanese one."""


def text_width(text: str, type: Type) -> float:
    """Return the width of a line of text."""
    return sum(_width(char, type.bold) for char in text) * type.size / 1000


def _width(char: str, bold: bool) -> int:
    table = _TABLES[bold]
    base = unicodedata.normalize("NFD", char)[0]  # an accent takes no room
    at = ord(base) - ord(_FIRST)
    if 0 <= at < len(table):
        return table[at]
    if unicodedata.combining(char):
        return 0
    if char in _OTHERS:
        return _OTHERS[char]
    return _WIDE if unicodedata.east_asian_width(char) in "WF" else _UNKNOWN


def fitted(text: str, type: Type, room: float) -> str:
    """Return the text, without its middle where it is wider than ``room``: names differ at their ends."""
    if text_width(text, type) <= room + _ROUNDING:
        return text
    low, high = 0, len(text) - 1
    while low < high:  # how many characters can stay
        kept = (low + high + 1) // 2
        if text_width(_without_middle(text, kept), type) <= room:
            low = kept
        else:
            high = kept - 1
    return _without_middle(text, low)


def _without_middle(text: str, kept: int) -> str:
    head = (kept * 2 + 2) // 3
    return f"{text[:head]}…{text[len(text) - (kept - head) :]}"


def wrapped(text: str, type: Type, room: float) -> list[str]:
    """Return the text in lines, broken between words; a longer word is shortened."""
    lines: list[str] = []
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, type) <= room:
            lines[-1] = longer
        else:
            lines.append(fitted(word, type, room))
    return lines
