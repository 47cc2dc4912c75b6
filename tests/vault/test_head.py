"""Heads: signed by the node, vouched for by the team, in one form only; the highest counter is the newest."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlaysync.errors import DecodeError
from overlaysync.trust.keys import NodeKey, verify
from overlaysync.vault.head import HEAD_CONTEXT, Head, decode_head, encode_head, newest
from overlaysync.vault.objects import Kind, object_name
from overlaysync.vault.spaces import PUBLIC, Space
from tests.vault.samples import ANN, BOB, OTHER, RED, a_head, flips, hash_like

pytestmark = pytest.mark.holds("F2")
HASHES = st.lists(st.binary(min_size=32, max_size=32), max_size=5, unique=True)


def signed(body: bytes, space: Space = RED, key: NodeKey = ANN) -> bytes:
    """Any body as a head of a member."""
    voucher = space.vouch(body)
    return body + voucher + key.sign(HEAD_CONTEXT + body + voucher)


def body_of(head: Head) -> bytearray:
    return bytearray(encode_head(head, ANN, RED).data[:-96])


@given(HASHES, HASHES, HASHES, st.integers(1, 10**12 - 1), st.integers(0, 2**64 - 1))
def test_what_is_written_is_read(
    states: list[bytes], packs: list[bytes], public: list[bytes], counter: int, size: int
) -> None:
    head = a_head(
        states=tuple(states),
        packs=tuple(sorted(packs)),
        public_packs=tuple(sorted(public)),
        counter=counter,
        size=size,
    )
    written = encode_head(head, ANN, RED)
    assert decode_head(written.data, verify, RED) == written
    assert written.vouched and written.head == head


def test_it_names_all_objects() -> None:
    head = a_head(public_packs=(hash_like("p"),), public_indexes=(hash_like("q"),))
    names = head.names(PUBLIC.tag)
    assert len(names) == len(set(names)) == 3 + 4 + 1 + 1 + 1
    assert object_name(PUBLIC.tag, Kind.PACK, hash_like("p")) in names
    assert object_name(RED.tag, Kind.INDEX, hash_like("g")) in names
    assert head.name.endswith(f"/heads/{ANN.public.hex()}/000000000003")


@pytest.mark.holds("D2")
@pytest.mark.red_without("F2", "the signature of a head is not checked")
def test_every_flipped_byte_is_refused() -> None:
    data = encode_head(a_head(), ANN, RED).data
    for wrong in (*flips(data), *(data[:cut] for cut in range(len(data))), data + b"x"):
        with pytest.raises(DecodeError):
            decode_head(wrong, verify, RED)


@pytest.mark.holds("D2")
@pytest.mark.red_without("D2", "the voucher of a head is not compared")
def test_only_a_member_vouches() -> None:
    stranger = Space("red", RED.tag, bytes(32))
    for space, key in ((stranger, ANN), (Space("red", RED.tag, OTHER.key), BOB)):
        data = encode_head(a_head(key, space), key, space).data
        assert not decode_head(data, verify, RED).vouched
    good = encode_head(a_head(), ANN, RED).data
    assert decode_head(good, verify, RED).vouched
    assert not decode_head(good, verify, OTHER).vouched
    assert not decode_head(good, verify).vouched, "nobody can say without the key"


def test_a_voucher_is_of_one_head() -> None:
    one, other = (encode_head(a_head(counter=counter), ANN, RED).data for counter in (1, 2))
    body, voucher = other[:-96], one[-96:-64]
    moved = body + voucher + ANN.sign(HEAD_CONTEXT + body + voucher)
    assert not decode_head(moved, verify, RED).vouched


def test_it_is_made_by_the_node_and_for_the_space_that_it_names() -> None:
    for head, key, space in ((a_head(BOB), ANN, RED), (a_head(), ANN, OTHER)):
        with pytest.raises(ValueError, match="names"):
            encode_head(head, key, space)


LATER, SOONER = sorted((hash_like("c"), hash_like("d")), reverse=True)
BAD = {
    "counter 0": a_head(counter=0),
    "too high a counter": a_head(counter=10**12),
    "a state twice": a_head(states=(hash_like("a"),) * 2),
    "packs out of order": a_head(packs=(LATER, SOONER)),
    "a pack twice": a_head(packs=(SOONER, SOONER)),
    "indexes out of order": a_head(indexes=(LATER, SOONER)),
    "public packs out of order": a_head(public_packs=(LATER, SOONER)),
    "public indexes out of order": a_head(public_indexes=(LATER, SOONER)),
    "no time": a_head(made="2026-01-31 12:00:00Z"),
    "half a time": a_head(made="2026"),
}


@pytest.mark.parametrize("head", BAD.values(), ids=BAD)
def test_what_cannot_be_is_not_written(head: Head) -> None:
    with pytest.raises(DecodeError):
        encode_head(head, ANN, RED)


def put(at: int, data: bytes) -> Callable[[bytearray], None]:
    def change(body: bytearray) -> None:
        body[at : at + len(data)] = data

    return change


def swap_hashes(body: bytearray) -> None:
    first = 120 + 32 * 4
    body[first : first + 64] = body[first + 32 : first + 64] + body[first : first + 32]


CHANGES = {
    "another magic": put(0, b"OSVS"),
    "a later version": put(4, b"\2"),
    "no zeros after the version": put(5, b"\1"),
    "counter 0": put(56, bytes(8)),
    "too high a counter": put(56, struct.pack("<Q", 10**12)),
    "no time": put(72, b"x"),
    "a control character": put(75, b"\x1b"),
    "not ASCII": put(72, b"\xff"),
    "no zeros after the time": put(95, b"\1"),
    "more states than there are": put(96, struct.pack("<I", 4)),
    "states without end": put(96, b"\xff" * 4),
    "fewer states than there are": put(96, struct.pack("<I", 2)),
    "no zeros after the numbers": put(119, b"\1"),
    "packs out of order": swap_hashes,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_cannot_be_is_not_read_though_it_is_signed(change: Callable[[bytearray], None]) -> None:
    body = body_of(a_head())
    decode_head(signed(bytes(body)), verify, RED)
    change(body)
    with pytest.raises(DecodeError):
        decode_head(signed(bytes(body)), verify, RED)


@given(st.binary(max_size=400))
def test_any_bytes_are_a_head_or_refused(data: bytes) -> None:
    for one in (data, signed(data), signed(bytes(body_of(a_head()))[:120] + data)):
        try:
            head = decode_head(one, verify, RED)
        except DecodeError:
            continue
        assert encode_head(head.head, ANN, RED).data == one


def test_the_newest_has_the_highest_counter_in_whatever_order_they_come() -> None:
    heads = [encode_head(a_head(counter=counter), ANN, RED) for counter in (9, 10, 11)]
    bobs = encode_head(a_head(BOB, counter=1), BOB, RED)
    for order in permutations([*heads, bobs]):
        assert newest(order) == {ANN.public: heads[-1], BOB.public: bobs}
    assert replace(heads[0], vouched=False) != heads[0]
