"""The times that restore takes."""

from __future__ import annotations

import pytest

from overlaysync.cli.wishes import parse_time
from overlaysync.errors import UsageError


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("2026-11-29 14:30Z", "2026-11-29T14:30:59Z"),
        ("2026-11-29T14:30+01:00", "2026-11-29T13:30:59Z"),
        ("2026-11-29 14:30:07Z", "2026-11-29T14:30:07Z"),
    ],
)
def test_a_minute_is_meant_to_its_end(text: str, meant: str) -> None:
    """History shows minutes: who types one finds the state that was saved in it."""
    assert parse_time(text) == meant


def test_what_is_no_time() -> None:
    with pytest.raises(UsageError):
        parse_time("yesterday")
