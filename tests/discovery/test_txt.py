from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlaysync.discovery.bounds import DISCOVERY
from overlaysync.discovery.txt import Item, NodeText, decode_txt, encode_txt
from overlaysync.trust.keys import node_id

NODE = node_id(bytes(32))
ID = bytes(range(16, 48))


def text(*names: str) -> NodeText:
    return NodeText(NODE, "r1", tuple(Item("master", name, ID) for name in names))


def names(entries: dict[bytes, bytes]) -> list[str]:
    decoded = decode_txt(entries)
    assert decoded is not None
    return [item.name for item in decoded.items]


@pytest.mark.holds("F3")
@pytest.mark.red_without("F3", "the key of the private port in a record is changed")
def test_what_people_see() -> None:
    items = (Item("master", "debian-12", ID), Item("overlay", "red/router.2", ID))
    assert encode_txt(NodeText(NODE, "r1", items, tls=40008)) == {
        b"v": b"1",
        b"id": NODE.encode(),
        b"cat": b"r1",
        b"tls": b"40008",
        b"m.debian-12": b"10111213",
        b"o.red/router.2": b"10111213",
    }


def test_round_trip() -> None:
    items = (Item("master", "débïan_%", ID[:4]), Item("overlay", "équipe/Ω", ID[:4]))
    said = NodeText(NODE, "r1", items[1:])
    assert decode_txt(encode_txt(said)) == said


@given(st.lists(st.text(min_size=1, max_size=64), max_size=30))
@pytest.mark.slow
def test_entries_obey_dns_sd(foreign: list[str]) -> None:
    entries = encode_txt(text(*foreign))
    assert sum(len(key) + len(value) + 2 for key, value in entries.items()) <= DISCOVERY.txt_size
    for key, value in entries.items():
        assert len(key) + 1 + len(value) <= 255
        assert all(0x20 <= byte <= 0x7E and byte != ord("=") for byte in key)
    keys = [key.lower() for key in entries]
    assert len(keys) == len(set(keys))


def test_as_many_as_fit() -> None:
    many = [f"image-{number:04}" for number in range(1000)]
    shown = names(encode_txt(text(*many)))
    assert shown == many[: len(shown)]
    assert 30 < len(shown) < 60


def test_names_that_differ_in_case_only_are_shown_once() -> None:
    assert names(encode_txt(text("Debian", "debian", "kali"))) == ["Debian", "kali"]


def test_a_name_too_long_for_one_string_is_left_out() -> None:
    assert names(encode_txt(text("é" * 64, "kali"))) == ["kali"]


@pytest.mark.red_without("F2", "a name in a record need not be ASCII")
@pytest.mark.red_without("F2", "a name in a record may be any text")
@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"m.", b"01234567"),
        (b"m./", b"01234567"),
        (b"m.a/b/c", b"01234567"),
        (b"m.../etc", b"01234567"),
        (b"m.a%00b", b"01234567"),
        (b"m.a%1b[31m", b"01234567"),
        (b"m.%e2%80%ae", b"01234567"),
        (b"m.%ff", b"01234567"),
        (b"m.\xff", b"01234567"),
        (b"m.-rf", b"01234567"),
        (b"m." + b"a" * 65, b"01234567"),
        (b"x.debian", b"01234567"),
        (b"debian", b"01234567"),
        (b"m.debian", b"0123456"),
        (b"m.debian", b"0123456G"),
        (b"m.debian", b"01234567\n"),
        (b"m.debian", b""),
        (b"m.debian", None),
    ],
)
def test_a_nasty_entry_is_left_out(key: bytes, value: bytes | None) -> None:
    decoded = decode_txt({b"v": b"1", key: value, b"m.good": b"89abcdef"})
    assert decoded == NodeText(items=(Item("master", "good", bytes.fromhex("89abcdef")),))


@pytest.mark.red_without("F2", "any id and revision in a record is accepted")
@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"id", b"\x1b[31m"),
        (b"id", b"abcd-efgh-"),
        (b"id", NODE.encode() + b"-abcd"),
        (b"cat", b'"'),
        (b"cat", b"x" * 33),
        (b"cat", None),
    ],
)
def test_a_nasty_id_or_revision_is_nothing(key: bytes, value: bytes | None) -> None:
    assert decode_txt({b"v": b"1", key: value}) == NodeText()


@pytest.mark.parametrize("version", [b"2", b"", None])
def test_another_version_is_no_peer(version: bytes | None) -> None:
    assert decode_txt({b"v": version}) is None
    assert decode_txt({}) is None


def test_foreign_entries_are_bounded() -> None:
    entries: dict[bytes, bytes | None] = {b"m.i%d" % number: b"01234567" for number in range(1000)}
    decoded = decode_txt({b"v": b"1", **entries})
    assert decoded is not None
    assert len(decoded.items) == DISCOVERY.items


@pytest.mark.holds("F2")
@given(st.dictionaries(st.binary(max_size=80), st.none() | st.binary(max_size=80), max_size=10))
@pytest.mark.slow
def test_any_record_gives_a_text_or_none(entries: dict[bytes, bytes | None]) -> None:
    decode_txt({b"v": b"1", **entries})
