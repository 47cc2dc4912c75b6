"""The test vectors, against the program and against the reference: document, files and code say one thing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from overlaysync.model.datamap import DataMap
from overlaysync.model.digest import ZERO, Kind, as_digests, canonicalise, format_id, hash_units, parse_id
from overlaysync.model.have import HaveMap
from overlaysync.model.manifest import Header, decode_header, encode_header, manifest_id
from overlaysync.model.pages import PageList, PageListBuilder
from overlaysync.ops.hashing import combine
from overlaysync.trust.envelope import open_envelope, sign_header
from overlaysync.trust.keys import NodeKey, node_id
from overlaysync.trust.teams import Team
from tests import reference

pytestmark = [
    pytest.mark.holds("F3"),
    pytest.mark.red_without(
        "F3", "the hash contexts of disk id, layer id, page, manifest and node id are changed, one at a time"
    ),
]

CHUNK = 65536


def cases(name: str) -> list[Any]:
    return [pytest.param(case, id=str(case.get("name", case.get("count")))) for case in load(name)]


def load(name: str) -> list[dict[str, Any]]:
    return reference.load_vectors(name)


def rows_of(case: dict[str, Any], unit: int, blank: bytes) -> list[bytes]:
    """All rows of a vector."""
    count = -(-case["virtual_size"] // unit)
    return [bytes.fromhex(case["units"].get(str(number), blank.hex())) for number in range(count)]


def build(
    rows: list[bytes], *, size: int, unit: int, parent: bytes | None
) -> tuple[PageList, dict[bytes, bytes]]:
    """What the program makes of rows."""
    kept: dict[bytes, bytes] = {}
    builder = PageListBuilder(virtual_size=size, unit=unit, parent=parent, keep=kept.__setitem__)
    for index in range(0, len(rows), 1024):
        builder.add(index // 1024, b"".join(rows[index : index + 1024]))
    return builder.build(), kept


def program_disk(guest: bytes) -> tuple[PageList, dict[bytes, bytes]]:
    digests = as_digests(hash_units(memoryview(guest), CHUNK)).copy()
    canonicalise(digests, CHUNK, last_length=len(guest) % CHUNK or CHUNK)
    return build([one.tobytes() for one in digests], size=len(guest), unit=CHUNK, parent=None)


# -- disks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases("disks"))
def test_disk_by_the_reference(case: dict[str, Any]) -> None:
    assert case == reference.disk_case(case["name"], case["virtual_size"], case["content"])


@pytest.mark.red_without("F3", "the marker for zeros has its 1 at another place, or has another digit")
@pytest.mark.red_without("F3", "the head of a page list, or its entries, are in the other byte order")
@pytest.mark.red_without("F3", "a page has 512 digests")
@pytest.mark.parametrize("case", cases("disks"))
def test_disk_by_the_program(case: dict[str, Any]) -> None:
    pages, kept = program_disk(reference.contents(case["virtual_size"], case["content"]))
    assert pages.encode().hex() == case["page_list"]
    assert format_id(pages.id) == case["id"]
    assert PageList.decode(bytes.fromhex(case["page_list"])) == pages
    loaded = [
        row for index in range(-(-pages.unit_count // 1024)) for row in pages.load(index, kept.__getitem__)
    ]
    assert [row.tobytes() for row in loaded] == rows_of(case, CHUNK, ZERO)


# -- layers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases("layers"))
def test_layer_by_the_reference(case: dict[str, Any]) -> None:
    below = case["parent"]
    assert case == reference.layer_case(
        case["name"],
        (below["virtual_size"], below["content"]),
        case["virtual_size"],
        case["granule"],
        case["tables"],
    )


def program_layer(case: dict[str, Any]) -> tuple[PageList, dict[bytes, bytes]]:
    rows = rows_of(case, case["granule"], bytes(32))
    parent = parse_id(case["parent"]["id"])
    return build(rows, size=case["virtual_size"], unit=case["granule"], parent=parent)


@pytest.mark.red_without("F3", "the magic number of a layer is changed")
@pytest.mark.parametrize("case", cases("layers"))
def test_layer_by_the_program(case: dict[str, Any]) -> None:
    pages, kept = program_layer(case)
    assert pages.encode().hex() == case["page_list"]
    assert format_id(pages.id) == case["id"]
    assert PageList.decode(bytes.fromhex(case["page_list"])) == pages
    data = DataMap(pages, kept.__getitem__)
    units = [unit for run in data.runs(0, data.count) for unit in run.units.tolist()]
    assert (data.count, units, data.size) == (len(case["slots"]), case["slots"], case["data_size"])


@pytest.mark.parametrize("case", cases("layers"))
def test_result_by_the_program(case: dict[str, Any]) -> None:
    """From the lists alone; whatever must be read comes from :class:`_Guest`."""
    below = reference.contents(case["parent"]["virtual_size"], case["parent"]["content"])
    guest = reference.guest_of(below, case["virtual_size"], reference.layer_runs(case["tables"]))
    parent, pages = program_disk(below)
    layer, own = program_layer(case)
    result = combine(
        parent,
        layer,
        (pages | own).__getitem__,
        _Guest(guest),  # type: ignore[arg-type]
        lambda digest, body, like: None,
    )
    assert format_id(result.id) == case["result"] == format_id(program_disk(guest)[0].id)


class _Guest:
    """The guest's bytes in the place of a chain."""

    def __init__(self, guest: bytes) -> None:
        self._guest = guest

    def read_into(self, offset: int, buffer: memoryview) -> None:
        assert offset + len(buffer) <= len(self._guest)
        buffer[:] = self._guest[offset : offset + len(buffer)]


# -- manifests ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases("manifests"))
def test_manifest_by_the_reference(case: dict[str, Any]) -> None:
    team = None
    if case["members"]["team"]:
        team = reference.TeamKey(case["members"]["team"], bytes.fromhex(case["team_key"]))
    made = reference.manifest_case(case["name"], bytes.fromhex(case["private_key"]), case["members"], team)
    assert case == made


@pytest.mark.red_without("F3", "no zero byte precedes what is signed")
@pytest.mark.parametrize("case", cases("manifests"))
def test_manifest_by_the_program(case: dict[str, Any]) -> None:
    header = msgspec.convert(case["members"], Header)
    assert encode_header(header).decode() == case["header"]
    assert decode_header(case["header"].encode()) == header
    key = NodeKey(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(case["private_key"])))
    team = Team(header.team, bytes.fromhex(case["team_key"])) if header.team else None
    manifest = sign_header(header, key, team)
    assert manifest.envelope.hex() == case["envelope"]
    assert manifest.belongs({team.name: team} if team else {})
    assert (manifest.publisher.hex(), node_id(manifest.publisher)) == (case["public_key"], case["node_id"])
    assert format_id(manifest.id) == case["id"] == format_id(manifest_id(manifest.envelope))
    assert open_envelope(bytes.fromhex(case["envelope"])) == manifest


# -- have maps ---------------------------------------------------------------------------------------


@pytest.mark.red_without("F3", "have maps put the first slot into the lowest bit")
@pytest.mark.parametrize("case", cases("have_maps"))
def test_have_map(case: dict[str, Any]) -> None:
    held = set(case["slots"])
    assert reference.have_map(held, case["count"]).hex() == case["bytes"]
    program = HaveMap(case["count"])
    for slot in held:
        program.add(slot)
    assert program.to_bytes().hex() == case["bytes"]
    read = HaveMap.from_bytes(bytes.fromhex(case["bytes"]), case["count"])
    assert {slot for slot in range(case["count"]) if slot in read} == held


# -- the files ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_files_are_as_the_reference_writes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_text() for path in reference.VECTORS.iterdir()}
    monkeypatch.setattr(reference, "VECTORS", tmp_path)
    reference.write_vectors()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before


def test_kinds_are_as_the_document_numbers_them() -> None:
    assert [kind.name for kind in Kind] == ["UNALLOCATED", "ZERO", "DATA"]
    assert np.frombuffer(ZERO, dtype=np.uint8).tolist() == [0] * 31 + [1]
