"""What the line of a version says of where it is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from overlaysync.cli.history import _where

SEEN = {"node": "cleo@vm-abc234", "now": False, "seen_at": "2026-02-02T02:37:00Z"}
NOW = 1_770_000_000.0  # 2026-02-02T02:40:00Z


@pytest.mark.parametrize(("local", "place"), [(False, "no machine within reach"), (True, "not here")])
def test_of_a_version_that_is_away_it_is_said_where_it_was_last_seen(local: bool, place: str) -> None:
    away = cast(Any, SimpleNamespace(held_by=(), here=(), in_use=()))
    assert _where(away, [], NOW, local=local) == place
    assert _where(away, [SEEN], NOW, local=local) == f"{place}; last seen at cleo@vm-abc234 3 min ago"
