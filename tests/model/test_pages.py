"""Page lists: building, the canonical form, and any bytes in."""

from __future__ import annotations

import struct
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlaysync.errors import DecodeError
from overlaysync.model.digest import UNALLOCATED, ZERO, Kind, zero_digest
from overlaysync.model.pages import (
    MAX_LIST_SIZE,
    PAGE_SIZE,
    PageList,
    PageListBuilder,
    page_digest,
    page_length,
)
from overlaysync.units import CHUNK, MAX_VIRTUAL_SIZE, PAGE_UNITS
from tests import reference

A, B = b"A" * 32, b"B" * 32
PREFIX = struct.Struct("<4sIQ32s")
ENTRY = struct.Struct("<Q32s")


def encoded(
    *,
    magic: bytes = b"OSD1",
    unit: int = CHUNK,
    size: int = 4 * PAGE_UNITS * CHUNK,
    parent: bytes = bytes(32),
    pages: tuple[tuple[int, bytes], ...] = (),
) -> bytes:
    return PREFIX.pack(magic, unit, size, parent) + b"".join(ENTRY.pack(*page) for page in pages)


# -- the canonical form ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        encoded(),
        encoded(pages=((0, A), (3, B))),
        encoded(size=0),
        encoded(size=MAX_VIRTUAL_SIZE),
        encoded(magic=b"OSL1", parent=A, unit=4096, size=4096 * PAGE_UNITS, pages=((0, A),)),
        encoded(magic=b"OSL1", parent=A, unit=CHUNK),
    ],
)
def test_good(data: bytes) -> None:
    pages = PageList.decode(data)
    assert pages.encode() == data
    assert PageList.decode(pages.encode()) == pages


@pytest.mark.red_without("F2", "page numbers may repeat")
@pytest.mark.red_without("F2", "page numbers may be out of bounds")
@pytest.mark.red_without("F2", "a list may end in the middle of an entry")
@pytest.mark.red_without("F2", "a disk may have a parent")
@pytest.mark.parametrize(
    "data",
    [
        b"",
        encoded()[:-1],
        encoded() + b"\0",
        encoded() + bytes(39),
        encoded(magic=b"OSD2"),
        encoded(magic=b"OSM1"),
        encoded(size=1),
        encoded(size=511),
        encoded(size=MAX_VIRTUAL_SIZE + 512),
        encoded(size=(1 << 64) - 512),
        encoded(unit=4096),
        encoded(unit=0),
        encoded(parent=A),
        encoded(magic=b"OSL1", parent=A, unit=2048),
        encoded(magic=b"OSL1", parent=A, unit=2 * CHUNK),
        encoded(magic=b"OSL1", parent=A, unit=4097),
        encoded(magic=b"OSL1", parent=A, unit=12288),
        encoded(magic=b"OSL1", parent=A, unit=0),
        encoded(pages=((4, A),)),
        encoded(pages=((1, A), (0, A))),
        encoded(pages=((1, A), (1, B))),
        encoded(pages=(((1 << 64) - 1, A),)),
        encoded(pages=((1 << 63, A),)),
        encoded(size=0, pages=((0, A),)),
    ],
)
def test_bad(data: bytes) -> None:
    with pytest.raises(DecodeError):
        PageList.decode(data)


@pytest.mark.holds("F2")
@given(
    st.one_of(
        st.binary(max_size=200),
        st.builds(
            encoded,
            magic=st.sampled_from([b"OSD1", b"OSL1"]),
            unit=st.sampled_from([4096, 8192, CHUNK]) | st.integers(0, 1 << 17),
            size=st.integers(0, 1 << 20).map(lambda sectors: sectors * 512) | st.integers(0, (1 << 64) - 1),
            parent=st.sampled_from([bytes(32), A]),
            pages=st.lists(st.tuples(st.integers(0, 5), st.sampled_from([A, B])), max_size=4).map(tuple),
        ),
    )
)
def test_any_bytes_are_a_list_in_canonical_form_or_an_error(data: bytes) -> None:
    try:
        pages = PageList.decode(data)
    except DecodeError:
        return
    assert pages.encode() == data
    assert pages.virtual_size <= MAX_VIRTUAL_SIZE and all(
        index * PAGE_UNITS < pages.unit_count for index in pages.indices
    )


@given(st.binary(min_size=1, max_size=4), st.integers(0, 127))
def test_every_byte_counts(change: bytes, at: int) -> None:
    data = encoded(magic=b"OSL1", unit=8192, parent=A, pages=((0, A), (3, B)))
    damaged = (
        data[:at] + bytes(x ^ y for x, y in zip(data[at:], change, strict=False)) + data[at + len(change) :]
    )
    if damaged == data or len(damaged) != len(data):
        return
    try:
        other = PageList.decode(damaged)
    except DecodeError:
        return
    assert other.id != PageList.decode(data).id


def test_length_is_checked_before_anything_is_made_of_it() -> None:
    entries = np.zeros(
        (MAX_LIST_SIZE - PREFIX.size) // ENTRY.size + 1, dtype=[("index", "<u8"), ("digest", "V32")]
    )
    entries["index"] = np.arange(len(entries))
    data = encoded(size=MAX_VIRTUAL_SIZE) + entries.tobytes()
    assert PageList.decode(data[: -ENTRY.size]).encode() == data[: -ENTRY.size]
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError):
            PageList.decode(data)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_a_disk_and_a_layer_of_one_content_have_different_ids() -> None:
    disk = PageList(CHUNK)
    assert len({disk.id, PageList(CHUNK, CHUNK, bytes(32)).id, PageList(2 * CHUNK).id}) == 3
    assert PageList(CHUNK, CHUNK, A).id != PageList(CHUNK, CHUNK, B).id


# -- page bodies -------------------------------------------------------------------------------------

TWO = PageList(PAGE_UNITS * CHUNK + 512, indices=(0, 1), digests=(A, B))
LAYER = PageList(PAGE_UNITS * 4096 + 512, 4096, A, indices=(0, 1), digests=(A, B))


def full(*rows: bytes, blank: bytes = ZERO) -> bytes:
    return b"".join(rows) + blank * (PAGE_UNITS - len(rows))


def test_a_page_is_as_long_as_the_list_says() -> None:
    assert len(TWO.check_page(0, full(A))) == PAGE_UNITS
    assert TWO.check_page(1, A).tobytes() == A
    for index, body in ((0, full(A)[:-32]), (0, full(A) + A), (0, b""), (1, full(A)), (1, b""), (1, A[:-1])):
        with pytest.raises(DecodeError):
            TWO.check_page(index, body)


@pytest.mark.red_without("F2", "a page may be blank")
@pytest.mark.parametrize(
    ("pages", "index", "body"),
    [
        (TWO, 0, full(A, UNALLOCATED)),
        (TWO, 1, UNALLOCATED),
        (TWO, 0, full()),
        (TWO, 1, ZERO),
        (TWO, 0, full(A, zero_digest(CHUNK))),
        (TWO, 1, zero_digest(512)),
        (LAYER, 0, full(blank=UNALLOCATED)),
        (LAYER, 0, full(A, zero_digest(4096))),
        (LAYER, 1, zero_digest(512)),
        (LAYER, 1, UNALLOCATED),
    ],
)
def test_a_page_that_would_give_a_content_a_second_id_is_refused(
    pages: PageList, index: int, body: bytes
) -> None:
    with pytest.raises(DecodeError):
        pages.check_page(index, body)


def test_a_layer_may_hold_what_a_disk_may_not() -> None:
    assert len(LAYER.check_page(0, full(UNALLOCATED, ZERO))) == PAGE_UNITS
    assert LAYER.check_page(1, ZERO).tobytes() == ZERO


def test_pages_that_are_left_out_are_blank() -> None:
    empty = replace(TWO, indices=(), digests=())
    assert empty.load(1, dict[bytes, bytes]().__getitem__).tobytes() == ZERO
    assert (replace(LAYER, indices=(), digests=()).load(0, dict[bytes, bytes]().__getitem__) == 0).all()
    assert (empty.blank, LAYER.blank) == (Kind.ZERO, Kind.UNALLOCATED)


# -- building ----------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from([ZERO, A, B]), min_size=1, max_size=5), st.integers(1, PAGE_UNITS))
@pytest.mark.slow
def test_built_as_the_reference_builds_it(kinds: list[bytes], last: int) -> None:
    """One row a page differs from ZERO, or none does."""
    count = (len(kinds) - 1) * PAGE_UNITS + last
    rows = [ZERO] * count
    for page, kind in enumerate(kinds):
        rows[page * PAGE_UNITS] = kind
    size = count * CHUNK - CHUNK + 512
    kept: dict[bytes, bytes] = {}
    builder = PageListBuilder(virtual_size=size, unit=CHUNK, parent=None, keep=kept.__setitem__)
    for page in range(len(kinds)):
        builder.add(page, b"".join(rows[page * PAGE_UNITS : (page + 1) * PAGE_UNITS]))
    pages = builder.build()
    expected = reference.listed(rows, size=size, unit=CHUNK, parent=None)
    assert (pages.encode(), pages.id) == (expected.page_list, expected.id)
    assert {page_digest(body): body for body in expected.pages.values()} == kept
    assert {index: pages.load(index, kept.__getitem__).tobytes() for index in pages.indices} == expected.pages
    assert all(len(body) <= PAGE_SIZE for body in kept.values())
    assert sum(page_length(pages.unit_count, page) for page in range(len(kinds))) == count
