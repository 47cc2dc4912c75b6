"""Packs: records, one after the other, each of several items; compressed, and sealed with the pack's own key.

An item is what a digest names: a unit of an image, a page, a page list or a manifest. Items that come
together go into one record, since what lies together compresses together. Where which item is, an index says.
Exact bytes: docs/vault-format.md, "Packs".
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from overlaysync.errors import DecodeError
from overlaysync.units import KIB, MIB
from overlaysync.vault.objects import hash_of
from overlaysync.vault.spaces import SALT_SIZE, Seal, Space

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

RECORD = 512 * KIB
"""Bytes of items after which a record is closed."""
MAX_RECORD = 16 * MIB
"""Bytes of items that a record can have: the longest page list is one item."""
PACK = 16 * MIB
"""Bytes after which a pack is closed."""

HEAD = struct.Struct(f"<4sBB2x{SALT_SIZE}s")
"""What every object but a head begins with: magic, version, whether it is sealed, salt."""
VERSION = 1
PACK_MAGIC = b"OSVP"

_PLAIN, _ZSTD = b"\0", b"\1"
_LEVEL = 3
_WORTH = 32
"""A record is compressed if that saves this part of it."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record is in its pack.

    Attributes:
        number: how many records come before it.
        offset: of its stored bytes.
        stored: how many they are.
        size: bytes of its items together.
    """

    number: int
    offset: int
    stored: int
    size: int


def squeeze(items: Sequence[bytes | memoryview]) -> bytes:
    """Return the items of a record as they are sealed: how they are compressed, then their bytes."""
    plain = b"".join(items)
    packed = zstd.compress(plain, _LEVEL)
    if len(packed) <= len(plain) - len(plain) // _WORTH:
        return _ZSTD + packed
    return _PLAIN + plain


def unsqueeze(record: bytes, size: int) -> bytes:
    """Return the ``size`` bytes of a record's items.

    Raises:
        DecodeError: it holds something else.
    """
    if size > MAX_RECORD:
        raise DecodeError(f"a record of the vault cannot have {size} bytes")
    kind, body = record[:1], record[1:]
    if kind == _PLAIN and len(body) == size:
        return body
    try:
        if kind != _ZSTD or zstd.get_frame_info(body).decompressed_size != size:
            raise DecodeError("a record of the vault has another length than its index says")
        frame = zstd.ZstdDecompressor()
        plain: bytes = frame.decompress(body, max_length=size + 1)
    except zstd.ZstdError:
        raise DecodeError("a record of the vault is damaged") from None
    if len(plain) != size or not frame.eof or frame.unused_data:
        raise DecodeError("a record of the vault has another length than its index says")
    return plain


class PackBuilder:
    """One pack being put together in memory."""

    def __init__(self, space: Space) -> None:
        salt = space.new_salt()
        self._seal = space.seal(PACK_MAGIC, salt)
        self._parts: list[bytes] = [begin_object(PACK_MAGIC, space, salt)]
        self.size = HEAD.size
        self.places: list[Place] = []

    @property
    def is_full(self) -> bool:
        return self.size >= PACK

    def add(self, squeezed: bytes, size: int) -> Place:
        """Append a record of which the items have ``size`` bytes; see :func:`squeeze`."""
        number = len(self.places)
        stored = self._seal.close(number, squeezed)
        place = Place(number, self.size, len(stored), size)
        self._parts.append(stored)
        self.size += len(stored)
        self.places.append(place)
        return place

    def end(self) -> tuple[bytes, bytes]:
        """Return the pack and its hash."""
        data = b"".join(self._parts)
        return data, hash_of(data)


def begin_object(magic: bytes, space: Space, salt: bytes) -> bytes:
    """Return the bytes that an object begins with."""
    return HEAD.pack(magic, VERSION, not space.is_public, salt)


def seal_of(data: bytes, magic: bytes, space: Space) -> Seal:
    """Return the seal of the object that begins with ``data``.

    Raises:
        DecodeError: it is no such object, or of another version, or not for this space.
    """
    if len(data) < HEAD.size:
        raise DecodeError("an object of the vault is cut off")
    found, version, sealed, salt = HEAD.unpack_from(data)
    if found != magic or data[6:8] != b"\0\0" or sealed not in (0, 1):
        raise DecodeError("an object of the vault is not of the kind that its name says")
    if version != VERSION:
        raise DecodeError(f"an object of the vault has version {version}, and this program knows {VERSION}")
    if bool(sealed) == space.is_public or (space.is_public and any(salt)):
        raise DecodeError("an object of the vault belongs to another space")
    return space.seal(magic, salt)


def read_record(seal: Seal, place: Place, stored: bytes) -> bytes:
    """Return the items of a record, joined, from its stored bytes.

    Raises:
        DecodeError: they are not what was stored.
    """
    if len(stored) != place.stored:
        raise DecodeError("a pack of the vault is cut off")
    return unsqueeze(seal.open(place.number, stored), place.size)
