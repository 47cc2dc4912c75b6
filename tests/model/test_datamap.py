"""The data map against the reference's slots; and used by several threads at once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlaysync.formats.image import Format
from overlaysync.formats.layout import Target
from overlaysync.formats.plan import plan_layout
from overlaysync.model import datamap
from overlaysync.model.datamap import DataMap
from overlaysync.model.digest import UNALLOCATED, ZERO, Kind
from overlaysync.model.pages import PageList, PageListBuilder
from overlaysync.units import PAGE_UNITS
from tests import reference

UNIT = 4096


def row(number: int) -> bytes:
    return number.to_bytes(32, "big")


def make(kinds: dict[int, bytes], size: int) -> tuple[DataMap, list[bytes]]:
    """A layer of ``size`` bytes whose units are UNALLOCATED but for ``kinds``."""
    count = -(-size // UNIT)
    rows = [kinds.get(unit, UNALLOCATED) for unit in range(count)]
    kept: dict[bytes, bytes] = {}
    builder = PageListBuilder(virtual_size=size, unit=UNIT, parent=bytes(32), keep=kept.__setitem__)
    for first in range(0, count, PAGE_UNITS):
        builder.add(first // PAGE_UNITS, b"".join(rows[first : first + PAGE_UNITS]))
    return DataMap(builder.build(), kept.__getitem__), rows


UNITS = st.dictionaries(
    st.integers(0, 20)
    | st.integers(PAGE_UNITS - 5, PAGE_UNITS + 5)
    | st.integers(3 * PAGE_UNITS, 3 * PAGE_UNITS + 9),
    st.integers(1, 50),
    max_size=30,
)


@settings(max_examples=60)
@given(UNITS, st.integers(1, 4 * PAGE_UNITS * 8), st.data())
def test_like_the_reference(numbers: dict[int, int], sectors: int, data: st.DataObject) -> None:
    size = sectors * 512
    count = -(-size // UNIT)
    map, rows = make({unit: row(number) for unit, number in numbers.items() if unit < count}, size)
    slots = reference.slots(rows)
    assert map.count == len(slots)
    assert map.size == reference.data_size(rows, size=size, unit=UNIT)
    first = data.draw(st.integers(0, map.count))
    length = data.draw(st.integers(0, map.count - first))
    expected = slots[first : first + length]
    runs = [*map.runs(first, length)]
    assert [unit for run in runs for unit in run.units.tolist()] == expected
    assert [one.tobytes() for run in runs for one in run.digests] == [rows[unit] for unit in expected]
    assert [run.first for run in runs] == [
        first + sum(len(run.units) for run in runs[:at]) for at in range(len(runs))
    ]
    assert all(len({unit // PAGE_UNITS for unit in run.units.tolist()}) == 1 for run in runs)
    assert map.span(first, length) == sum(min(UNIT, size - unit * UNIT) for unit in expected)
    kinds = {
        index * PAGE_UNITS + at: kind for index, page in map.kind_pages() for at, kind in enumerate(page)
    }
    assert {unit for unit, kind in kinds.items() if kind == 2} == set(slots)


def test_slots_out_of_range() -> None:
    map, _ = make({0: row(9), 1: ZERO, 2: row(8)}, 3 * UNIT)
    for first, count in ((0, 3), (2, 1), (-1, 1), (1, -1)):
        with pytest.raises(IndexError):
            [*map.runs(first, count)]
    assert [*map.runs(2, 0)] == []


def test_only_the_last_slot_is_short() -> None:
    map, _ = make({0: row(9), 2: row(8)}, 2 * UNIT + 512)
    assert [map.span(first, count) for first, count in ((0, 1), (1, 1), (0, 2), (2, 0))] == [
        UNIT,
        512,
        UNIT + 512,
        0,
    ]
    map, _ = make({0: row(9), 1: row(8)}, 2 * UNIT + 512)
    assert map.span(0, 2) == map.size == 2 * UNIT


def test_nothing_at_all() -> None:
    map = DataMap(PageList(0), dict[bytes, bytes]().__getitem__)
    assert (map.count, map.size, [*map.runs(0, 0)]) == (0, 0, [])


class _Intruded(OrderedDict[int, Any]):
    """A cache in which another thread looks up something else between a question and its answer."""

    def __init__(self, intrude: Callable[[], object]) -> None:
        super().__init__()
        self._intrude = intrude
        self.intruder: threading.Thread | None = None

    def __contains__(self, key: object) -> bool:
        found = super().__contains__(key)
        if found and self.intruder is None:
            self.intruder = threading.Thread(target=self._intrude)
            self.intruder.start()
            self.intruder.join(0.1)  # Where the cache is guarded, it has to wait for us.
        return found


def test_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one thread has found may not be thrown away by another before it is returned."""
    monkeypatch.setattr(datamap, "_CACHED_PAGES", 1)
    map, _ = make({0: row(2), PAGE_UNITS: row(3)}, 2 * PAGE_UNITS * UNIT)
    cache = map._cache = _Intruded(lambda: [*map.runs(1, 1)])
    for _ in range(2):
        assert [run.units.tolist() for run in map.runs(0, 1)] == [[0]]
    assert cache.intruder is not None
    cache.intruder.join()
    assert [*cache] == [1]


@pytest.mark.red_without("F2", "a page is loaded once for each place where a list names it")
def test_a_page_at_many_places_is_loaded_once() -> None:
    """A list of 16 MB may name one page at 400,000 places: planning must not cost that many loads."""
    kept: dict[bytes, bytes] = {}
    alike, other = (row(number) + UNALLOCATED * (PAGE_UNITS - 1) for number in (9, 8))
    count = 100_000
    size = count * PAGE_UNITS * UNIT - 3 * UNIT
    builder = PageListBuilder(virtual_size=size, unit=UNIT, parent=bytes(32), keep=kept.__setitem__)
    for index in range(count - 1):
        builder.add(index, other if index == 7 else alike)
    builder.add(count - 1, alike[: (PAGE_UNITS - 3) * 32])
    loads: list[bytes] = []

    def load(digest: bytes) -> bytes:
        loads.append(digest)
        return kept[digest]

    map = DataMap(builder.build(), load)
    target = Target(Format.QCOW2, 4096, size, UNIT, Kind.UNALLOCATED, b"below", Format.RAW)
    layout = plan_layout(target, map)
    assert (map.count, len(loads)) == (count, 3)
    assert [run.units.tolist() for run in map.runs(6, 3)] == [[at * PAGE_UNITS] for at in (6, 7, 8)]
    (run,) = map.runs(0, count, pages={7})
    assert (run.first, run.units.tolist(), run.digests.tobytes()) == (7, [7 * PAGE_UNITS], row(8))
    last = layout.locate(count - 1, np.array([(count - 1) * PAGE_UNITS]))
    assert int(last[0]) - int(layout.locate(0, np.array([0]))[0]) == (count - 1) * UNIT
    assert len(loads) < 8, loads
