"""Collections: how long is looked for several things."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from overlaysync.errors import NotFoundError
from overlaysync.model.reference import Reference, parse_reference
from overlaysync.node import collection as module
from overlaysync.node.collection import Collection


async def test_everything_is_looked_for_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three things that no peer has, only the first is waited for."""
    clock, waited = [100.0], []
    monkeypatch.setattr(module, "monotonic", lambda: clock[0])

    async def find(reference: Reference, *, wait_s: float) -> Any:
        waited.append(wait_s)
        clock[0] += wait_s
        raise NotFoundError(f"no {reference}")

    fetch = SimpleNamespace(options=SimpleNamespace(wait_s=5.0), find=find)
    made = Collection(cast(Any, fetch))
    assert await made.find([parse_reference(word) for word in ("web", "db", "mail")]) == []
    assert waited == [5.0, 0.0, 0.0]
    assert [refusal.name for refusal in made.refusals] == ["web", "db", "mail"]
