"""Digests of chunks and granules, and the two markers that stand for no digest.

A digest is the 32-byte BLAKE3 of a unit's bytes. Two values are reserved, as in QED's L2 tables: all zeros is
UNALLOCATED, zeros ending in 1 is ZERO. Digest arrays have shape (units, 32), dtype uint8.
Source: docs/manifest-format.md.
"""

from __future__ import annotations

import re
from enum import IntEnum
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from overlaysync.errors import UsageError

DIGEST_SIZE = 32
UNALLOCATED = bytes(32)
ZERO = bytes(31) + b"\x01"

Digests: TypeAlias = NDArray[np.uint8]
Kinds: TypeAlias = NDArray[np.uint8]


class Kind(IntEnum):
    """What a layer says of a unit; the value is also what kind arrays hold."""

    UNALLOCATED = 0
    ZERO = 1
    DATA = 2


MARKERS = {Kind.UNALLOCATED: UNALLOCATED, Kind.ZERO: ZERO}


def hash_units(data: memoryview, unit: int) -> bytes:
    """Return the digests of the consecutive units in ``data``, joined; the last unit may be short.

    One hasher is reused: its state is larger than a digest and costs more to allocate than to reset. Between
    two units little is left to do while other threads wait for the interpreter.
    """
    hasher = blake3()
    update, digest, reset = hasher.update, hasher.digest, hasher.reset
    digests = []
    for part in [data[offset : offset + unit] for offset in range(0, len(data), unit)]:
        update(part)
        digests.append(digest())
        reset()
    return b"".join(digests)


@lru_cache(maxsize=16)
def zero_digest(length: int) -> bytes:
    """Return the digest of ``length`` zero bytes, which canonical lists replace by ZERO."""
    return blake3(bytes(length)).digest()


def as_digests(data: bytes | bytearray | memoryview) -> Digests:
    """View joined digests as an array of shape (units, 32)."""
    return np.frombuffer(data, dtype=np.uint8).reshape(-1, DIGEST_SIZE)


def equal_rows(left: Digests, right: Digests | bytes) -> NDArray[np.bool_]:
    """Which rows of ``left`` equal those of ``right`` (or the one digest ``right``)."""
    if isinstance(right, bytes):
        right = np.frombuffer(right, dtype=np.uint8)
    a, b = np.ascontiguousarray(left).view(np.uint64), np.ascontiguousarray(right).view(np.uint64)
    result: NDArray[np.bool_] = (a == b).all(axis=-1)
    return result


def kinds_of(digests: Digests) -> Kinds:
    """Return the kind of every unit, from its digest; shape (units,), dtype uint8."""
    words = np.ascontiguousarray(digests).view(np.uint64)
    blank = (words[:, :3] == 0).all(axis=1)
    last = words[:, 3]
    kinds = np.full(len(words), Kind.DATA, dtype=np.uint8)
    kinds[blank & (last == 0)] = Kind.UNALLOCATED
    kinds[blank & (last == np.frombuffer(ZERO, dtype=np.uint64)[3])] = Kind.ZERO
    return kinds


def canonicalise(digests: Digests, unit: int, *, last_length: int | None = None) -> None:
    """Replace digests of all-zero units by ZERO, in place.

    Args:
        digests: consecutive units' digests, writable.
        unit: length of every unit but the last.
        last_length: length of the last unit when it may be shorter.
    """
    marker = np.frombuffer(ZERO, dtype=np.uint8)
    digests[equal_rows(digests, zero_digest(unit))] = marker
    if last_length not in (None, unit) and len(digests):
        assert last_length is not None
        if digests[-1].tobytes() == zero_digest(last_length):
            digests[-1] = marker


# -- ids ---------------------------------------------------------------------------------------------

ID_PREFIX = "b3:"
MIN_ID_DIGITS = 8
_ID = re.compile(r"b3:[0-9a-fA-F]{64}")


def derive(context: str, data: bytes | memoryview) -> bytes:
    """BLAKE3 of ``data`` under a context, so that no two kinds of object can have one id."""
    return blake3(data, derive_key_context=context).digest()


def format_id(digest: bytes, *, digits: int = 64) -> str:
    """``b3:`` and hexadecimal digits."""
    return ID_PREFIX + digest.hex()[:digits]


def short_id(digest: bytes) -> str:
    """Return the form for people: eight digits."""
    return format_id(digest, digits=MIN_ID_DIGITS)


def parse_id(text: str) -> bytes:
    """Return the 32 bytes of a complete id.

    Raises:
        UsageError: it is not ``b3:`` and 64 hexadecimal digits.
    """
    if not _ID.fullmatch(text):
        raise UsageError(f"{text[:80]!a} is not an id", hint="an id is b3: and 64 hexadecimal digits")
    return bytes.fromhex(text.removeprefix(ID_PREFIX))
