"""The vectors of docs/vault-format.md, against the program and against the reference."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from overlaysync.model.digest import as_digests
from overlaysync.net.vault_wire import proof_of
from overlaysync.trust.keys import NodeKey, verify
from overlaysync.vault.head import Head, decode_head, encode_head
from overlaysync.vault.index import decode_index, merged
from overlaysync.vault.objects import Kind, hash_of, object_name
from overlaysync.vault.pack import PACK_MAGIC, read_record, seal_of
from overlaysync.vault.spaces import PUBLIC, Space
from overlaysync.vault.state import STATE_CONTEXT, State, decode_state
from tests import reference, vault_reference

pytestmark = [
    pytest.mark.holds("F3"),
    pytest.mark.red_without(
        "F3",
        "the hash contexts of vault keys, tags, object keys, vouchers and proofs are changed, one at a time",
    ),
]


def cases(kind: str) -> list[Any]:
    found = [case for case in reference.load_vectors("vault") if case["kind"] == kind]
    assert found
    return [pytest.param(case, id=case["name"]) for case in found]


def space_of(case: dict[str, Any]) -> Space:
    if "team" not in case:
        return PUBLIC
    return Space.of_team(case["team"], bytes.fromhex(case["team_key"]))


def key_of(case: dict[str, Any]) -> NodeKey:
    return NodeKey(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(case["private_key"])))


def test_the_reference_says_the_same() -> None:
    assert reference.load_vectors("vault") == vault_reference.cases()


@pytest.mark.parametrize("case", cases("space"))
def test_space(case: dict[str, Any]) -> None:
    space = space_of(case)
    assert space.key is not None
    assert (space.key.hex(), space.tag) == (case["space_key"], case["tag"])


@pytest.mark.red_without("F3", "the nonce of a record of a vault is its number in the other byte order")
@pytest.mark.red_without("F3", "the key of an object of a vault does not depend on its magic")
@pytest.mark.parametrize("case", cases("objects"))
def test_pack_and_index(case: dict[str, Any]) -> None:
    space, pack, data = space_of(case), bytes.fromhex(case["pack"]), bytes.fromhex(case["index"])
    assert object_name(space.tag, Kind.PACK, hash_of(pack)) == case["pack_name"]
    assert object_name(space.tag, Kind.INDEX, hash_of(data)) == case["index_name"]
    (found,) = decode_index(data, space)
    assert (found.name, found.size) == (hash_of(pack), len(pack))
    index, seal = merged([found]), seal_of(pack, PACK_MAGIC, space)
    items = [item for record in case["records"] for item in record["items"]]
    keys = b"".join(map(bytes.fromhex, case["keys"]))
    for spot, item in zip(index.find(as_digests(keys)), items, strict=True):
        assert spot is not None
        place = spot.place
        record = read_record(seal, place, pack[place.offset : place.offset + place.stored])
        assert record[spot.start : spot.start + spot.length].hex() == item


@pytest.mark.parametrize("case", cases("state"))
def test_state(case: dict[str, Any]) -> None:
    space, data, key = space_of(case), bytes.fromhex(case["object"]), key_of(case)
    found = decode_state(data, space, verify)
    assert found.node == key.public
    assert object_name(space.tag, Kind.STATE, found.id) == case["object_name"]
    assert found.state == msgspec.convert(case["members"], State)
    payload = vault_reference.payload_of(case["members"])
    assert msgspec.json.encode(found.state) == payload
    assert verify(key.public, key.sign(STATE_CONTEXT + payload), b"overlaysync v1 state\0" + payload)


@pytest.mark.red_without("F3", "the numbers of a head are in the other byte order")
@pytest.mark.parametrize("case", cases("head"))
def test_head(case: dict[str, Any]) -> None:
    space, data, key, said = space_of(case), bytes.fromhex(case["object"]), key_of(case), case["members"]
    found = decode_head(data, verify, space)
    assert found.vouched and found.head.name == case["object_name"]
    lists = {what: tuple(map(bytes.fromhex, said[what])) for what in vault_reference.HEAD_LISTS}
    head = Head(space.tag, key.public, said["counter"], said["size"], said["made"], **lists)
    assert found.head == head
    assert encode_head(head, key, space).data == data


@pytest.mark.parametrize("case", cases("proof"))
def test_proof(case: dict[str, Any]) -> None:
    assert proof_of(bytes.fromhex(case["nonce"]), bytes.fromhex(case["object"])) == bytes.fromhex(
        case["proof"]
    )
