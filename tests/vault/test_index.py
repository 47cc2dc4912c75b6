"""Indexes: what they say is found, and one that describes what cannot be is refused."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlaysync.errors import DecodeError
from overlaysync.model.digest import as_digests
from overlaysync.vault.index import (
    INDEX_MAGIC,
    MAX_PACKS,
    Index,
    PackIndex,
    decode_index,
    encode_index,
    merged,
)
from overlaysync.vault.objects import LIMITS, Kind
from overlaysync.vault.pack import HEAD, MAX_RECORD, Place, begin_object
from overlaysync.vault.spaces import PUBLIC, Space
from tests.vault.samples import OTHER, RED, SPACES, flips, hash_like

pytestmark = pytest.mark.holds("F2")


def pack_index(name: str, *records: tuple[int, ...], stored: int = 50) -> PackIndex:
    """A pack whose records have items of these lengths; the key of each follows from its place."""
    places = [
        Place(number, HEAD.size + number * stored, stored, sum(lengths))
        for number, lengths in enumerate(records)
    ]
    lengths = [length for record in records for length in record]
    keys = b"".join(hash_like(f"{name}/{number}") for number in range(len(lengths)))
    return PackIndex(
        hash_like(name),
        HEAD.size + stored * len(records),
        places,
        list(map(len, records)),
        as_digests(keys),
        np.asarray(lengths, dtype=np.uint32),
    )


PACKS = [pack_index("one", (5, 7), (100,)), pack_index("other", (1, 2, 3))]


def same(left: PackIndex, right: PackIndex) -> bool:
    plain = ("name", "size", "places", "counts")
    return (
        all(getattr(left, what) == getattr(right, what) for what in plain)
        and left.keys.tobytes() == right.keys.tobytes()
        and left.lengths.tolist() == right.lengths.tolist()
    )


def sealed(plain: bytes, space: Space = RED) -> bytes:
    salt = space.new_salt()
    return begin_object(INDEX_MAGIC, space, salt) + space.seal(INDEX_MAGIC, salt).close(0, plain)


def plain_of(packs: list[PackIndex]) -> bytearray:
    return bytearray(encode_index(packs, PUBLIC)[HEAD.size :])


# -- bytes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
@given(
    st.lists(
        st.lists(st.lists(st.integers(0, 5000), min_size=1, max_size=5), min_size=1, max_size=4), max_size=4
    )
)
def test_what_is_written_is_read(space: Space, shape: list[list[list[int]]]) -> None:
    packs = [pack_index(str(at), *map(tuple, records)) for at, records in enumerate(shape)]
    read = decode_index(encode_index(packs, space), space)
    assert len(read) == len(packs) and all(map(same, read, packs))


@pytest.mark.holds("D2")
def test_every_flipped_byte_of_a_sealed_index_is_refused() -> None:
    data = encode_index(PACKS, RED)
    for wrong in flips(data):
        with pytest.raises(DecodeError):
            decode_index(wrong, RED)
    for cut in range(len(data)):
        with pytest.raises(DecodeError):
            decode_index(data[:cut], RED)


def test_a_public_index_that_is_cut_or_longer_is_refused() -> None:
    data = encode_index(PACKS, PUBLIC)
    for wrong in (*(data[:cut] for cut in range(len(data))), data + b"x", data + data[40:]):
        with pytest.raises(DecodeError):
            decode_index(wrong, PUBLIC)


@given(st.binary(max_size=400))
def test_any_bytes_are_an_index_or_refused(plain: bytes) -> None:
    try:
        packs = decode_index(sealed(plain), RED)
    except DecodeError:
        return
    assert plain_of(packs) == plain


def test_another_space_is_refused() -> None:
    for data, space in ((encode_index(PACKS, RED), OTHER), (encode_index(PACKS, RED), PUBLIC)):
        with pytest.raises(DecodeError):
            decode_index(data, space)
    with pytest.raises(DecodeError):
        decode_index(encode_index(PACKS, PUBLIC), RED)


def put(at: int, value: int) -> Callable[[bytearray], None]:
    return lambda plain: struct.pack_into("<I", plain, at, value)


FIRST = 8
"""Where the entry of the first pack begins; its records follow 40 bytes later, its items 24 after these."""


@pytest.mark.holds("N3")
@pytest.mark.red_without("F2", "it is not checked that the records of an index lie one after the other")
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(put(0, 3), id="one pack too many"),
        pytest.param(put(0, 1), id="one pack too few"),
        pytest.param(put(0, 0xFFFFFFFF), id="packs without end"),
        pytest.param(put(4, 1), id="no zeros"),
        pytest.param(put(FIRST + 32, 141), id="a pack that is longer than its records"),
        pytest.param(put(FIRST + 32, LIMITS[Kind.PACK] + 1), id="a pack too large"),
        pytest.param(put(FIRST + 36, 0xFFFFFFFF), id="records without end"),
        pytest.param(put(FIRST + 40, 0), id="a record over what the pack begins with"),
        pytest.param(put(FIRST + 40, 41), id="a gap before a record"),
        pytest.param(put(FIRST + 44, 51), id="a record that reaches into the next one"),
        pytest.param(put(FIRST + 44, 0xFFFFFFFF), id="a record longer than its pack"),
        pytest.param(put(FIRST + 48, 0), id="a record without items"),
        pytest.param(put(FIRST + 48, 0xFFFFFFFF), id="items without end"),
        pytest.param(put(FIRST + 64 + 32, MAX_RECORD), id="a record too large"),
        pytest.param(put(FIRST + 64 + 32, 0xFFFFFFFF), id="an item too large"),
    ],
)
def test_what_cannot_be_is_refused(damage: Callable[[bytearray], None]) -> None:
    plain = plain_of(PACKS)
    damage(plain)
    for space in SPACES.values():
        with pytest.raises(DecodeError):
            decode_index(sealed(bytes(plain), space), space)


@pytest.mark.holds("N3")
@pytest.mark.parametrize("packs", [[pack_index("empty")], [PACKS[0]] * (MAX_PACKS + 1)])
def test_packs_that_take_memory_and_hold_little_are_refused(packs: list[PackIndex]) -> None:
    """Each takes a kilobyte of memory, and an index has room for a million of them."""
    with pytest.raises(DecodeError):
        decode_index(encode_index(packs, PUBLIC), PUBLIC)


def test_too_long_an_index_is_refused() -> None:
    with pytest.raises(DecodeError, match="too long"):
        decode_index(bytes(LIMITS[Kind.INDEX] + 1), RED)


# -- looking up --------------------------------------------------------------------------------------


def spots(index: Index, pack: PackIndex) -> list[tuple[bytes, int, int, int]]:
    found = index.find(pack.keys)
    return [(spot.pack, spot.place.number, spot.start, spot.length) for spot in found if spot is not None]


def test_items_are_found_where_they_are() -> None:
    index = merged(PACKS)
    one, other = (pack.name for pack in PACKS)
    assert spots(index, PACKS[0]) == [(one, 0, 0, 5), (one, 0, 5, 7), (one, 1, 0, 100)]
    assert spots(index, PACKS[1]) == [(other, 0, 0, 1), (other, 0, 1, 2), (other, 0, 3, 3)]
    strange = as_digests(hash_like("strange") + hash_like("one/0"))
    assert (
        [spot is not None for spot in index.find(strange)] == index.holds(strange).tolist() == [False, True]
    )
    assert index.packs_with(strange) == [one]
    assert index.packs_with(as_digests(b"")) == [] and index.find(as_digests(b"")) == []
    assert list(index.packs) == [one, other] and len(index) == 6


def test_a_key_that_is_alike_in_its_first_half_is_another() -> None:
    key = bytes(8) + b"a" * 24
    alike = as_digests(b"".join((bytes(8) + b"b" * 24, key, bytes(8) + b"c" * 24)))
    pack = PackIndex(hash_like("p"), 90, [Place(0, 40, 50, 3)], [3], alike, np.asarray([1, 1, 1], np.uint32))
    index = merged([pack])
    index._merge()
    assert [spot.start for spot in index.find(alike) if spot] == [0, 1, 2]
    assert index.find(as_digests(bytes(8) + b"d" * 24)) == [None]


@given(st.lists(st.integers(1, 400), min_size=1, max_size=8), st.integers(0, 7))
def test_what_is_found_does_not_depend_on_when_it_is_merged(counts: list[int], merge_at: int) -> None:
    packs = [pack_index(str(at), tuple([9] * count)) for at, count in enumerate(counts)]
    index = Index()
    for at, pack in enumerate(packs):
        index.add(pack)
        index.add(pack)
        if at == merge_at:
            index._merge()
    assert len(index) == sum(counts)
    for pack in packs:
        assert spots(index, pack) == [(pack.name, 0, 9 * at, 9) for at in range(len(pack.keys))]
        assert index.holds(pack.keys).all() and index.packs_with(pack.keys) == [pack.name]
