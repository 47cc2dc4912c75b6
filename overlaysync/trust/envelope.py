"""Signed envelopes: magic, public key, signature, team voucher, payload. Verified first, parsed after.

Layout (docs/manifest-format.md, "Envelope"): 4 bytes ``OSM1``, 32 bytes Ed25519 public key, 64 bytes
signature over ``overlaysync v1 manifest`` + NUL + payload, 32 bytes voucher, then the payload (a manifest
header). The voucher of what belongs to a team shows that somebody who has the team's key published it: a MAC
over key, signature and payload. Of what is public it is zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hmac import compare_digest

from overlaysync.errors import DecodeError
from overlaysync.model.manifest import (
    MANIFEST_CONTEXT,
    MAX_HEADER_SIZE,
    Header,
    decode_header,
    encode_header,
    manifest_id,
)
from overlaysync.trust.keys import PUBLIC_KEY_SIZE, SIGNATURE_SIZE, NodeKey, verify
from overlaysync.trust.teams import VOUCHER_SIZE, Team

_MAGIC = b"OSM1"
_SIGNATURE_AT = len(_MAGIC) + PUBLIC_KEY_SIZE
_VOUCHER_AT = _SIGNATURE_AT + SIGNATURE_SIZE
_PREFIX_SIZE = _VOUCHER_AT + VOUCHER_SIZE
MAX_ENVELOPE_SIZE = _PREFIX_SIZE + MAX_HEADER_SIZE
_CONTEXT = MANIFEST_CONTEXT.encode() + b"\0"
_NO_TEAM = bytes(VOUCHER_SIZE)


@dataclass(frozen=True, slots=True)
class Manifest:
    """A header whose signature has been verified.

    Attributes:
        id: the manifest id, 32 bytes.
        header: what the publisher says.
        publisher: the publisher's public key.
        envelope: the signed bytes, passed on as they are.
    """

    id: bytes
    header: Header
    publisher: bytes
    envelope: bytes

    def belongs(self, teams: Mapping[str, Team]) -> bool:
        """Whether it is public, or a member of one of ``teams`` published it for that team."""
        if not self.header.team:
            return True
        team = teams.get(self.header.team)
        return team is not None and is_vouched(self.envelope, team)


def sign_header(header: Header, key: NodeKey, team: Team | None = None) -> Manifest:
    """Return the manifest of ``header``, published by ``key`` for ``team``, which the header names.

    Raises:
        ValueError: it names another team, or ``team`` is missing.
    """
    if header.team != (team.name if team else ""):
        raise ValueError("what belongs to a team is published with the key of that team")
    payload = encode_header(header)
    decode_header(payload)
    signed = key.public + key.sign(_CONTEXT + payload)
    voucher = team.vouch(signed + payload) if team else _NO_TEAM
    envelope = _MAGIC + signed + voucher + payload
    return Manifest(manifest_id(envelope), header, key.public, envelope)


def open_envelope(envelope: bytes) -> Manifest:
    """Return the manifest in ``envelope``, its signature verified before the payload is parsed.

    The voucher is for those who have the team's key: see :meth:`Manifest.belongs`.

    Raises:
        DecodeError: it is no envelope, the signature is wrong, or the header is.
    """
    if not _PREFIX_SIZE < len(envelope) <= MAX_ENVELOPE_SIZE or not envelope.startswith(_MAGIC):
        raise DecodeError("not a signed manifest")
    publisher = envelope[len(_MAGIC) : _SIGNATURE_AT]
    signature = envelope[_SIGNATURE_AT:_VOUCHER_AT]
    payload = envelope[_PREFIX_SIZE:]
    if not verify(publisher, signature, _CONTEXT + payload):
        raise DecodeError("the signature of a manifest is wrong")
    header = decode_header(payload)
    if not header.team and envelope[_VOUCHER_AT:_PREFIX_SIZE] != _NO_TEAM:
        raise DecodeError("a public manifest has the voucher of a team")
    return Manifest(manifest_id(envelope), header, publisher, envelope)


def is_vouched(envelope: bytes, team: Team) -> bool:
    """Whether a member of ``team`` made an envelope, whose signature was verified before."""
    return compare_digest(envelope[_VOUCHER_AT:_PREFIX_SIZE], team.vouch(_vouched(envelope)))


def _vouched(envelope: bytes) -> bytes:
    return envelope[len(_MAGIC) : _VOUCHER_AT] + envelope[_PREFIX_SIZE:]
