"""The wire of vaults: which spaces a node keeps, the heads in them, objects in ranges, and proofs.

Everything is asked for with GET, by anybody: what belongs to a team is sealed, and every answer is compared
with a hash or a signature by who asked. Paths (docs/protocol.md):

    /v1/vault                            the tags of the spaces, and what the node keeps
    /v1/vault/TAG/heads                  names and sizes of the heads there
    /v1/vault/TAG/drills                 names and sizes of the records of drills there
    /v1/vault/TAG/KIND/NAME?size         the size of an object
    /v1/vault/TAG/KIND/NAME?from=0&length=9   bytes of it
    /v1/vault/TAG/packs/NAME?proof=NONCE      what shows that the node has the pack
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec
from blake3 import blake3

from overlaysync.errors import DecodeError, NotFoundError
from overlaysync.model.digest import derive
from overlaysync.ops.offer import FileSegment
from overlaysync.units import MIB
from overlaysync.vault.objects import LIMITS, Kind, Stored, parse_name

MAX_SPACES = 256
MAX_HEADS = 4096
MAX_LIST_SIZE = 1 << 20
"""Bytes of a list of spaces or heads."""
NONCE_SIZE = 16
POSSESSION_SIZE = 32
"""Bytes of what shows that a node has a pack."""

_PIECE = MIB
_PROOF_CONTEXT = "overlaysync v1 vault proof"
_TAG = re.compile(r"[0-9a-f]{32}")
_RANGE = re.compile(r"from=([0-9]{1,10})&length=([0-9]{1,10})")
_PROOF = re.compile(r"proof=([0-9a-f]{32})")


@dataclass(frozen=True, slots=True)
class OpenObject:
    """An object that is open for reading.

    Attributes:
        fd: a descriptor, closed by who got it.
        size: its bytes.
    """

    fd: int
    size: int


class VaultOffer(msgspec.Struct, frozen=True):
    """What a node says of its vault.

    Attributes:
        spaces: tags of the spaces of which it has something.
        keeps: tags of those that it keeps: it takes what is new there.
        others: whether it keeps, sealed, what belongs to others.
    """

    spaces: tuple[str, ...] = ()
    keeps: tuple[str, ...] = ()
    others: bool = False


class VaultProvider(Protocol):
    """What a node serves of its vault. Called from threads."""

    def offer(self) -> VaultOffer:
        """Return what is kept, and what this node is ready to keep."""
        ...

    def heads(self, tag: str) -> Sequence[Stored]:
        """Return the heads of a space."""
        ...

    def drills(self, tag: str) -> Sequence[Stored]:
        """Return the records of drills of a space."""
        ...

    def open(self, name: str) -> OpenObject | None:
        """Open an object; None when it is not there."""
        ...

    def may_prove(self, asker: str, size: int) -> bool:
        """Whether so many bytes may be read to prove something to ``asker``."""
        ...


class _Heads(msgspec.Struct, frozen=True):
    heads: tuple[tuple[str, int], ...]


_encode = msgspec.json.encode
_offer_decoder = msgspec.json.Decoder(VaultOffer)
_heads_decoder = msgspec.json.Decoder(_Heads)


def decode_offer(data: bytes) -> VaultOffer:
    """Return what an answer says of a vault.

    Raises:
        DecodeError: it is no such answer.
    """
    try:
        offer = _offer_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise DecodeError("not what a node says of its vault") from None
    tags = (*offer.spaces, *offer.keeps)
    if max(len(offer.spaces), len(offer.keeps)) > MAX_SPACES or not all(map(_TAG.fullmatch, tags)):
        raise DecodeError("what a node says of its vault is out of bounds")
    return offer


def decode_heads(data: bytes, tag: str, kind: Kind = Kind.HEAD) -> list[Stored]:
    """Return the heads, or the records of drills, that an answer lists, all of the space ``tag``.

    Raises:
        DecodeError: it is no such answer.
    """
    try:
        heads = [Stored(*pair) for pair in _heads_decoder.decode(data).heads]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise DecodeError("not a list of heads") from None
    named = [parse_name(head.name) for head in heads]
    fits = (one is not None and (one.tag, one.kind) == (tag, kind) for one in named)
    if len(heads) > MAX_HEADS or not all(fits):
        raise DecodeError("a list of heads is out of bounds")
    if any(not 0 < head.size <= LIMITS[kind] for head in heads):
        raise DecodeError("a list of heads is out of bounds")
    return heads


def proof_of(nonce: bytes, pack: bytes | memoryview) -> bytes:
    """Return what only who has the whole pack can say to a nonce that nobody has asked with before."""
    return blake3(pack, key=derive(_PROOF_CONTEXT, nonce)).digest()


def answer(provider: VaultProvider, path: Sequence[str], query: str, asker: str) -> bytes | FileSegment:
    """Return the answer to a question: a small body, or the bytes of an open file, which the caller closes.

    Blocking.

    Raises:
        NotFoundError: there is no such thing.
        DecodeError: it is no question.
    """
    match list(path):
        case []:
            return _encode(provider.offer())
        case [tag, Kind.HEAD | Kind.DRILL as kind] if _TAG.fullmatch(tag):
            found = provider.heads(tag) if kind == Kind.HEAD else provider.drills(tag)
            rows = tuple(map(tuple, found[:MAX_HEADS]))
            return _encode(_Heads(rows))  # type: ignore[arg-type] # tuple() forgets how many fields a row has
    name = "/".join(path)
    if parse_name(name) is None:
        raise NotFoundError("no such object")
    if query == "size":
        opened = _open(provider, name)
        _close(opened)
        return str(opened.size).encode()
    if match_ := _RANGE.fullmatch(query):
        return _segment(_open(provider, name), int(match_[1]), int(match_[2]))
    if match_ := _PROOF.fullmatch(query):
        return _prove(provider, name, bytes.fromhex(match_[1]), asker)
    raise DecodeError("no question that a vault answers")


def _open(provider: VaultProvider, name: str) -> OpenObject:
    opened = provider.open(name)
    if opened is None:
        raise NotFoundError("no such object")
    return opened


def _segment(opened: OpenObject, offset: int, length: int) -> FileSegment:
    return FileSegment(opened.fd, min(offset, opened.size), max(0, min(length, opened.size - offset)))


def _prove(provider: VaultProvider, name: str, nonce: bytes, asker: str) -> bytes:
    opened = _open(provider, name)
    with open(opened.fd, "rb", buffering=0) as file:
        if not provider.may_prove(asker, opened.size):
            raise NotFoundError("no more proofs for now")
        hasher = blake3(key=derive(_PROOF_CONTEXT, nonce))
        while piece := file.read(_PIECE):
            hasher.update(piece)
        return hasher.digest()


def _close(opened: OpenObject) -> None:
    with open(opened.fd, "rb", buffering=0):
        pass
