"""Replicas: versions are passed on as they came, and what is written here is nobody's version."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from overlaysync.model.reference import parse_reference
from overlaysync.node.node import Node, now, timestamp
from overlaysync.node.replica import Replica
from overlaysync.ops.known import Known
from overlaysync.ops.publish import Edition, Publisher
from overlaysync.trust.teams import new_team
from overlaysync.units import CHUNK, MIB
from tests.images import create, draw
from tests.node.observers import Heard

pytestmark = pytest.mark.qemu


@pytest.fixture
def vm(tmp_path: Path) -> Path:
    base = create(tmp_path / "base.qcow2", MIB)
    draw(base, "AB")
    overlay = create(tmp_path / "vm.qcow2", backing=base)
    draw(overlay, "-X")
    return overlay


def examine(node: Node, path: Path) -> Known:
    return node.library.examine(str(path), now=now())


def published(node: Node, path: Path) -> Known:
    known = examine(node, path)
    node.publisher.publish_lineage(known, team=None, edition=Edition(timestamp()))
    return known


def served(replica: Replica) -> set[str]:
    return {f"{offer.manifest.header.name}:{offer.manifest.header.version}" for offer in replica.offers()}


def test_an_image_is_served_with_what_it_stands_on(node: Node, vm: Path) -> None:
    replica = Replica(node, (), None, Heard())
    assert not replica.refresh()
    replica.add(published(node, vm))
    assert replica.refresh() and served(replica) == {"base:1", "vm:1"}
    assert {shared.known.path: shared.asked for shared in replica.shared} == {
        str(vm): True,
        str(vm.with_name("base.qcow2")): False,
    }
    assert not replica.refresh()
    replica.close()


def test_what_was_never_published_is_not_served(node: Node, vm: Path) -> None:
    replica = Replica(node, (), None, Heard())
    replica.add(examine(node, vm))
    assert not replica.refresh() and served(replica) == set()


def test_a_file_that_is_written_to_is_withdrawn_and_published_by_nobody(node: Node, vm: Path) -> None:
    heard = Heard()
    replica = Replica(node, (), None, heard)
    replica.add(published(node, vm))
    replica.refresh()
    replica.tells = True
    before = node.catalog.manifests.versions("", "vm")
    draw(vm, "--Y")
    assert replica.refresh() and served(replica) == {"base:1"}
    assert any("vm:1" in note and "has changed" in note for note in heard.notes)
    replica.add(examine(node, vm))  # as it is now it is no version
    for _ in range(3):
        assert not replica.refresh()
    assert served(replica) == {"base:1"} and node.catalog.manifests.versions("", "vm") == before
    replica.close()


def test_qemu_may_write_to_what_is_served(node: Node, vm: Path) -> None:
    """A VM is started from the replica when its machine is lost: a flat image as well as an overlay."""
    flat = create(vm.with_name("flat.qcow2"), MIB)
    draw(flat, "A")
    replica = Replica(node, (), None, Heard())
    for path in (vm, flat):
        replica.add(published(node, path))
    replica.refresh()
    assert served(replica) == {"base:1", "vm:1", "flat:1"}
    for path in (vm, flat):
        draw(path, "Z", offset=8 * CHUNK)  # qemu-io takes the lock of a writer
    replica.refresh()
    assert served(replica) == {"base:1"}
    replica.close()


def test_a_version_that_took_a_file_s_place_is_served_instead(node: Node, vm: Path, tmp_path: Path) -> None:
    replica = Replica(node, (), None, Heard())
    replica.add(published(node, vm))
    replica.refresh()
    draw(vm, "--Y")
    replica.add(published(node, vm))
    assert replica.refresh() and served(replica) == {"base:1", "vm:2"}
    replica.close()


def test_an_image_of_another_s_team_is_not_served(node: Node, vm: Path) -> None:
    """The machine has left the team: its voucher cannot be checked any more."""
    known = examine(node, vm)
    Publisher(node.library, node.key, node.label, {"red": new_team("red")}).publish(
        known, team="red", created=timestamp()
    )
    replica = Replica(node, (), None, Heard())
    replica.add(known)
    assert not replica.refresh() and served(replica) == set()


def test_the_next_version_is_told_and_what_was_deleted_is_called_so(node: Node, vm: Path) -> None:
    heard = Heard()
    replica = Replica(node, (), None, heard)
    replica.add(published(node, vm))
    replica.refresh()
    assert not heard.notes, "what it begins with is told by the command"
    replica.tells = True
    draw(vm, "--Y")
    replica.add(published(node, vm))
    assert replica.refresh()
    assert any("No longer shared: vm:1" in note and "has changed" in note for note in heard.notes)
    assert "Now shared with everybody: vm:2" in heard.notes
    vm.unlink()
    assert replica.refresh()
    assert any("No longer shared: vm:2" in note and "was deleted" in note for note in heard.notes)
    replica.close()


@pytest.mark.slow
def test_what_files_hold_of_the_named_things_is_served_and_work_on_them_only_said(
    node: Node, vm: Path
) -> None:
    heard = Heard()
    replica = Replica(node, (), None, heard)
    published(node, vm)
    other = create(vm.with_name("other.qcow2"), MIB)
    draw(other, "O")
    published(node, other)
    never = create(vm.with_name("never.qcow2"), MIB)
    draw(never, "N")
    examine(node, never)
    named = [parse_reference(word) for word in ("vm", "never", "absent")]

    def look(*refused: str) -> set[str]:
        replica.add_held(named, [str(vm.parent)], refused)
        replica.refresh()
        return served(replica)

    assert look() == look() == {"base:1", "vm:1"} and not heard.notes
    replica.tells = True
    draw(vm, "--Y")
    assert look("vm") == {"base:1"} and not any("publish" in note for note in heard.notes)
    assert look() == look() == {"base:1"}
    said = [note for note in heard.notes if "publish" in note]
    assert len(said) == 1 and "vm:1" in said[0] and f"overlaysync share {vm}" in said[0]
    assert node.catalog.manifests.versions("", "vm")[0].version == 1
    published(node, vm)  # by another command
    assert look() == {"base:1", "vm:2"}
    replica.close()


def test_what_is_left_out_is_not_served(node: Node, vm: Path) -> None:
    published(node, vm)
    replica = Replica(node, (), None, Heard(), leaves_out=lambda name: name == "vm")
    replica.add_held([parse_reference("vm"), parse_reference("base")], [str(vm.parent)], ())
    replica.refresh()
    assert served(replica) == {"base:1"}
    replica.close()


def test_what_a_file_also_holds_for_others_is_not_served(node: Node, vm: Path) -> None:
    """What is named is a team's: a copy of it that was once public stays out, and the master comes along."""
    red = new_team("red")
    ours = Publisher(node.library, node.key, node.label, {"red": red})
    (base, web), stray = (
        (examine(node, vm.with_name("base.qcow2")), examine(node, vm)),
        vm.with_name("my.qcow2"),
    )
    ours.publish(base, team="", created=timestamp())
    ours.publish(web, team="red", created=timestamp())
    shutil.copyfile(vm, stray)
    ours.publish(examine(node, stray), team="", created=timestamp())
    vm.unlink()
    node = replace(node, teams={"red": red})
    replica = Replica(node, (), None, Heard())
    for _ in range(2):
        replica.add_held([parse_reference("red/")], [str(vm.parent)], ())
        replica.refresh()
        shared = {(one.manifest.header.full_name, one.known.path) for one in replica.shared}
        assert shared == {("red/vm", str(stray)), ("base", base.path)}
    replica.close()
