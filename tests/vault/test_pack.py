"""Packs and records: what is stored is read, and nothing else is."""

from __future__ import annotations

import os
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlaysync.errors import DecodeError
from overlaysync.units import KIB, MIB
from overlaysync.vault.objects import hash_of
from overlaysync.vault.pack import (
    HEAD,
    MAX_RECORD,
    PACK,
    PACK_MAGIC,
    PackBuilder,
    Place,
    read_record,
    seal_of,
    squeeze,
    unsqueeze,
)
from overlaysync.vault.spaces import PUBLIC, Space
from tests.net import frames
from tests.vault.samples import OTHER, RED, SPACES, flips, noise

TEXT = b"".join(b"line %d\n" % number for number in range(2000))


def pack_of(space: Space, *records: bytes) -> tuple[bytes, list[Place]]:
    builder = PackBuilder(space)
    for record in records:
        builder.add(squeeze([record]), len(record))
    data, hash = builder.end()
    assert hash == hash_of(data) and len(data) == builder.size
    return data, builder.places


def read(data: bytes, place: Place, space: Space) -> bytes:
    stored = data[place.offset : place.offset + place.stored]
    return read_record(seal_of(data, PACK_MAGIC, space), place, stored)


@pytest.fixture(params=SPACES)
def space(request: pytest.FixtureRequest) -> Space:
    return SPACES[request.param]


# -- records -----------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_items_come_back(items: list[bytes]) -> None:
    plain = b"".join(items)
    assert unsqueeze(squeeze(items), len(plain)) == plain


def test_only_what_is_worth_it_is_compressed() -> None:
    assert len(squeeze([TEXT])) < len(TEXT) // 3
    assert squeeze([noise("x", 64 * KIB)]) == b"\0" + noise("x", 64 * KIB)
    assert len(squeeze([b""])) == 1


@pytest.mark.parametrize("size", [0, len(TEXT) - 1, len(TEXT) + 1, MAX_RECORD])
@pytest.mark.parametrize("plain", [TEXT, noise("x", len(TEXT))], ids=["compressed", "as it is"])
def test_another_size_than_the_index_says_is_refused(plain: bytes, size: int) -> None:
    with pytest.raises(DecodeError):
        unsqueeze(squeeze([plain]), size)


def frame(*parts: bytes, size: int | None) -> bytes:
    return b"\1" + frames.header(size=size) + b"".join(parts)


@pytest.mark.holds("F2")
@pytest.mark.holds("N3")
@pytest.mark.red_without("N3", "a record of a vault is unpacked whole, whatever size it has")
@pytest.mark.parametrize(
    "record",
    [
        frame(frames.zeros(1 << 30), size=1 << 30),
        frame(frames.zeros(1 << 30), size=1000),
        frame(frames.zeros(1 << 30), size=1 << 60),
        b"\1" + frames.header(size=1 << 30, window_log=27) + frames.zeros(1 << 30),
        b"\1" + frames.header(size=None, window_log=27) + frames.zeros(1 << 30),
    ],
    ids=["a bomb", "a lie", "a huge lie", "a large window", "no size"],
)
def test_bombs_take_no_memory(record: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError):
            unsqueeze(record, 1000)
        assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    finally:
        tracemalloc.stop()


def test_a_record_is_at_most_as_large_as_allowed() -> None:
    assert unsqueeze(frame(frames.zeros(MAX_RECORD), size=MAX_RECORD), MAX_RECORD) == bytes(MAX_RECORD)
    with pytest.raises(DecodeError):
        unsqueeze(frame(frames.zeros(MAX_RECORD + 1), size=MAX_RECORD + 1), MAX_RECORD + 1)


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"\2abc",
        b"\1",
        b"\1abc",
        frame(frames.raw(b"abc"), size=4),
        frame(frames.raw(b"abc"), b"x", size=3),
        frame(frames.raw(b"abc"), frames.header(size=0), frames.raw(b""), size=3),
        frame(frames.block(0, 3, b"abc"), size=3),
        b"\1" + frames.skippable(b"abc"),
        b"\1" + frames.header(size=3, dictionary=7) + frames.raw(b"abc"),
    ],
)
def test_what_is_no_record(record: bytes) -> None:
    with pytest.raises(DecodeError):
        unsqueeze(record, 3)


# -- packs -------------------------------------------------------------------------------------------


def test_records_come_back(space: Space) -> None:
    records = [TEXT, noise("a", 1000), b"", TEXT[:99]]
    data, places = pack_of(space, *records)
    assert [read(data, place, space) for place in places] == records
    assert [place.number for place in places] == [0, 1, 2, 3]
    assert places[0].offset == HEAD.size and places[-1].offset + places[-1].stored == len(data)


def test_a_pack_is_full_at_its_size() -> None:
    builder = PackBuilder(RED)
    while not builder.is_full:
        builder.add(squeeze([noise("x", MIB)]), MIB)
    assert PACK <= builder.size < PACK + 2 * MIB


@pytest.mark.holds("D2")
@pytest.mark.red_without("D2", "the records of a team's packs are stored as they are")
def test_a_pack_of_a_team_shows_nothing() -> None:
    """Neither the text nor its compressed form, and no two packs of it have anything in common."""
    one, other = (pack_of(RED, TEXT, noise("x", 4096))[0] for _ in range(2))
    for plain in (TEXT, squeeze([TEXT]), noise("x", 4096)):
        for at in range(0, len(plain) - 16, 16):
            assert plain[at : at + 16] not in one
    assert not {one[at : at + 16] for at in range(40, len(one))} & {
        other[at : at + 16] for at in range(40, len(other))
    }
    assert pack_of(PUBLIC, TEXT)[0] == pack_of(PUBLIC, TEXT)[0]


@pytest.mark.holds("D2")
def test_another_key_opens_nothing() -> None:
    data, (place,) = pack_of(RED, TEXT)
    for space in (OTHER, Space.of_team("blue", bytes(range(20)))):
        with pytest.raises(DecodeError):
            read(data, place, space)
    with pytest.raises(DecodeError, match="another space"):
        read(data, place, PUBLIC)
    plain, (place,) = pack_of(PUBLIC, TEXT)
    with pytest.raises(DecodeError, match="another space"):
        read(plain, place, RED)


@pytest.mark.holds("D2")
def test_every_flipped_byte_of_a_sealed_pack_is_refused() -> None:
    """Even where the whole pack is not compared with its name, because only a record of it is read."""
    data, places = pack_of(RED, b"one record", b"another")
    for wrong in flips(data):
        with pytest.raises(DecodeError):
            for place in places:
                read(wrong, place, RED)


def test_records_cannot_change_places() -> None:
    data, (first, second) = pack_of(RED, os.urandom(50), os.urandom(50))
    assert first.stored == second.stored
    swapped = Place(0, second.offset, second.stored, 50)
    with pytest.raises(DecodeError):
        read(data, swapped, RED)
    body = data[40:]
    with pytest.raises(DecodeError):
        read(data[:40] + body[first.stored :] + body[: first.stored], first, RED)


def test_a_pack_that_is_cut_off_is_refused(space: Space) -> None:
    data, (place,) = pack_of(space, noise("x", 300))
    for cut in (0, 1, 39, 40, 41, len(data) - 1):
        with pytest.raises(DecodeError):
            read(data[:cut], place, space)


@pytest.mark.parametrize("at", range(40))
def test_every_byte_that_a_public_pack_begins_with_counts(at: int) -> None:
    data, _ = pack_of(PUBLIC, b"x")
    wrong = bytearray(data)
    wrong[at] ^= 0x40
    with pytest.raises(DecodeError):
        seal_of(bytes(wrong), PACK_MAGIC, PUBLIC)


def test_a_later_version_is_called_one() -> None:
    data, _ = pack_of(RED, b"x")
    with pytest.raises(DecodeError, match="version 2, and this program knows 1"):
        seal_of(data[:4] + b"\2" + data[5:], PACK_MAGIC, RED)
