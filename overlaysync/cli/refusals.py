"""Errors for people and as JSON, and of several things those that could not be had."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from overlaysync.errors import AmbiguousError, OverlaysyncError, Refusal

_SHOWN_CANDIDATES = 20


def error_fields(error: OverlaysyncError) -> dict[str, Any]:
    """Return the JSON form of an error."""

    return {
        "what": error.what,
        "why": error.why,
        "hint": error.hint,
        "candidates": list(error.candidates) if isinstance(error, AmbiguousError) else [],
        "exit_code": error.exit_code,
    }


def refusal_fields(refusal: Refusal) -> dict[str, Any]:
    """Return the JSON form of one of several things that could not be had."""
    return {"name": refusal.name} | error_fields(refusal.error)


def candidate_lines(error: OverlaysyncError) -> list[str]:
    """Return what people are told of what a reference fits: not all, as peers may make up thousands."""

    if not isinstance(error, AmbiguousError):
        return []
    shown, more = error.candidates[:_SHOWN_CANDIDATES], len(error.candidates) - _SHOWN_CANDIDATES
    return [*shown, f"and {more} more, all of them with --json"] if more > 0 else list(shown)


def refusal_lines(refusal: Refusal) -> list[str]:
    """Return what people are told of one of several things that could not be had."""
    error = refusal.error
    lines = [f"✗ {refusal.name}: {error}", *(f"    {line}" for line in candidate_lines(error))]
    return [*lines, f"    try: {error.hint}"] if error.hint else lines


def of_several(refusals: Sequence[Refusal], total: int, what: str, *, told: bool) -> OverlaysyncError:
    """Return the error for several things of which some failed; its exit code is that of the first.

    Where each was ``told`` by itself, why and what to do are not said again.
    """

    first = refusals[0].error
    error = OverlaysyncError(
        f"{len(refusals)} of {total} {what}",
        why="" if told else "; ".join(sorted({one.error.what for one in refusals})),
        hint="" if told else first.hint,
    )
    error.exit_code = first.exit_code
    return error
