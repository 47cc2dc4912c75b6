"""Envelopes: whatever is changed on the way is noticed, and nothing is parsed before that."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from overlaysync.errors import DecodeError
from overlaysync.model.manifest import MANIFEST_CONTEXT, MAX_HEADER_SIZE, Header
from overlaysync.trust.envelope import MAX_ENVELOPE_SIZE, open_envelope, sign_header
from overlaysync.trust.keys import NodeKey, node_id, short_node_id, verify
from overlaysync.trust.teams import Team, new_team
from tests import reference

pytestmark = [pytest.mark.holds("N12"), pytest.mark.holds("B1")]

PUBLIC, CASE = reference.load_vectors("manifests")[:2]
ENVELOPE = bytes.fromhex(CASE["envelope"])
SEED = bytes.fromhex(CASE["private_key"])
HEADER = msgspec.convert(CASE["members"], Header)
TEAM = Team(HEADER.team, bytes.fromhex(CASE["team_key"]))
VOUCHER, PAYLOAD = slice(100, 132), slice(132, None)


def key(seed: int = 1) -> NodeKey:
    return NodeKey(Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32))


def test_what_is_signed_opens() -> None:
    signed = sign_header(HEADER, key(), TEAM)
    opened = open_envelope(signed.envelope)
    assert opened == signed
    assert (opened.header, opened.publisher) == (HEADER, key().public)


def test_the_publisher_is_part_of_the_manifest() -> None:
    one, other = sign_header(HEADER, key(1), TEAM), sign_header(HEADER, key(2), TEAM)
    assert one.header == other.header and one.id != other.id


@pytest.mark.red_without("N12", "the signature is not verified")
@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
@pytest.mark.parametrize("case", [PUBLIC, CASE], ids=["public", "team"])
def test_every_byte_counts(case: dict[str, Any], mask: int) -> None:
    """The voucher of a team only to those who have its key."""
    whole = bytes.fromhex(case["envelope"])
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= mask
        if case is CASE and at in range(100, 132):
            assert not open_envelope(bytes(changed)).belongs({TEAM.name: TEAM})
        else:
            with pytest.raises(DecodeError):
                open_envelope(bytes(changed))


def test_every_length_counts() -> None:
    for end in range(len(ENVELOPE)):
        with pytest.raises(DecodeError):
            open_envelope(ENVELOPE[:end])
    for extra in (b"\0", b" ", b"\n", ENVELOPE):
        with pytest.raises(DecodeError):
            open_envelope(ENVELOPE + extra)


def test_anothers_key_does_not_fit() -> None:
    forged = ENVELOPE[:4] + key(9).public + ENVELOPE[36:]
    with pytest.raises(DecodeError, match="signature"):
        open_envelope(forged)


@pytest.mark.parametrize("context", [b"", b"overlaysync v1 catalog\0", MANIFEST_CONTEXT.encode()])
def test_a_signature_made_for_something_else_does_not_count(context: bytes) -> None:
    payload = ENVELOPE[PAYLOAD]
    signer = key()
    with pytest.raises(DecodeError, match="signature"):
        open_envelope(b"OSM1" + signer.public + signer.sign(context + payload) + ENVELOPE[VOUCHER] + payload)


def test_the_signature_is_checked_before_anything_is_parsed() -> None:
    with pytest.raises(DecodeError, match="signature"):
        open_envelope(ENVELOPE[:132] + b"[[[[")


@pytest.mark.parametrize("payload", [b"{}", b"null", b"\xff", CASE["header"].encode() + b" "])
def test_a_signed_header_must_still_be_one(payload: bytes) -> None:
    with pytest.raises(DecodeError, match="header"):
        open_envelope(reference.envelope(SEED, payload))


def test_a_publisher_cannot_sign_what_nobody_would_read() -> None:
    members: dict[str, Any] = CASE["members"] | {"name": "../x"}
    with pytest.raises(DecodeError):
        sign_header(msgspec.convert(members, Header), key(), TEAM)


def test_length_is_checked_first() -> None:
    long = reference.envelope(SEED, bytes(MAX_HEADER_SIZE + 1))
    assert len(long) == MAX_ENVELOPE_SIZE + 1
    with pytest.raises(DecodeError, match="not a signed manifest"):
        open_envelope(long)


# -- teams -------------------------------------------------------------------------------------------


def test_a_member_published_it() -> None:
    manifest = open_envelope(ENVELOPE)
    assert manifest.belongs({TEAM.name: TEAM})
    assert manifest.belongs({"blue": new_team("blue"), TEAM.name: TEAM})
    assert open_envelope(bytes.fromhex(PUBLIC["envelope"])).belongs({})


def test_other_teams_keys_do_not_count() -> None:
    """Not one of the same name (made anew, say), nor the same key under another name."""
    manifest = open_envelope(ENVELOPE)
    for teams in ({}, {"blue": TEAM}, {TEAM.name: new_team(TEAM.name)}, {TEAM.name: Team("blue", TEAM.key)}):
        assert not manifest.belongs(teams)


def test_a_non_member_cannot_use_the_voucher_of_what_it_has_seen() -> None:
    """It belongs to this publisher, this signature and this header."""
    other = msgspec.structs.replace(HEADER, name="other")
    stranger = key(9)
    mine = {TEAM.name: TEAM}
    for signer, header in ((stranger, HEADER), (stranger, other)):
        forged = sign_header(header, signer, Team(TEAM.name, b"guessed".ljust(20))).envelope
        for voucher in (ENVELOPE[VOUCHER], bytes(32)):
            envelope = forged[:100] + voucher + forged[PAYLOAD]
            assert open_envelope(envelope).header == header, "its signature is right"
            assert not open_envelope(envelope).belongs(mine)


def test_a_member_s_key_alone_publishes_nothing_for_a_team() -> None:
    """A team is left by losing its key: what the node's key signs after that is no member's."""
    for team in (None, new_team("blue")):
        with pytest.raises(ValueError, match="key of that team"):
            sign_header(HEADER, key(), team)
    with pytest.raises(ValueError, match="key of that team"):
        sign_header(msgspec.structs.replace(HEADER, team=""), key(), TEAM)


def test_a_public_manifest_has_one_form() -> None:
    envelope = bytes.fromhex(PUBLIC["envelope"])
    assert envelope[VOUCHER] == bytes(32)
    with pytest.raises(DecodeError, match="voucher"):
        open_envelope(envelope[:100] + ENVELOPE[VOUCHER] + envelope[PAYLOAD])


# -- anything else -----------------------------------------------------------------------------------


@given(st.binary(max_size=300).map(lambda data: b"OSM1" + data) | st.binary(max_size=200))
def test_any_bytes_are_an_error(data: bytes) -> None:
    with pytest.raises(DecodeError):
        open_envelope(data)


@given(st.binary(max_size=70), st.binary(max_size=70))
def test_any_signature_and_key_are_just_wrong(public: bytes, signature: bytes) -> None:
    assert not verify(public, signature, b"message")


def test_a_signature_cannot_be_written_in_a_second_way() -> None:
    """Adding the group's order to S gives the same equation; RFC 8032 refuses it."""
    order = 2**252 + 27742317777372353535851937790883648493
    scalar = int.from_bytes(ENVELOPE[68:100], "little") + order
    with pytest.raises(DecodeError, match="signature"):
        open_envelope(ENVELOPE[:68] + scalar.to_bytes(32, "little") + ENVELOPE[100:])


def test_node_ids() -> None:
    public = bytes.fromhex(CASE["public_key"])
    assert node_id(public) == reference.node_id(public)
    assert short_node_id(public) == reference.node_id(public).replace("-", "")[:6]
