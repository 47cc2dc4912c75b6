"""Small objects of a vault, for tests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from overlaysync.model.digest import as_digests
from overlaysync.trust.keys import NodeKey
from overlaysync.vault.contents import Contents
from overlaysync.vault.head import Head
from overlaysync.vault.objects import Objects, hash_of
from overlaysync.vault.pack import squeeze
from overlaysync.vault.spaces import PUBLIC, Space
from overlaysync.vault.state import Companion, Disk, LeftOut, SavedVm, State
from overlaysync.vault.writer import Writer

RED = Space.of_team("red", bytes(range(20)))
OTHER = Space.of_team("red", bytes(20))
"""A team of the same name, made anew."""
SPACES = {"team": RED, "public": PUBLIC}
TIME = "2026-01-31T12:00:00Z"


def key_of(name: str) -> NodeKey:
    """The node key of somebody."""
    return NodeKey(Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest()))


ANN, BOB = key_of("ann"), key_of("bob")


def digest(data: bytes) -> bytes:
    return blake3(data).digest()


def hash_like(text: str) -> bytes:
    return digest(text.encode())


def noise(text: str, size: int) -> bytes:
    """Bytes that do not compress, the same for the same text."""
    return blake3(text.encode()).digest(length=size)


def store(objects: Objects, space: Space, *records: list[bytes]) -> Contents:
    """Store records of items in one pack, with its index."""
    contents = Contents(objects, space)
    writer = Writer(contents)
    for items in records:
        keys = as_digests(b"".join(map(digest, items)))
        writer.add(keys, list(map(len, items)), squeeze(items))
    writer.finish()
    return contents


def a_vm(name: str = "router", **more: object) -> SavedVm:
    fields: dict[str, object] = {
        "name": name,
        "at": TIME,
        "disks": (Disk(file="vm.qcow2", manifest="1a" * 32, below=("2b" * 32,)),),
        "companions": (Companion(file="tpm/state", role="tpm", size=5, parts=("3c" * 32,)),),
        "left_out": (LeftOut(file="cd.iso", why="a medium"),),
    }
    return SavedVm(**(fields | more))  # type: ignore[arg-type]


def a_state(**more: object) -> State:
    fields: dict[str, object] = {
        "team": "red",
        "number": 1,
        "counter": 1,
        "saved": TIME,
        "by": "ann",
        "vms": (a_vm(),),
    }
    return State(**(fields | more))  # type: ignore[arg-type]


def a_head(key: NodeKey = ANN, space: Space = RED, **more: object) -> Head:
    fields: dict[str, object] = {"tag": space.tag, "node": key.public, "counter": 3, "size": 99, "made": TIME}
    lists = {
        "states": tuple(hash_like(text) for text in "zab"),
        "packs": tuple(sorted(hash_like(text) for text in "cdef")),
        "indexes": (hash_like("g"),),
    }
    return Head(**(fields | lists | more))  # type: ignore[arg-type]


def flips(data: bytes) -> Iterator[bytes]:
    """Copies with one bit flipped in every byte, a different bit from byte to byte."""
    for at in range(len(data)):
        wrong = bytearray(data)
        wrong[at] ^= 1 << at % 8
        yield bytes(wrong)


def renamed(name: str, data: bytes) -> str:
    """The name that an object has once its bytes are others."""
    return name[:-64] + hash_of(data).hex()
