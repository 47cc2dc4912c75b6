"""Signed envelopes: magic, public key, signature, payload. Verified first, parsed after.

Layout (docs/manifest-format.md, "Envelope"): 4 bytes ``OSM1``, 32 bytes Ed25519 public key, 64 bytes
signature over ``overlaysync v1 manifest`` + NUL + payload, then the payload (a manifest header).
"""

from __future__ import annotations

from dataclasses import dataclass

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

_MAGIC = b"OSM1"
_PREFIX_SIZE = len(_MAGIC) + PUBLIC_KEY_SIZE + SIGNATURE_SIZE
MAX_ENVELOPE_SIZE = _PREFIX_SIZE + MAX_HEADER_SIZE
_CONTEXT = MANIFEST_CONTEXT.encode() + b"\0"


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


def sign_header(header: Header, key: NodeKey) -> Manifest:
    """The manifest of ``header``, published by ``key``."""
    payload = encode_header(header)
    decode_header(payload)
    envelope = _MAGIC + key.public + key.sign(_CONTEXT + payload) + payload
    return Manifest(manifest_id(envelope), header, key.public, envelope)


def open_envelope(envelope: bytes) -> Manifest:
    """The manifest in ``envelope``, signature verified before the payload is parsed.

    Raises:
        DecodeError: it is no envelope, the signature is wrong, or the header is.
    """
    if not _PREFIX_SIZE < len(envelope) <= MAX_ENVELOPE_SIZE or not envelope.startswith(_MAGIC):
        raise DecodeError("not a signed manifest")
    publisher = envelope[len(_MAGIC) : len(_MAGIC) + PUBLIC_KEY_SIZE]
    signature = envelope[len(_MAGIC) + PUBLIC_KEY_SIZE : _PREFIX_SIZE]
    payload = envelope[_PREFIX_SIZE:]
    if not verify(publisher, signature, _CONTEXT + payload):
        raise DecodeError("the signature of a manifest is wrong")
    return Manifest(manifest_id(envelope), decode_header(payload), publisher, envelope)
