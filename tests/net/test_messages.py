from __future__ import annotations

import base64
import json
from contextlib import suppress
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlaysync.errors import DecodeError, UsageError
from overlaysync.net.bounds import (
    MAX_CATALOG_ITEMS,
    MAX_CATALOG_SIZE,
    MAX_MANIFEST_SIZE,
    MAX_PEERS,
    MAX_RANGES,
    MAX_SLOTS,
    MAX_SLOTS_TEXT,
)
from overlaysync.net.membership import encode_proof
from overlaysync.net.messages import (
    DEFAULT_PORT,
    Address,
    CatalogMessage,
    decode_catalog,
    decode_peers,
    decode_slots,
    encode_catalog,
    encode_peers,
    encode_slots,
    parse_address,
    parse_peer,
)
from overlaysync.net.swarm_messages import SwarmQuestion, encode_question

NODE = bytes(range(32))


@pytest.mark.holds("F3")
@pytest.mark.red_without(
    "F3", "the field names of a catalog, a list of peers and a proof are changed, one at a time"
)
def test_bytes_are_as_the_protocol_says() -> None:
    node = b"00" * 32
    assert encode_catalog(CatalogMessage(bytes(32), "pl@bob", [b"abc"], tls=7)) == (
        b'{"node":"%s","label":"pl@bob","items":["YWJj"],"tls":7}' % node
    )
    assert encode_peers(["192.0.2.1:80"]) == b'{"peers":["192.0.2.1:80"]}'
    assert encode_slots(((0, 64), (80, 16))) == "0-63,80-95"
    question = SwarmQuestion("5f0c9d1e22ab7740", 40007, 7, 3, "pl@bob")
    assert encode_question(question) == "member=5f0c9d1e22ab7740&port=40007&by=pl@bob&held=7&since=3"
    assert encode_proof(bytes(32), bytes(32)) == f"nonce={node.decode()}&proof={node.decode()}"


# -- slots -------------------------------------------------------------------------------------------


@st.composite
def runs(draw: st.DrawFn) -> tuple[tuple[int, int], ...]:
    result = []
    at = draw(st.integers(0, 1 << 34))
    for _ in range(draw(st.integers(1, MAX_RANGES))):
        at += draw(st.integers(0, 1000))
        count = draw(st.integers(1, MAX_SLOTS // MAX_RANGES))
        result.append((at, count))
        at += count
    return tuple(result)


@given(runs())
@pytest.mark.slow
def test_slot_ranges_survive_the_wire(runs: tuple[tuple[int, int], ...]) -> None:
    text = encode_slots(runs)
    assert len(text) <= MAX_SLOTS_TEXT
    assert decode_slots(text) == runs


def test_slot_ranges_are_inclusive() -> None:
    assert decode_slots("0-63,80-95,96-96") == ((0, 64), (80, 16), (96, 1))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        "5",
        "0-",
        "-5",
        "0-63,",
        ",0-63",
        "0-63,,80-95",
        "0-63;80-95",
        "63-0",
        "0-63,63-95",
        "80-95,0-63",
        "00-63",
        "0-063",
        "+0-63",
        " 0-63",
        "0-63\n",
        "0 - 63",
        "0x0-0x3f",
        "٠-٣",
        "0-²",
        "0-9999999999999",
        f"0-{MAX_SLOTS}",
        f"0-{MAX_SLOTS - 1},{MAX_SLOTS}-{MAX_SLOTS}",
        ",".join(f"{n}-{n}" for n in range(MAX_RANGES + 1)),
        "0-1" + "0" * 100_000,
    ],
)
def test_anything_else_is_no_slot_range(text: str) -> None:
    with pytest.raises(DecodeError):
        decode_slots(text)


def test_the_bounds_themselves_are_allowed() -> None:
    assert decode_slots(f"0-{MAX_SLOTS - 1}") == ((0, MAX_SLOTS),)
    assert len(decode_slots(",".join(f"{n}-{n}" for n in range(MAX_RANGES)))) == MAX_RANGES


@given(st.text(alphabet="0123456789-, ", max_size=40))
def test_a_slot_range_has_one_spelling(text: str) -> None:
    try:
        runs = decode_slots(text)
    except DecodeError:
        return
    assert encode_slots(runs) == text


# -- catalog -----------------------------------------------------------------------------------------


@given(st.lists(st.binary(min_size=1, max_size=200), max_size=20), st.text(max_size=60))
@pytest.mark.slow
def test_a_catalog_survives_the_wire(envelopes: list[bytes], label: str) -> None:
    catalog = decode_catalog(encode_catalog(CatalogMessage(NODE, label, envelopes)))
    assert catalog.node == NODE
    assert catalog.envelopes == tuple(envelopes)


@given(
    st.lists(st.binary(min_size=1, max_size=200), max_size=5),
    st.lists(st.tuples(st.binary(min_size=1, max_size=200), st.datetimes()), max_size=5),
    st.one_of(st.just(b""), st.binary(min_size=16, max_size=16)),
)
@pytest.mark.slow
def test_what_is_in_use_and_what_tells_machines_apart_survive_the_wire(
    envelopes: list[bytes], used: list[tuple[bytes, datetime]], boot: bytes
) -> None:
    in_use = tuple((envelope, f"{since:%Y-%m-%dT%H:%M:%SZ}".rjust(20, "0")) for envelope, since in used)
    catalog = decode_catalog(encode_catalog(CatalogMessage(NODE, "x", envelopes, boot=boot, in_use=in_use)))
    assert (catalog.envelopes, catalog.in_use, catalog.boot) == (tuple(envelopes), in_use, boot)


def test_what_is_in_use_is_left_out_before_what_is_served() -> None:
    since = "2026-11-28T10:14:00Z"
    used = [(bytes(MAX_MANIFEST_SIZE), since)] * 1000
    body = encode_catalog(CatalogMessage(NODE, "x", [bytes(MAX_MANIFEST_SIZE)] * 100, in_use=used))
    catalog = decode_catalog(body)
    assert len(body) <= MAX_CATALOG_SIZE
    assert len(catalog.envelopes) == 100 and 50 < len(catalog.in_use) < 900
    many = decode_catalog(
        encode_catalog(CatalogMessage(NODE, "x", [b"y"] * 10, in_use=[(b"y", since)] * MAX_CATALOG_ITEMS))
    )
    assert len(many.in_use) == MAX_CATALOG_ITEMS - 10


@pytest.mark.parametrize(
    "more",
    [
        {"boot": "00" * 15},
        {"boot": "00" * 17},
        {"boot": "0G" * 16},
        {"boot": "AA" * 16},
        {"boot": 7},
        {"in_use": [{"item": "YQ==", "since": ""}]},
        {"in_use": [{"item": "YQ==", "since": "2026-11-28 10:14"}]},
        {"in_use": [{"item": "YQ==", "since": "2026-11-28T10:14:00Z\n"}]},
        {"in_use": [{"item": "YQ==", "since": "٢026-11-28T10:14:00Z"}]},
        {"in_use": [{"item": "", "since": "2026-11-28T10:14:00Z"}]},
        {"in_use": [{"item": "YQ=="}]},
        {"in_use": {}},
        {"in_use": [{"item": "YQ==", "since": "2026-11-28T10:14:00Z"}] * (MAX_CATALOG_ITEMS + 1)},
    ],
    ids=str,
)
def test_damaged_entries_of_a_catalog_are_refused(more: dict[str, object]) -> None:
    message = {"node": NODE.hex(), "label": "x", "items": []}
    assert decode_catalog(json.dumps(message).encode()).node == NODE
    with pytest.raises(DecodeError):
        decode_catalog(json.dumps(message | more).encode())


def test_a_label_is_made_safe_to_print() -> None:
    assert (
        decode_catalog(encode_catalog(CatalogMessage(NODE, "pl\x1b[31m\u202e@bob", []))).label
        == "pl?[31m?@bob"
    )


def test_what_no_longer_fits_is_left_out() -> None:
    big = [bytes(MAX_MANIFEST_SIZE)] * 1000
    body = encode_catalog(CatalogMessage(NODE, "x", big))
    assert len(body) <= MAX_CATALOG_SIZE
    assert 150 < len(decode_catalog(body).envelopes) < 1000
    many = encode_catalog(CatalogMessage(NODE, "x", [b"y"] * (MAX_CATALOG_ITEMS + 1)))
    assert len(decode_catalog(many).envelopes) == MAX_CATALOG_ITEMS


def item(size: int) -> str:
    return base64.b64encode(bytes(size)).decode()


@pytest.mark.parametrize(
    "message",
    [
        [],
        {"node": NODE.hex(), "label": "x"},
        {"node": NODE.hex()[2:], "label": "x", "items": []},
        {"node": "zz" * 32, "label": "x", "items": []},
        {"node": NODE.hex(), "label": 7, "items": []},
        {"node": NODE.hex(), "label": "x", "items": [7]},
        {"node": NODE.hex(), "label": "x", "items": ["#"]},
        {"node": NODE.hex(), "label": "x", "items": [""]},
        {"node": NODE.hex(), "label": "x", "items": [item(MAX_MANIFEST_SIZE + 1)]},
        {"node": NODE.hex(), "label": "x", "items": [item(3)] * (MAX_CATALOG_ITEMS + 1)},
    ],
)
def test_a_wrong_catalog_is_refused(message: object) -> None:
    with pytest.raises(DecodeError):
        decode_catalog(json.dumps(message).encode())


@pytest.mark.parametrize(
    "body", [b"", b"\xff", b"{", b"[" * 100_000, b'{"node":NaN}', b" " * (MAX_CATALOG_SIZE + 1)]
)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_catalog(body)
    with pytest.raises(DecodeError):
        decode_peers(body)


@given(st.binary(max_size=200))
def test_any_bytes_give_a_message_or_a_decode_error(body: bytes) -> None:
    for decode in (decode_catalog, decode_peers):
        with suppress(DecodeError):
            decode(body)


def test_unknown_fields_are_left_to_later_versions() -> None:
    body = encode_catalog(CatalogMessage(NODE, "x", []))[:-1] + b',"more":1}'
    assert decode_catalog(body).label == "x"


# -- addresses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("bob:80", "bob", 80),
        ("bob.lab.example.:43210", "bob.lab.example.", 43210),
        ("under_score-1:1", "under_score-1", 1),
        ("192.0.2.7:65535", "192.0.2.7", 65535),
        ("[::1]:8080", "::1", 8080),
        ("[2001:DB8::0:7]:8080", "2001:db8::7", 8080),
        ("[fe80::1%eth0]:8080", "fe80::1%eth0", 8080),
    ],
)
def test_addresses(text: str, host: str, port: int) -> None:
    address = parse_address(text)
    assert address == Address(host, port)
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "bob",
        "bob:",
        ":80",
        "bob:0",
        "bob:65536",
        "bob:-1",
        "bob:+80",
        "bob:٣",
        "bob:80 ",
        "bob :80",
        "-bob:80",
        "b..b:80",
        "a" * 64 + ":80",
        "b@evil:80",
        "b/evil:80",
        "b\r\nX:80",
        "b\0:80",
        "bób:80",
        "1.2:80",
        "1.2.3.256:80",
        "01.2.3.4:80",
        "::1:80",
        "[::1]",
        "[::1",
        "[1.2.3.4]:80",
        "[::g]:80",
        "[::1%]:80",
        "[::1%a/b]:80",
        "x" * 10_000 + ":80",
    ],
)
def test_anything_else_is_no_address(text: str) -> None:
    with pytest.raises(UsageError):
        parse_address(text)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("bob", "bob", DEFAULT_PORT),
        ("bob.lab.", "bob.lab.", DEFAULT_PORT),
        ("bob.lab:80", "bob.lab", 80),
        ("192.0.2.7", "192.0.2.7", DEFAULT_PORT),
        ("192.0.2.7:80", "192.0.2.7", 80),
        ("[2001:db8::7]", "2001:db8::7", DEFAULT_PORT),
        ("[2001:db8::7]:80", "2001:db8::7", 80),
        ("[fe80::1%vlan28]", "fe80::1%vlan28", DEFAULT_PORT),
        ("[fe80::1%vlan28]:80", "fe80::1%vlan28", 80),
    ],
)
def test_a_user_may_leave_the_port_out(text: str, host: str, port: int) -> None:
    assert parse_peer(text) == Address(host, port)


@pytest.mark.parametrize("text", ["", "bob:", "bob:0", "bob:x", "1.2", "[::1", "b/c"])
def test_what_is_no_peer_even_without_a_port(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_peer(text)
    assert parse_peer(caught.value.hint.rpartition(" ")[2])


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("::1", "[::1]"),
        ("2001:db8::1:29450", "[2001:db8::1]:29450"),
        ("fe80::1%eth0", "[fe80::1%eth0]"),
    ],
)
def test_an_ipv6_address_without_brackets_is_shown_with_them(text: str, meant: str) -> None:
    with pytest.raises(UsageError, match="brackets") as caught:
        parse_peer(text)
    assert caught.value.hint == f"--peer '{meant}'"
    assert parse_peer(meant)


@pytest.mark.parametrize("text", ["[fe80::1]", "[fe80::1]:80", "[febf::1]:80"])
def test_a_link_local_peer_needs_an_interface(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_peer(text)
    assert "%eth0]" in caught.value.hint


def test_peers_survive_the_wire() -> None:
    peers = ["192.0.2.1:80", "[2001:db8::1]:81"]
    assert [str(peer) for peer in decode_peers(encode_peers(peers))] == peers
    assert len(decode_peers(encode_peers(["192.0.2.1:80"] * 1000))) == MAX_PEERS


@pytest.mark.parametrize("peer", ["bob.lab:80", "localhost:80", "[fe80::1%eth0]:80", "nonsense", "\x1b:80"])
def test_a_peer_is_a_number_not_a_name(peer: str) -> None:
    with pytest.raises(DecodeError) as caught:
        decode_peers(encode_peers([peer]))
    assert "\x1b" not in str(caught.value)
