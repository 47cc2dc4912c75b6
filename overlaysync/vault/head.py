"""Heads: the one thing of a vault that moves. Each node has its own, and its counter only rises.

A head lists the states that its node keeps and every object that they need, and is signed by the node. So a
holder that cannot open any of these objects can still copy all of them, and knows which ones no state needs
any more. Its voucher shows to members that a member made it. Exact bytes: docs/vault-format.md, "Heads".
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from hmac import compare_digest

from overlaysync.errors import DecodeError
from overlaysync.vault.objects import LIMITS, MAX_COUNTER, Kind, hash_of, head_name, object_name
from overlaysync.vault.signed import Signer, Verify
from overlaysync.vault.spaces import TAG_SIZE, VOUCHER_SIZE, Space

HEAD_MAGIC = b"OSVH"
HEAD_CONTEXT = b"overlaysync v1 head\0"

_HASH_SIZE, _KEY_SIZE, _SIGNATURE_SIZE = 32, 32, 64
_TIME_SIZE = 20
_PREFIX = struct.Struct(f"<4sB3x{TAG_SIZE}s{_KEY_SIZE}sQQ{_TIME_SIZE}s4xIIIII4x")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")


@dataclass(frozen=True, slots=True)
class Head:
    """What a node keeps.

    Attributes:
        tag: of the space.
        node: public key of the node.
        counter: 1 for its first head; each later one has a higher one.
        size: bytes of all objects that it lists, together.
        made: when, ISO 8601 UTC; for people only.
        states: hashes of its states, the oldest first.
        indexes, packs: hashes of what these need, rising.
        public_packs: hashes of the packs of the public space that these need, rising.
        public_indexes: hashes of the indexes that describe those, rising.
    """

    tag: str
    node: bytes
    counter: int
    size: int
    made: str
    states: tuple[bytes, ...] = ()
    indexes: tuple[bytes, ...] = ()
    packs: tuple[bytes, ...] = ()
    public_indexes: tuple[bytes, ...] = ()
    public_packs: tuple[bytes, ...] = ()

    @property
    def name(self) -> str:
        return head_name(self.tag, self.node, self.counter)

    def names(self, public_tag: str) -> list[str]:
        """Return the names of all objects that are needed."""
        parts = (
            (self.tag, Kind.STATE, self.states),
            (self.tag, Kind.INDEX, self.indexes),
            (public_tag, Kind.INDEX, self.public_indexes),
            (self.tag, Kind.PACK, self.packs),
            (public_tag, Kind.PACK, self.public_packs),
        )
        return [object_name(tag, kind, hash) for tag, kind, hashes in parts for hash in hashes]


@dataclass(frozen=True, slots=True)
class SignedHead:
    """A head whose signature has been verified.

    Attributes:
        head: what it says.
        data: its bytes.
        vouched: whether a member of the team made it; False where the team's key is not known.
    """

    head: Head
    data: bytes
    vouched: bool

    @property
    def hash(self) -> bytes:
        return hash_of(self.data)


def encode_head(head: Head, signer: Signer, space: Space) -> SignedHead:
    """Return a head as it is stored.

    Raises:
        ValueError: it is of another space or node.
        DecodeError: a field is out of bounds.
    """
    if (head.tag, head.node) != (space.tag, signer.public):
        raise ValueError("a head is made by the node and for the space that it names")
    lists = _lists(head)
    prefix = _PREFIX.pack(
        HEAD_MAGIC,
        1,
        bytes.fromhex(head.tag),
        head.node,
        head.counter,
        head.size,
        head.made.encode(),
        *map(len, lists),
    )
    body = prefix + b"".join(hash for hashes in lists for hash in hashes)
    voucher = space.vouch(body)
    data = body + voucher + signer.sign(HEAD_CONTEXT + body + voucher)
    _check(head, len(data))
    return SignedHead(head, data, vouched=True)


def decode_head(data: bytes, verify: Verify, space: Space | None = None) -> SignedHead:
    """Return the head in ``data``, its signature verified first.

    Args:
        data: as it is stored.
        verify: checks signatures.
        space: the space that it is of, where its key is known: then the voucher is checked too.

    Raises:
        DecodeError: it is no head, its signature is wrong, or it says what cannot be.
    """
    least = _PREFIX.size + VOUCHER_SIZE + _SIGNATURE_SIZE
    if not least <= len(data) <= LIMITS[Kind.HEAD]:
        raise DecodeError(f"a head cannot have {len(data)} bytes")
    magic, version, tag, node, counter, size, made, *counts = _PREFIX.unpack_from(data)
    if magic != HEAD_MAGIC or data[5:8] != bytes(3):
        raise DecodeError("not a head")
    if version != 1:
        raise DecodeError(f"a head has version {version}, and this program knows 1")
    if len(data) != least + sum(counts) * _HASH_SIZE:
        raise DecodeError("the length of a head is not what its fields say")
    signed, signature = data[:-_SIGNATURE_SIZE], data[-_SIGNATURE_SIZE:]
    if not verify(node, signature, HEAD_CONTEXT + signed):
        raise DecodeError("the signature of a head is wrong")
    body, voucher = signed[:-VOUCHER_SIZE], signed[-VOUCHER_SIZE:]
    known = space is not None and space.tag == tag.hex() and compare_digest(voucher, space.vouch(body))
    if _PREFIX.pack(magic, version, tag, node, counter, size, made, *counts) != data[: _PREFIX.size]:
        raise DecodeError("a head is not in canonical form")
    at, lists = _PREFIX.size, []
    for count in counts:
        lists.append(tuple(body[at + n * _HASH_SIZE : at + (n + 1) * _HASH_SIZE] for n in range(count)))
        at += count * _HASH_SIZE
    head = Head(tag.hex(), node, counter, size, made.decode("latin-1"), *lists)
    _check(head, len(data))
    return SignedHead(head, data, known)


def newest(heads: Iterable[SignedHead]) -> dict[bytes, SignedHead]:
    """Return the head with the highest counter of each node, by its public key."""
    found: dict[bytes, SignedHead] = {}
    for one in heads:
        before = found.get(one.head.node)
        if before is None or one.head.counter > before.head.counter:
            found[one.head.node] = one
    return found


def _lists(head: Head) -> tuple[tuple[bytes, ...], ...]:
    return head.states, head.indexes, head.packs, head.public_indexes, head.public_packs


def _check(head: Head, size: int) -> None:
    """Refuse a head with a field out of bounds.

    Raises:
        DecodeError: so it is.
    """
    states, *others = _lists(head)
    rising = all(list(hashes) == sorted(set(hashes)) for hashes in others)
    good = 1 <= head.counter <= MAX_COUNTER and len(set(states)) == len(states) and rising
    if not good or not _TIME.fullmatch(head.made):
        raise DecodeError("a head is not in canonical form")
    if size > LIMITS[Kind.HEAD]:
        raise DecodeError(f"a head cannot have {size} bytes")
