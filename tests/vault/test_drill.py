"""Records of drills: signed, sealed, bounded."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from overlaysync.errors import DecodeError
from overlaysync.ops.drill.history import drills_in, last_passed, record_drill, take_drills
from overlaysync.ops.recovery.pulling import Place
from overlaysync.trust.keys import NodeKey, verify
from overlaysync.vault.directory import DirectoryObjects
from overlaysync.vault.drill import DrillRecord, decode_drill, encode_drill
from overlaysync.vault.objects import Kind, hash_of, object_name
from overlaysync.vault.spaces import Space
from tests.vault.samples import key_of

RED, BLUE = Space.of_team("red", bytes(32)), Space.of_team("blue", bytes(32))
RECORD = DrillRecord(
    team="red",
    started="2026-11-29T10:00:00Z",
    by="pl@bob-abc234",
    lost=("oscar",),
    verdict="passed",
    vms=("db", "web"),
    ready=("db", "web"),
    rto_s=41.5,
    rpo_s=60.0,
    booted="kvm",
    report="ab" * 32,
)


@pytest.fixture
def key() -> NodeKey:
    return key_of("ann")


def test_a_record_is_what_was_signed(key: NodeKey) -> None:
    data, signed = encode_drill(RECORD, key, RED)
    assert decode_drill(data, RED, verify) == signed
    assert (signed.node, signed.record) == (key.public, RECORD)
    for word in (b"red", b"web", b"oscar", b"passed"):
        assert word not in data


def test_no_other_byte_is_taken(key: NodeKey) -> None:
    data, _ = encode_drill(RECORD, key, RED)
    for at in (0, 5, len(data) // 2, len(data) - 1):
        changed = bytearray(data)
        changed[at] ^= 1
        with pytest.raises(DecodeError):
            decode_drill(bytes(changed), RED, verify)
    for cut in (b"", data[:20], data[:-1]):
        with pytest.raises(DecodeError):
            decode_drill(cut, RED, verify)
    with pytest.raises(DecodeError):
        decode_drill(data, BLUE, verify)


@pytest.mark.parametrize(
    "change",
    [
        {"started": "today"},
        {"vms": ("../x",)},
        {"ready": ("mail",)},
        {"rto_s": -1.0},
        {"report": "ab"},
        {"lost": ("x" * 201,)},
        {"lost": ("x",) * 65},
    ],
)
def test_what_is_out_of_bounds_is_refused(key: NodeKey, change: dict[str, object]) -> None:
    with pytest.raises(DecodeError):
        encode_drill(replace(RECORD, **change), key, RED)


def test_records_travel_between_members(key: NodeKey, tmp_path: Path) -> None:
    here, there = DirectoryObjects(tmp_path / "here"), DirectoryObjects(tmp_path / "there")
    record_drill(there, RED, key, RECORD)
    record_drill(there, RED, key, replace(RECORD, started="2026-11-30T10:00:00Z", verdict="failed"))
    # What no member has signed is not taken, whatever it is called.
    forged, _ = encode_drill(replace(RECORD, team="blue"), key, BLUE)

    there.put(object_name(RED.tag, Kind.DRILL, hash_of(forged)), forged)
    take_drills(here, RED, [Place("there", there)])
    assert [one.record.verdict for one in drills_in(here, RED)] == ["passed", "failed"]
    assert len(list(here.list(f"{RED.tag}/{Kind.DRILL}/"))) == 2
    passed = last_passed(drills_in(here, RED))
    assert passed is not None and passed.record == RECORD
