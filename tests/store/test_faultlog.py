"""Unexpected errors are kept by kind, with their number and the last time, and not without bound."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from overlaysync.store.catalog import Catalog
from overlaysync.store.faultlog import MAX_KINDS, FaultCount
from overlaysync.store.home import Home

MONDAY, TUESDAY = "2026-03-02T08:00:00Z", "2026-03-03T08:00:00Z"


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    made = Catalog.open(Home(tmp_path / "node", tmp_path / "config").prepare())
    yield made
    made.close()


def test_commands_add_up(catalog: Catalog) -> None:
    catalog.faults.add({"asking: ValueError": 2, "asking: KeyError": 1}, at=MONDAY)
    catalog.faults.add({"asking: ValueError": 3}, at=TUESDAY)
    catalog.faults.add({}, at=TUESDAY)
    assert catalog.faults.all() == [
        FaultCount("asking: ValueError", 5, TUESDAY),
        FaultCount("asking: KeyError", 1, MONDAY),
    ]


def test_the_latest_kinds_stay(catalog: Catalog) -> None:
    catalog.faults.add({"old": 1}, at=MONDAY)
    catalog.faults.add({f"kind {number}": 1 for number in range(MAX_KINDS)}, at=TUESDAY)
    kinds = {fault.kind for fault in catalog.faults.all()}
    assert len(kinds) == MAX_KINDS and "old" not in kinds
