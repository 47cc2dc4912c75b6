"""Dates: as they are written down, and as people read them. The clock is the caller's."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime

_FORM = "%Y-%m-%dT%H:%M:%SZ"
_UNITS = (("day", 86400), ("hour", 3600), ("min", 60))
_SKEW_S = 60
"""Clocks of two machines may differ by so much before a date is called wrong."""


def utc(at: float) -> str:
    """Return a time in seconds since 1970 as manifests, messages and results write it: ISO 8601 UTC."""
    return datetime.fromtimestamp(at, UTC).strftime(_FORM)


def moment(created: str) -> float | None:
    """Return the seconds since 1970 of an ISO 8601 UTC date; None for a date that does not exist."""
    with suppress(ValueError):
        return datetime.strptime(created, _FORM).replace(tzinfo=UTC).timestamp()
    return None


def ago(created: str, now: float) -> str:
    """Return ``3 min ago``; "" for a date that does not exist or has not come."""
    then = moment(created)
    if then is None or now < then - _SKEW_S:
        return ""
    for unit, length in _UNITS:
        count = int((now - then) // length)
        if count >= 1:
            return f"{count} {unit}{'s' if count > 1 and unit != 'min' else ''} ago"
    return "just now"


def local_minute(created: str) -> str:
    """Return a date as a clock on the wall here shows it, ``2026-11-28 10:14``; what is no date as it is."""
    then = moment(created)
    if then is not None:
        with suppress(ValueError, OverflowError, OSError):  # the first and the last day that there are
            return datetime.fromtimestamp(then, UTC).astimezone().strftime("%Y-%m-%d %H:%M")
    return created
