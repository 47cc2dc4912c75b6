"""What the program saves, the reference restores, and the other way round: docs/vault-format.md is enough."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3

from overlaysync.node.node import Node
from overlaysync.units import CHUNK, KIB, MIB
from tests import images, reference, vault_reference
from tests.node.vaults import RED, member, objects, restore, save, vault, vm

pytestmark = [pytest.mark.qemu, pytest.mark.slow, pytest.mark.holds("D1")]

SPACE = vault_reference.Space(RED.name, RED.key)
SEED = bytes(range(32))


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with member(tmp_path) as made:
        yield made


def read(node: Node) -> vault_reference.Vault:
    return vault_reference.Vault(node.home.vault, SPACE)


@pytest.mark.parametrize("suffix", ["qcow2", "qed", "raw"])
def test_the_reference_restores_what_was_saved(node: Node, tmp_path: Path, suffix: str) -> None:
    master = images.create(tmp_path / "master.qcow2", 3 * MIB + 512)
    images.draw(master, "AB0C-DoE")
    if suffix == "raw":
        disk = images.convert(master, tmp_path / "vm.raw")
    else:
        disk = images.create(tmp_path / f"vm.{suffix}", 4 * MIB, backing=master)
    images.draw(disk, "-X0-Y")
    images.draw(disk, "Z", unit=512, offset=3 * MIB)
    variables = tmp_path / "vars.fd"
    variables.write_bytes(os.urandom(CHUNK + 7))

    saved = save(node, vm("router", disk, companions=[(variables, "nvram/vars.fd")]))

    (state,) = read(node).states()
    assert (state["number"], state["note"]) == (1, "")
    assert read(node).disk(state, "router", disk.name) == images.content(disk)
    assert read(node).companion(state, "router", "nvram/vars.fd") == variables.read_bytes()
    (head,) = read(node).heads().values()
    assert head["states"] == [saved.state.id.hex()] and head["counter"] == 1
    listed = {(what, hash) for what in vault_reference.HEAD_LISTS for hash in head[what]}
    stored = [one for one in objects(node).list("") if "/heads/" not in one.name]
    assert {one.name[-64:] for one in stored} == {hash for _, hash in listed}
    assert head["size"] == sum(one.size for one in stored)


def test_the_reference_restores_an_older_state(node: Node, tmp_path: Path) -> None:
    disk = images.create(tmp_path / "vm.qcow2", MIB)
    contents = []
    for pattern in ("A", "-B", "C"):
        images.draw(disk, pattern)
        contents.append(images.content(disk))
        save(node, vm("router", disk))
    states = read(node).states()
    assert [read(node).disk(state, "router", "vm.qcow2") for state in states] == contents
    assert [state["number"] for state in states] == [1, 2, 3]


def test_the_program_restores_what_the_reference_wrote(node: Node, tmp_path: Path) -> None:
    """A disk with a run of zeros, a compressed record, and a companion; nothing of it made by the program."""
    guest = os.urandom(CHUNK) + bytes(CHUNK) + b"Z" * CHUNK + os.urandom(1536)
    write_vault(vault_reference.Vault(node.home.vault, SPACE), guest)

    outcome = restore(node, tmp_path / "to")

    assert not outcome.refusals and not outcome.missing and not outcome.gathered.damaged
    assert images.content(tmp_path / "to" / "vm.raw") == guest
    assert (tmp_path / "to" / "tpm" / "state").read_bytes() == b"secret"
    (state,) = vault(node).states()
    assert state.state.note == "by hand"


def write_vault(made: vault_reference.Vault, guest: bytes) -> None:
    listed = reference.disk(guest)
    team = reference.TeamKey(RED.name, RED.key)
    header = {
        "v": 1,
        "kind": "disk",
        "team": "red",
        "name": "vm",
        "version": 1,
        "follows": [],
        "id": reference.text_id(listed.id),
        "virtual_size": len(guest),
        "unit": CHUNK,
        "data_size": reference.data_size(listed.rows, size=len(guest), unit=CHUNK),
        "list_size": len(listed.page_list),
        "parent": "",
        "parent_name": "",
        "result": reference.text_id(listed.id),
        "format": "raw",
        "cluster_size": 64 * KIB,
        "compression": "",
        "compressed_size": 0,
        "created": "2026-01-31T12:00:00Z",
        "by": "ann",
        "note": "",
        "companions": [],
    }
    envelope = reference.envelope(SEED, reference.header(header), team)
    manifest = reference.manifest_id(envelope)
    units = [guest[at : at + CHUNK] for at in range(0, len(guest), CHUNK)]
    secret, page = b"secret", listed.pages[0]
    part = blake3(secret).digest()
    packs = [
        vault_reference.make_pack(
            SPACE,
            os.urandom(32),
            [
                vault_reference.plain_record([units[0], units[3]], [listed.rows[0], listed.rows[3]]),
                vault_reference.run_record(units[2], listed.rows[2]),
            ],
        ),
        vault_reference.make_pack(
            SPACE,
            os.urandom(32),
            [
                vault_reference.plain_record(
                    [page, listed.page_list, envelope, secret],
                    [reference.derive("overlaysync v1 page", page), listed.id, manifest, part],
                )
            ],
        ),
    ]
    objects = [SPACE.name("packs", data) for data, _ in packs]
    index = vault_reference.make_index(SPACE, os.urandom(32), [entry for _, entry in packs])
    companion = {"file": "tpm/state", "role": "tpm", "size": len(secret), "parts": [part.hex()]}
    state = {
        "v": 1,
        "team": "red",
        "number": 1,
        "follows": [],
        "seen": [],
        "counter": 7,
        "saved": "2026-01-31T12:00:00Z",
        "by": "ann",
        "note": "by hand",
        "vms": [
            {
                "name": "router",
                "at": "2026-01-31T12:00:00Z",
                "consistency": "off",
                "past": [],
                "disks": [{"file": "vm.raw", "manifest": manifest.hex(), "below": []}],
                "companions": [companion],
                "left_out": [],
            }
        ],
        "indexes": [SPACE.name("indexes", index)[-64:]],
        "packs": sorted(name[-64:] for name in objects),
        "public_indexes": [],
        "public_packs": [],
    }
    data = vault_reference.make_state(SPACE, os.urandom(32), SEED, state)
    head = vault_reference.make_head(
        SPACE,
        SEED,
        {
            "counter": 7,
            "size": sum(map(len, (data, index, *(pack for pack, _ in packs)))),
            "made": "2026-01-31T12:00:00Z",
            "states": [SPACE.name("states", data)[-64:]],
            **{what: state[what] for what in vault_reference.HEAD_LISTS[1:]},
        },
    )
    for name, (pack, _) in zip(objects, packs, strict=True):
        made.put(name, pack)
    made.put(SPACE.name("indexes", index), index)
    made.put(SPACE.name("states", data), data)
    made.put(vault_reference.head_name(SPACE, head), head)
