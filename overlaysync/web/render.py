"""Renders the page with Jinja2: everything is escaped, and a name that a template gets wrong is an error."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from itertools import groupby
from typing import Any

import jinja2

from overlaysync.ops.dates import moment, utc
from overlaysync.ops.drill.verdict import duration
from overlaysync.units import format_size
from overlaysync.web.actions import ACTIONS
from overlaysync.web.texts import Words

_UNITS = (("ago-day", 86400), ("ago-hour", 3600), ("ago-min", 60))
_EMPTY = "0"


@cache
def environment() -> jinja2.Environment:
    """Return the templates; they are in the package."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("overlaysync.web"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        auto_reload=False,
    )
    made.filters |= {
        "ago": ago,
        "bars": bars,
        "filled": filled,
        "iso": utc,
        "lasted": lasted,
        "size": size,
        "slug": slug,
        "stamp": stamp,
        "strips": strips,
        "wall": wall,
    }
    made.globals["actions"] = lambda: ACTIONS
    return made


@cache
def macros() -> Any:
    """Return the parts of the page, as functions."""
    return environment().get_template("parts.html").module


class Clock:
    """The time that ages are told from, while one snapshot is rendered."""

    now = 0.0


def ago(then: float, words: Words) -> str:
    """Return how long ago a time was; what has not come yet is now."""
    for key, length in _UNITS:
        count = int((Clock.now - then) // length)
        if count >= 1:
            return words(key, count=count)
    return words("just-now")


def wall(at: float) -> str:
    """Return a time as a clock on the wall here shows it, with its zone."""
    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def stamp(text: str) -> float:
    """Return the seconds since 1970 of an ISO 8601 date; 0 for one that does not exist."""
    return moment(text) or 0.0


def size(count: int, words: Words) -> str:
    """Return a size for people; in French in octets, and with a decimal comma."""
    text = format_size(count)
    if words.language == "fr":
        return text.replace(".", ",").replace("iB", "io").replace(" B", " o")
    return text


def lasted(seconds: float, words: Words) -> str:
    """Return how long something took, on one line; in French with a decimal comma."""
    text = duration(seconds).replace(" ", "\xa0")
    return text.replace(".", ",").replace("days", "jours") if words.language == "fr" else text


def slug(text: str) -> str:
    """Return what may stand in an id, and is another for every other text."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


def filled(cells: str) -> int:
    """Return how much of a map is filled, per cent."""
    return sum(map(int, cells)) * 100 // max(1, 9 * len(cells))


def strips(cells: str) -> Iterator[tuple[int, str]]:
    """Return the paths of a map, one for each degree of filling: 1 (begun) to 3 (whole)."""
    return _paths("".join(str((int(cell) + 3) // 4) for cell in cells), lambda level: (0.0, 7.0))


def bars(copies: str) -> Iterator[tuple[int, str]]:
    """Return the paths below a map, one for each number of copies; the more, the higher."""
    return _paths(copies, lambda level: (10.0 - level / 3, level / 3))


def _paths(digits: str, place: Any) -> Iterator[tuple[int, str]]:
    runs: dict[int, list[tuple[int, int]]] = {}
    at = 0
    for digit, group in groupby(digits):
        length = len(list(group))
        if digit != _EMPTY:
            runs.setdefault(int(digit), []).append((at, length))
        at += length
    for level, those in sorted(runs.items()):
        y, height = place(level)
        yield level, "".join(f"M{x} {y:.1f}h{length}v{height:.1f}h-{length}z" for x, length in those)
