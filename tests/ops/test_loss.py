"""Loss: what exists in one file only is never called safe, and what is elsewhere is not made a fuss of."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from overlaysync.errors import WouldDestroyError
from overlaysync.model.digest import format_id
from overlaysync.ops.loss import check_nothing_lost, lost_by_repair, lost_with, would_be_lost
from overlaysync.ops.manifest_rows import keep_manifest
from overlaysync.ops.publish import Publisher
from overlaysync.ops.replacement import Asked, Rules, check_still, judge
from overlaysync.ops.verify import verify
from overlaysync.trust.envelope import Manifest, sign_header
from overlaysync.trust.keys import load_or_make
from overlaysync.units import CHUNK, MIB
from tests.images import Op, apply, convert, create, draw, patch, run
from tests.ops.test_discard import opened_by_qemu
from tests.ops.world import NOW, World
from tests.torture.rot import as_if_unseen

pytestmark = [pytest.mark.qemu, pytest.mark.holds("A4")]

CREATED = "2025-01-31T12:00:00Z"
NEVER_PUBLISHED = "never published"
NO_OTHER = "no other machine"


@pytest.fixture
def master(world: World) -> Path:
    path = create(world.images / "master.qcow2", MIB)
    draw(path, "AB-C")
    return path


@pytest.fixture
def overlay(world: World, master: Path) -> Path:
    path = create(world.images / "vm.qcow2", backing=master)
    apply(path, [Op("write", 5 * CHUNK, CHUNK, 9)])
    return path


def own(world: World) -> bytes:
    return load_or_make(world.home.node_key).public


def publish(world: World, path: Path, name: str | None = None) -> Manifest:
    publisher = Publisher(world.library, load_or_make(world.home.node_key), "ann@lab-abc234")
    return publisher.publish(world.known(path), team=None, name=name, created=CREATED)


def from_another(world: World, like: Manifest, tmp_path: Path, **changes: object) -> Manifest:
    """A manifest that another publisher has signed, seen here."""
    header = msgspec.structs.replace(like.header, **changes)
    manifest = sign_header(header, load_or_make(tmp_path / "bob.key"), None)
    keep_manifest(world.catalog, manifest, at=CREATED)
    return manifest


def lost(world: World, path: Path, *, keeping: bool = False) -> str:
    return would_be_lost(world.library, world.known(path), own=own(world), keeping=keeping)


# -- what is safe ------------------------------------------------------------------------------------


def test_what_was_never_published_is_only_here(world: World, master: Path, overlay: Path) -> None:
    assert NEVER_PUBLISHED in lost(world, overlay)
    assert NEVER_PUBLISHED in lost(world, master)


def test_an_overlay_that_nothing_was_written_to_is_no_loss(world: World, master: Path) -> None:
    master.chmod(0o444)
    world.new(world.images / "new.qcow2", master)
    assert lost(world, world.images / "new.qcow2") == ""


def test_zeros_over_what_the_master_has_are_work(world: World, master: Path) -> None:
    vm = create(world.images / "wiped.qcow2", backing=master)
    apply(vm, [Op("zero", 0, CHUNK)])
    assert NEVER_PUBLISHED in lost(world, vm)


def test_what_this_machine_alone_published_is_only_here(world: World, overlay: Path) -> None:
    publish(world, overlay)
    assert NO_OTHER in lost(world, overlay)


def test_what_another_machine_was_seen_to_have_is_safe(world: World, overlay: Path) -> None:
    content = publish(world, overlay).header.content_id
    world.catalog.holders.note(content, b"B" * 32, "bob@lab", at=CREATED)
    assert lost(world, overlay) == ""
    apply(overlay, [Op("write", 0, 512, 1)])
    assert NEVER_PUBLISHED in lost(world, overlay), "that is not what bob has"


def test_what_another_publisher_signed_is_safe(world: World, overlay: Path, tmp_path: Path) -> None:
    from_another(world, publish(world, overlay), tmp_path)
    assert lost(world, overlay) == ""


def test_what_another_publishers_version_follows_is_safe(world: World, overlay: Path, tmp_path: Path) -> None:
    """It could not have been followed by one that never had it."""
    mine = publish(world, overlay)
    other = format_id(b"o" * 32)
    from_another(world, mine, tmp_path, id=other)
    assert NO_OTHER in lost(world, overlay)
    from_another(world, mine, tmp_path, id=other, version=2, follows=(mine.id.hex(),))
    assert lost(world, overlay) == ""


def test_another_file_here_with_the_same_disk_keeps_it(world: World, overlay: Path) -> None:
    copy = convert(overlay, world.images / "copy.raw")
    assert NEVER_PUBLISHED in lost(world, overlay), "it is not known yet"
    world.known(copy)
    assert lost(world, overlay) == ""
    patch(copy, 0, b"!")
    assert NEVER_PUBLISHED in lost(world, overlay), "it is another by now"


def test_another_name_of_the_same_file_keeps_nothing(world: World, overlay: Path) -> None:
    link = world.images / "link.qcow2"
    os.link(overlay, link)
    world.known(link)
    assert NEVER_PUBLISHED in lost(world, overlay)


def test_what_stands_on_a_file_does_not_keep_it(world: World, overlay: Path) -> None:
    world.known(create(world.images / "top.qcow2", backing=overlay))
    assert NEVER_PUBLISHED in lost(world, overlay)


def test_of_two_copies_that_both_go_none_keeps_the_other(world: World, overlay: Path) -> None:
    copy = world.images / "copy.qcow2"
    copy.write_bytes(overlay.read_bytes())
    for path in (copy, overlay):
        world.known(path)
    assert lost(world, overlay) == ""
    going = [str(copy), str(overlay)]
    assert NEVER_PUBLISHED in lost_with(world.library, going[0], own=own(world), now=NOW, going=going)


# -- internal snapshots ------------------------------------------------------------------------------


def snapshot(path: Path, *names: str) -> None:
    for name in names:
        run("qemu-img", "snapshot", "-c", name, path)


@pytest.mark.slow
def test_internal_snapshots_are_named_and_never_safe(world: World, overlay: Path, tmp_path: Path) -> None:
    snapshot(overlay, "before-exam")
    from_another(world, publish(world, overlay), tmp_path)
    convert(overlay, world.images / "copy.raw")
    world.known(world.images / "copy.raw")
    assert "'before-exam'" in lost(world, overlay)
    assert "'before-exam'" in lost(world, overlay, keeping=True)
    snapshot(overlay, *(f"s{number}" for number in range(11)))
    said = lost(world, overlay, keeping=True)
    assert "12 internal snapshots" in said and "'s6'" in said and "4 more" in said


def test_a_command_that_keeps_the_state_itself_loses_only_snapshots(world: World, overlay: Path) -> None:
    known = world.known(overlay)
    check_nothing_lost(world.library, known, own=own(world), keeping=True, what="w", hint="h")
    with pytest.raises(WouldDestroyError):
        check_nothing_lost(world.library, known, own=own(world), what="w", hint="h")


# -- discard -----------------------------------------------------------------------------------------


def test_what_is_lost_with_a_file_nobody_has_looked_at(world: World, master: Path, overlay: Path) -> None:
    """Never hashed here, so never published from here: to hash it now would tell nothing."""

    def lost_at(path: Path) -> str:
        return lost_with(world.library, str(path), own=own(world), now=NOW)

    assert NEVER_PUBLISHED in lost_at(overlay)
    assert lost_at(create(world.images / "empty.qcow2", backing=master)) == ""
    assert world.catalog.images.all() == []
    world.known(overlay)
    assert NEVER_PUBLISHED in lost_at(overlay)
    master.unlink()
    assert "cannot be compared" in lost_at(overlay)


# -- verify --repair ---------------------------------------------------------------------------------


def lost_by_healing(world: World, path: Path) -> str:
    verdict = verify(world.library, str(path), now=NOW)
    assert verdict.damage
    return lost_by_repair(world.library, verdict, own=own(world))


def test_rot_is_healed_unasked(world: World, master: Path) -> None:
    publish(world, master)
    patch(master, master.stat().st_size - 1, b"!")
    as_if_unseen(world.catalog, master)
    assert lost_by_healing(world, master) == ""


def test_rot_of_a_file_with_snapshots_is_not(world: World, master: Path) -> None:
    """What would be put in its place has none."""
    snapshot(master, "before-exam")
    publish(world, master)
    draw(master, "-Z")
    as_if_unseen(world.catalog, master)
    assert "'before-exam'" in lost_by_healing(world, master)


def test_a_days_work_committed_to_the_master_by_mistake_is_only_there(
    world: World, master: Path, overlay: Path
) -> None:
    publish(world, master)
    world.known(overlay)
    run("qemu-img", "commit", "-q", "-f", "qcow2", overlay)
    assert NEVER_PUBLISHED in lost_by_healing(world, master)
    world.known(convert(master, world.images / "copy.raw"))
    assert lost_by_healing(world, master) == ""


def test_a_file_that_is_no_image_any_more_may_still_hold_something(world: World, master: Path) -> None:
    publish(world, master)
    patch(master, 0, b"????")
    assert "cannot be compared" in lost_by_healing(world, master)
    as_if_unseen(world.catalog, master)
    assert lost_by_healing(world, master) == ""


# -- fetch --replace ---------------------------------------------------------------------------------


def newer(world: World, mine: Manifest, tmp_path: Path) -> Manifest:
    changes = {"id": format_id(b"n" * 32), "result": format_id(b"n" * 32)}
    return from_another(world, mine, tmp_path, version=2, follows=(mine.id.hex(),), **changes)


def test_a_fast_forward_takes_the_place_of_what_was_followed(
    world: World, master: Path, tmp_path: Path
) -> None:
    offered = newer(world, publish(world, master), tmp_path)
    verdict = judge(world.library, str(master), Asked(offered, Rules(replace=True), own(world), NOW))
    assert verdict.entry and verdict.file == world.known(master).files[0]


def test_a_fast_forward_over_snapshots_is_refused(world: World, master: Path, tmp_path: Path) -> None:
    snapshot(master, "before-exam")
    offered = newer(world, publish(world, master), tmp_path)
    with pytest.raises(WouldDestroyError, match="before-exam") as caught:
        judge(world.library, str(master), Asked(offered, Rules(replace=True), own(world), NOW))
    assert "--discard-changes" in caught.value.hint
    rules = Rules(replace=True, discard_changes=True)
    assert judge(world.library, str(master), Asked(offered, rules, own(world), NOW)).entry


def test_what_a_guest_writes_during_a_transfer_is_not_replaced(world: World, master: Path) -> None:
    judged = world.known(master).files[0]
    check_still(str(master), judged)
    with opened_by_qemu(master, read_only=False), pytest.raises(Exception, match="open for writing"):
        check_still(str(master), judged)
    apply(master, [Op("write", 0, 512, 1)])
    with pytest.raises(WouldDestroyError, match="written to"):
        check_still(str(master), judged)
    check_still(str(master), None)
    master.unlink()
    check_still(str(master), judged)
