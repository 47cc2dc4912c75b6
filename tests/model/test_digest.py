"""Digests, markers, kinds and the text form of ids."""

from __future__ import annotations

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from overlaysync.errors import UsageError
from overlaysync.model.digest import (
    UNALLOCATED,
    ZERO,
    Kind,
    as_digests,
    canonicalise,
    derive,
    equal_rows,
    format_id,
    hash_units,
    kinds_of,
    parse_id,
    short_id,
)
from tests import reference

ROWS = st.lists(
    st.one_of(st.sampled_from([UNALLOCATED, ZERO]), st.binary(min_size=32, max_size=32)), max_size=20
)


@given(ROWS)
def test_kinds(rows: list[bytes]) -> None:
    expected = {UNALLOCATED: Kind.UNALLOCATED, ZERO: Kind.ZERO}
    kinds = kinds_of(as_digests(b"".join(rows)))
    assert kinds.tolist() == [expected.get(row, Kind.DATA) for row in rows]


@pytest.mark.parametrize("bit", range(256))
def test_a_marker_with_any_bit_flipped_is_another_kind(bit: int) -> None:
    flip = (1 << bit).to_bytes(32, "big")
    near = [bytes(a ^ b for a, b in zip(marker, flip, strict=True)) for marker in (UNALLOCATED, ZERO)]
    kinds = kinds_of(as_digests(b"".join(near))).tolist()
    assert kinds == ([Kind.ZERO, Kind.UNALLOCATED] if bit == 0 else [Kind.DATA, Kind.DATA])


@given(st.binary(min_size=0, max_size=5000), st.sampled_from([512, 1024, 4096]))
def test_units_are_hashed_one_by_one(data: bytes, unit: int) -> None:
    expected = [blake3(data[at : at + unit]).digest() for at in range(0, len(data), unit)]
    assert hash_units(memoryview(data), unit) == b"".join(expected)


@given(st.lists(st.booleans(), min_size=1, max_size=9), st.integers(1, 1024))
def test_units_of_zeros_become_the_marker(zeros: list[bool], last: int) -> None:
    lengths = [1024] * (len(zeros) - 1) + [last]
    data = b"".join((b"\0" if zero else b"x") * length for zero, length in zip(zeros, lengths, strict=True))
    digests = as_digests(hash_units(memoryview(data), 1024)).copy()
    canonicalise(digests, 1024, last_length=last)
    assert [row.tobytes() for row in digests] == [
        reference.row(data[at : at + 1024]) for at in range(0, len(data), 1024)
    ]


def test_rows_are_equal_only_when_every_byte_is() -> None:
    row = bytes(range(32))
    others = [bytes(byte ^ (at == changed) for at, byte in enumerate(row)) for changed in range(32)]
    digests = as_digests(row + b"".join(others))
    assert equal_rows(digests, row).tolist() == [True] + [False] * 32
    assert equal_rows(digests, np.repeat(digests[:1], 33, axis=0)).tolist() == [True] + [False] * 32


def test_ids_of_different_kinds_of_object_differ() -> None:
    contexts = [f"overlaysync v1 {kind}" for kind in ("disk id", "layer id", "page", "manifest", "node id")]
    assert len({derive(context, b"same") for context in contexts} | {blake3(b"same").digest()}) == 6


@given(st.binary(min_size=32, max_size=32))
def test_an_id_is_read_as_it_is_written(digest: bytes) -> None:
    assert parse_id(format_id(digest)) == parse_id("b3:" + digest.hex().upper()) == digest
    assert short_id(digest) == "b3:" + digest.hex()[:8]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "b3:",
        "0" * 64,
        "b3:" + "0" * 63,
        "b3:" + "0" * 65,
        "b3:" + "g" * 64,
        "b3:" + "00 " * 32,
        " b3:" + "0" * 64,
        "b3:" + "0" * 64 + "\n",
        "B3:" + "0" * 64,
        "b3:" + "٠" * 64,
    ],
)
def test_other_text_is_no_id(text: str) -> None:
    with pytest.raises(UsageError):
        parse_id(text)
