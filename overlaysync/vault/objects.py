"""Objects: immutable bytes by name, wherever they lie. The one interface of all places of a vault.

A name is ``TAG/KIND/NAME``: the space, ``packs``, ``indexes``, ``states``, ``drills`` or ``heads``, and 64
hexadecimal digits, the BLAKE3 of the bytes as they are stored. Heads alone are ``TAG/heads/NODE/COUNTER``.
Nothing is ever written over, so that no place needs conditional writes. Exact rules:
docs/vault-format.md, "Objects".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import NamedTuple, Protocol, TypeAlias

from blake3 import blake3

from overlaysync.errors import DecodeError, NotFoundError, VerificationError
from overlaysync.units import KIB, MIB

COUNTER_DIGITS = 12
MAX_COUNTER = 10**COUNTER_DIGITS - 1

_HASH = re.compile(r"[0-9a-f]{64}")
_TAG = re.compile(r"[0-9a-f]{32}")
_COUNTER = re.compile(rf"[0-9]{{{COUNTER_DIGITS}}}")


class Kind(StrEnum):
    """What an object is; also its directory."""

    PACK = "packs"
    INDEX = "indexes"
    STATE = "states"
    DRILL = "drills"
    HEAD = "heads"


_KINDS = {str(kind): kind for kind in Kind}

LIMITS = {
    Kind.PACK: 64 * MIB,
    Kind.INDEX: 64 * MIB,
    Kind.STATE: 4 * MIB,
    Kind.DRILL: 64 * KIB,
    Kind.HEAD: 64 * MIB,
}
"""Bytes that an object can have."""


Part: TypeAlias = bytes | memoryview
"""A part of an object."""


class Stored(NamedTuple):
    """An object in a place: its name and its size in bytes."""

    name: str
    size: int


class Objects(Protocol):
    """A place of objects.

    Names are checked by the caller; an implementation raises :class:`NotFoundError` for what is not there and
    other errors of the one tree for a place that fails.
    """

    def put(self, name: str, data: bytes) -> bool:
        """Store an object so that it outlives a crash; False when it was there already."""
        ...

    def store(self, name: str, parts: Iterable[Part]) -> bool:
        """Store an object that comes in parts, as :meth:`put`; nothing of it when ``parts`` raises."""
        ...

    def parts(self, name: str) -> Iterator[Part]:
        """Yield an object in parts, as large as suits the place, which together may be too many bytes.

        A part is good until the next one is asked for: all may have one place in memory.

        Raises:
            NotFoundError: it is not there.
        """
        ...

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """Return an object, or ``length`` bytes from ``offset`` of it (fewer at its end).

        Raises:
            NotFoundError: it is not there.
        """
        ...

    def size(self, name: str) -> int | None:
        """Return the size of an object in bytes; None when it is not there."""
        ...

    def list(self, prefix: str) -> Iterator[Stored]:
        """Yield the objects whose names begin with ``prefix``, which ends in ``/`` or is empty, by name."""
        ...

    def delete(self, name: str) -> bool:
        """Remove an object, unless it is gone; False when the place keeps it (it is locked there)."""
        ...


def object_name(tag: str, kind: Kind, hash: bytes) -> str:
    """Return the name of an object whose stored bytes have that hash."""
    return f"{tag}/{kind}/{hash.hex()}"


def head_prefix(tag: str, node: bytes | None = None) -> str:
    """Return what the names of the heads of a space begin with; those of one node, if it is given."""
    return f"{tag}/{Kind.HEAD}/" + (f"{node.hex()}/" if node is not None else "")


def head_name(tag: str, node: bytes, counter: int) -> str:
    """Return the name of a head."""
    return f"{head_prefix(tag, node)}{counter:0{COUNTER_DIGITS}}"


class Named(NamedTuple):
    """What an object's name says: its space's tag and its kind; of a head its node's key and its counter."""

    tag: str
    kind: Kind
    hash: bytes
    counter: int = 0


def parse_name(name: str) -> Named | None:
    """Return what an object's name says; None where it is none."""
    tag, _, rest = name.partition("/")
    kind, _, last = rest.partition("/")
    if not _TAG.fullmatch(tag):
        return None
    if kind == Kind.HEAD:
        node, _, counter = last.partition("/")
        if not _HASH.fullmatch(node) or not _COUNTER.fullmatch(counter):
            return None
        return Named(tag, Kind.HEAD, bytes.fromhex(node), int(counter))
    if kind not in _KINDS or not _HASH.fullmatch(last):
        return None
    return Named(tag, _KINDS[kind], bytes.fromhex(last))


def may_begin(prefix: str) -> bool:
    """Whether names of objects may begin with ``prefix``, which ends in ``/`` or is empty."""
    tag, *rest = prefix.split("/")[:-1] or [""]
    match rest:
        case []:
            return not prefix or bool(_TAG.fullmatch(tag))
        case [kind]:
            return bool(_TAG.fullmatch(tag)) and kind in _KINDS
        case [Kind.HEAD, node]:
            return bool(_TAG.fullmatch(tag)) and bool(_HASH.fullmatch(node))
    return False


def get_whole(objects: Objects, name: str) -> bytes:
    """Return an object, compared with its name; of a head only the size is checked.

    Raises:
        NotFoundError: it is not there.
        VerificationError: what is there is something else.
    """
    named = _named(name)
    limit = LIMITS[named.kind]
    data = objects.get(name, 0, limit + 1)
    if len(data) > limit:
        raise _too_large(name, limit)
    if named.kind is not Kind.HEAD and hash_of(data) != named.hash:
        raise _damaged(name)
    return data


def checked_parts(objects: Objects, name: str) -> Iterator[Part]:
    """Yield an object in parts, of which the last one is followed by an error if they are not that object.

    A part is good until the next one is asked for.

    What is known of them before the end is that they are not too many. Of a head only the size is checked.

    Raises:
        NotFoundError: it is not there.
        VerificationError: what is there is something else.
    """
    named = _named(name)
    hasher, size, limit = blake3(), 0, LIMITS[named.kind]
    for part in objects.parts(name):
        size += len(part)
        if size > limit:
            raise _too_large(name, limit)
        hasher.update(part)
        yield part
    if named.kind is not Kind.HEAD and hasher.digest() != named.hash:
        raise _damaged(name)


def is_whole(objects: Objects, name: str) -> bool:
    """Whether an object is there and has the bytes it is named for; a head says nothing of its own."""
    try:
        for _ in checked_parts(objects, name):
            pass
    except (NotFoundError, VerificationError):
        return False
    return True


def _named(name: str) -> Named:
    named = parse_name(name)
    if named is None:
        raise DecodeError(f"'{name[:100]}' is not the name of an object")
    return named


def _too_large(name: str, limit: int) -> VerificationError:
    return VerificationError(
        f"The object {name} is larger than {limit} bytes", hint="overlaysync vault check --read"
    )


def _damaged(name: str) -> VerificationError:
    return VerificationError(
        f"The object {name} is damaged",
        why="its bytes do not match its name",
        hint="overlaysync vault check --read",
    )


def hash_of(data: bytes | memoryview) -> bytes:
    """Return the hash that names stored bytes."""
    return blake3(data).digest()


def missing(name: str) -> NotFoundError:
    """Return the error for an object that is not there."""
    return NotFoundError(f"The vault has no object {name}", hint="overlaysync vault check")
