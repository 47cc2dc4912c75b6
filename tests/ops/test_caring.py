"""Care for a vault: what has rotted is noted, stays until a good one takes its place, and budgets hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from overlaysync.ops.recovery.budget import BudgetError, Limited, room_of, used_by, used_by_others
from overlaysync.ops.recovery.caring import READ_IN_S, Reader, heal, lacking_objects, note_damaged
from overlaysync.ops.recovery.pulling import Place
from overlaysync.ops.recovery.vaults import TeamVault
from overlaysync.units import KIB
from overlaysync.vault.directory import DirectoryObjects
from overlaysync.vault.objects import Kind, hash_of, object_name
from overlaysync.vault.spaces import PUBLIC
from tests.ops.test_team_vault import add, team_vault
from tests.vault.samples import RED

pytestmark = pytest.mark.holds("D8")


def copy(objects: DirectoryObjects, target: Path) -> DirectoryObjects:
    made = DirectoryObjects(target)
    for stored in objects.list(""):
        made.put(stored.name, objects.get(stored.name))
    return made


def rot(objects: DirectoryObjects, kind: Kind) -> str:
    """Turn a bit over in an object of a kind; returns its name."""
    name = next(one.name for one in objects.list(f"{RED.tag}/{kind}/"))
    data = bytearray(objects.get(name))
    data[len(data) // 2] ^= 4
    (objects.root / name).write_bytes(data)
    return name


@pytest.fixture
def vault(tmp_path: Path) -> TeamVault:
    made = team_vault(tmp_path / "vault")
    add(made, "monday")
    add(made, "tuesday")
    return made


@pytest.mark.red_without("D8", "what has rotted in a vault is removed before another copy is here")
@pytest.mark.parametrize("kind", [Kind.PACK, Kind.INDEX, Kind.STATE])
def test_what_has_rotted_stays_until_a_good_one_is_here(vault: TeamVault, tmp_path: Path, kind: Kind) -> None:
    objects = vault.objects
    assert isinstance(objects, DirectoryObjects)
    other = copy(objects, tmp_path / "other")
    name = rot(objects, kind)
    rotten = objects.get(name)
    assert lacking_objects(objects) == []
    assert Reader(objects).read_some(READ_IN_S) == [name]
    assert lacking_objects(objects) == [name] and objects.get(name) == rotten
    assert heal(objects, [name], []) == [name] and objects.get(name) == rotten
    # Noted for later commands too.
    again = DirectoryObjects(objects.root)
    assert heal(again, lacking_objects(again), [Place("other", other)]) == []
    assert lacking_objects(objects) == [] and objects.get(name) == other.get(name)


def test_only_what_can_be_had_again_is_noted(vault: TeamVault) -> None:
    objects = vault.objects
    assert isinstance(objects, DirectoryObjects)
    (head, *_) = vault.heads().values()
    note_damaged(objects, [head.head.name, "not a name"])
    assert not (objects.root / ".damaged.json").exists()


@pytest.mark.red_without("D8", "a head is believed to say how much its objects take")
def test_a_budget_ends_a_pull(tmp_path: Path) -> None:
    limited = Limited(DirectoryObjects(tmp_path), 10 * KIB)

    def put(data: bytes) -> None:
        limited.put(object_name(RED.tag, Kind.PACK, hash_of(data)), data)

    put(b"12345678")
    with pytest.raises(BudgetError):
        put(bytes(5 * KIB))
    put(b"ab")
    with pytest.raises(BudgetError):
        put(b"c")
    assert sum(stored.size for stored in limited.list("")) == 10


@pytest.mark.red_without("D8", "masters that are kept for others do not count")
def test_what_counts_for_whom(vault: TeamVault) -> None:
    objects = vault.objects
    team = sum(room_of(stored.size) for stored in objects.list(""))
    master = b"a master that no team here needs"
    objects.put(object_name(PUBLIC.tag, Kind.PACK, hash_of(master)), master)
    assert used_by(objects, RED.tag) == team
    assert used_by_others(objects, [RED.tag]) == room_of(len(master))
    assert used_by_others(objects, []) == team + room_of(len(master))
