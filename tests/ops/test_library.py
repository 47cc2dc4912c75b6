"""What is known of images: used again while nothing changed, and never after anything did."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from overlaysync.errors import BaseImageError, ImageError, InUseError, NotAllowedError
from overlaysync.formats.folders import image_files
from overlaysync.formats.image import Format
from overlaysync.model.digest import format_id
from overlaysync.ops import library as library_module
from overlaysync.ops.hashing import hash_disk
from overlaysync.ops.known import Known
from overlaysync.ops.publish import Publisher
from overlaysync.ops.scrub import recheck
from overlaysync.ops.verify import verify
from overlaysync.trust.keys import load_or_make
from overlaysync.units import CHUNK, MIB
from tests import reference
from tests.images import Op, apply, content, convert, create, draw, patch, run
from tests.ops.world import NOW, World

pytestmark = pytest.mark.qemu

CREATED = "2025-01-31T12:00:00Z"


@pytest.fixture
def master(world: World) -> Path:
    path = create(world.images / "master.raw", MIB)
    draw(path, "AB-C")
    return path


@pytest.fixture
def overlay(world: World, master: Path) -> Path:
    path = create(world.images / "vm.qcow2", backing=master, cluster_size=4096)
    apply(path, [Op("write", 512, 512, 9)])
    return path


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is hashed from now on."""
    names: list[str] = []

    def noting(real):
        def note(chain, *rest):
            names.append(os.path.basename(chain.top.path))
            return real(chain, *rest)

        return note

    for name in ("hash_disk", "hash_layer"):
        monkeypatch.setattr(library_module, name, noting(getattr(library_module, name)))
    return names


def correct(world: World, path: Path) -> bool:
    return world.known(path).disk.id == reference.disk(content(path)).id


def test_hashed_once(world: World, overlay: Path, hashed: list[str]) -> None:
    first = world.known(overlay)
    assert hashed == ["master.raw", "vm.qcow2"]
    assert world.known(overlay) == first
    assert world.known(overlay.parent / "master.raw") == first.parent
    assert len(hashed) == 2


def test_fresh_hashes_whatever_is_known(world: World, overlay: Path, hashed: list[str]) -> None:
    first = world.known(overlay)
    assert world.known(overlay, fresh=True) == first
    assert len(hashed) == 4


def test_a_touched_file_is_hashed_again(world: World, master: Path, hashed: list[str]) -> None:
    world.known(master)
    os.utime(master, (1, 1))
    world.known(master)
    assert hashed == ["master.raw"] * 2


def test_a_changed_file_with_its_old_times_is_hashed_again(world: World, master: Path) -> None:
    """The time of the inode's change cannot be set back."""
    world.known(master)
    status = master.stat()
    patch(master, 5, b"new")
    os.utime(master, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert correct(world, master)


def test_a_file_put_in_its_place_is_hashed_again(world: World, master: Path) -> None:
    world.known(master)
    other = convert(master, world.images / "other.raw")
    patch(other, 5, b"new")
    status = master.stat()
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.rename(master)
    assert correct(world, master)


@pytest.mark.parametrize("where", ["seen", "hidden"])
def test_a_master_that_changes_under_an_overlay(
    world: World, master: Path, overlay: Path, where: str, hashed: list[str]
) -> None:
    before = world.known(overlay)
    patch(master, 2 * CHUNK if where == "seen" else 520, b"new")
    assert world.library.known(overlay) is None
    refused(world, overlay, before.parent, world.known(master))
    after = world.library.examine(overlay, now=NOW, accept_master=True)
    assert correct(world, overlay) and correct(world, master)
    assert after.parent is not None and before.parent is not None and after.layer is not None
    assert after.layer.parent == after.parent.disk.id != before.parent.disk.id
    assert (after.disk.id == before.disk.id) == (where == "hidden")
    assert hashed.count("vm.qcow2") == 2


@pytest.mark.red_without("R6", "an overlay is hashed again when its master is repaired")
@pytest.mark.red_without(
    "R7", "overlays are hashed again when their master is repaired, so rot in them counts as content"
)
def test_a_master_healed_under_an_overlay_leaves_what_is_known_of_the_overlay(
    world: World, master: Path, overlay: Path, hashed: list[str]
) -> None:
    """Hashed again, what has rotted in the overlay would be taken for its content."""
    before = world.known(overlay)
    healed = master.with_name("healed.raw")
    healed.write_bytes(master.read_bytes())
    healed.rename(master)
    hashed.clear()

    after = world.known(overlay)

    assert hashed == ["master.raw"]
    assert (after.layer, after.disk) == (before.layer, before.disk)
    assert world.library.known(overlay) is not None


# -- an overlay knows its master ---------------------------------------------------------------------


def refused(world: World, overlay: Path, was: Known | None, now: Known) -> None:
    """Refused with both ids, again and again: nothing is kept by which the next attempt would succeed."""
    assert was is not None and was.disk.id != now.disk.id
    for fresh in (False, True, False):
        with pytest.raises(BaseImageError) as caught:
            world.known(overlay, fresh=fresh)
        assert format_id(was.disk.id) in str(caught.value) and format_id(now.disk.id) in str(caught.value)
        assert "--accept-master" in caught.value.hint


def change(master: Path, how: str) -> None:
    """Other content under the master's name."""
    if how == "written to":
        patch(master, CHUNK, b"new")
        return
    other = convert(master, master.with_name("other.raw"))
    patch(other, CHUNK, b"new")
    if how == "copied over":
        master.write_bytes(other.read_bytes())
    else:
        other.rename(master)


CHANGES = ["written to", "copied over", "moved over"]


@pytest.mark.parametrize("how", CHANGES)
@pytest.mark.parametrize("looked", [False, True], ids=["", "master looked at"])
@pytest.mark.parametrize("used", [False, True], ids=["", "overlay written to"])
@pytest.mark.slow
def test_a_master_replaced_under_an_overlay(
    world: World, master: Path, overlay: Path, how: str, looked: bool, used: bool
) -> None:
    was = world.known(overlay).parent
    if used:
        apply(overlay, [Op("write", 5 * CHUNK, 512, 3)])
    change(master, how)
    if looked:
        world.known(master)
    refused(world, overlay, was, world.known(master))


@pytest.mark.parametrize("how", CHANGES)
def test_a_master_replaced_under_an_overlay_that_was_made_here(world: World, master: Path, how: str) -> None:
    master.chmod(0o444)
    vm = world.images / "new.qcow2"
    was = world.new(vm, master).parent
    master.chmod(0o644)
    change(master, how)
    refused(world, vm, was, world.known(master))


@pytest.mark.parametrize("how", CHANGES)
@pytest.mark.parametrize("known", ["the top", "all"])
@pytest.mark.slow
def test_a_master_replaced_two_layers_below(
    world: World, master: Path, overlay: Path, how: str, known: str
) -> None:
    top = create(world.images / "top.qed", backing=overlay)
    was = world.known(top).parent
    assert was is not None
    if known == "all":
        world.known(overlay)
    change(master, how)
    refused(world, top, was.parent, world.known(master))
    refused(world, overlay, was.parent, world.known(master))


@pytest.mark.parametrize("how", CHANGES)
def test_a_published_master_replaced_under_an_overlay_that_is_new_here(
    world: World, master: Path, how: str
) -> None:
    was = world.known(master)
    Publisher(world.library, load_or_make(world.home.node_key), "ann").publish(
        was, team=None, created=CREATED
    )
    change(master, how)
    vm = create(world.images / "unknown.qcow2", backing=master)
    refused(world, vm, was, world.known(master))


def test_a_moved_overlay_still_knows_its_master(world: World, master: Path, overlay: Path) -> None:
    was = world.known(overlay).parent
    moved = overlay.rename(overlay.with_name("moved.qcow2"))
    change(master, "written to")
    refused(world, moved, was, world.known(master))


def test_another_file_in_an_overlays_place_is_not_that_overlay(
    world: World, master: Path, overlay: Path
) -> None:
    world.known(overlay)
    base = convert(master, world.images / "base.raw")
    patch(base, CHUNK, b"new")
    other = create(world.images / "other.qcow2", backing=base)
    other.rename(overlay)
    assert correct(world, overlay)


# -- what something is put on ------------------------------------------------------------------------


@pytest.mark.parametrize("how", CHANGES)
@pytest.mark.parametrize("known_by", ["publishing", "an overlay", "making"])
def test_nothing_is_put_on_a_master_that_is_not_as_published(
    world: World, master: Path, how: str, known_by: str
) -> None:
    was = world.known(master)
    if known_by == "publishing":
        publisher = Publisher(world.library, load_or_make(world.home.node_key), "ann")
        publisher.publish(was, team=None, created=CREATED)
    elif known_by == "an overlay":
        world.known(create(world.images / "above.qcow2", backing=master))
    else:
        vm = create(world.images / "above.qcow2", backing=master)
        apply(vm, [Op("write", 0, 512, 3)])
        master = world.images / "made.raw"
        was = world.promote(vm, master)
        master.chmod(0o644)
    world.library.masters.check_as_published(was)
    change(master, how)
    for _ in range(2):
        with pytest.raises(BaseImageError) as caught:
            world.library.masters.check_as_published(world.known(master))
        assert format_id(was.disk.id) in str(caught.value)
        assert format_id(world.known(master).disk.id) in str(caught.value)
        assert "--repair" in caught.value.hint and "--accept-master" in caught.value.hint


def test_an_overlay_below_another_can_be_healed_and_that_is_said(world: World, master: Path) -> None:
    below = create(world.images / "below.qcow2", backing=master)
    apply(below, [Op("write", 0, 512, 3)])
    above = create(world.images / "above.qcow2", backing=below)
    publisher = Publisher(world.library, load_or_make(world.home.node_key), "ann")
    publisher.publish(world.known(below), team=None, created=CREATED)
    world.known(above)
    apply(below, [Op("write", 0, 512, 4)])
    with pytest.raises(BaseImageError) as caught:
        world.known(above)
    assert f"overlaysync verify --repair '{below}'" in caught.value.hint


def test_a_master_of_which_nothing_is_known_may_be_stood_on(world: World, master: Path) -> None:
    world.known(master)
    patch(master, 0, b"new")
    world.library.masters.check_as_published(world.known(master))


def test_a_format_named_for_the_file_counts(world: World) -> None:
    """Raw bytes that look like another format are refused as raw, known or not."""
    inner = create(world.images / "inner.qcow2", MIB)
    world.known(inner)
    inner.rename(world.images / "inner.raw")
    with pytest.raises(ImageError):
        world.known(world.images / "inner.raw")


def test_a_file_that_changes_while_it_is_read_is_not_believed(
    world: World, master: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(chain, *rest):
        pages = hash_disk(chain, *rest)
        patch(master, 0, b"new")
        return pages

    monkeypatch.setattr(library_module, "hash_disk", change)
    with pytest.raises(InUseError):
        world.known(master)
    assert world.catalog.images.at(master) is None


def test_holders_are_those_that_still_fit(world: World, master: Path, overlay: Path) -> None:
    copy = convert(master, world.images / "copy.qcow2")
    same = create(world.images / "same.qcow2", backing=master)
    disk = world.known(master).disk.id
    for path in (copy, same, overlay):
        world.known(path)
    found = [os.path.basename(row.path) for row in world.library.holders(disk)]
    assert sorted(found[:2]) == ["copy.qcow2", "master.raw"] and found[2:] == ["same.qcow2"]
    patch(copy, copy.stat().st_size - 1, b"!")
    same.unlink()
    assert [os.path.basename(row.path) for row in world.library.holders(disk)] == ["master.raw"]


def test_verified_at_is_when_it_was_hashed(world: World, master: Path) -> None:
    world.known(master)
    world.library.examine(master, now=NOW + 100)
    row = world.catalog.images.at(master)
    assert row is not None and row.verified_at == NOW


# -- what is taken for an image ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["page.qcow2", "notes", "odd.raw"])
def test_what_was_insisted_on_once_is_taken_for_an_image_ever_after(world: World, name: str) -> None:
    path = world.images / name
    path.write_bytes(b"<html>" * 1000)
    with pytest.raises(ImageError, match="does not"):
        world.library.examine(path, now=NOW)
    assert world.library.known(path) is None
    known = world.library.examine(path, now=NOW, format=Format.RAW)
    assert world.library.examine(path, now=NOW).disk.id == known.disk.id
    row = world.library.known(path)
    assert row is not None and row.format == "raw"
    with world.library.source(row, layer=False) as source:
        assert source is not None
    path.write_bytes(b"<body>" * 1001)
    assert world.library.examine(path, now=NOW).disk.id != known.disk.id
    world.catalog.forget_image(str(path))
    with pytest.raises(ImageError):
        world.library.examine(path, now=NOW)


def test_what_was_insisted_on_is_not_taken_for_another_format(world: World) -> None:
    path = world.images / "page.qcow2"
    path.write_bytes(b"<html>" * 1000)
    world.library.examine(path, now=NOW, format=Format.RAW)
    path.unlink()
    create(world.images / "other.qed", MIB).rename(path)
    with pytest.raises(ImageError, match="but it is qed"):
        world.library.examine(path, now=NOW)


def test_an_overlay_on_what_was_insisted_on_is_known(world: World) -> None:
    base = world.images / "base"
    base.write_bytes(b"m" * 1000)
    overlay = world.images / "vm.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", overlay)
    with pytest.raises(NotAllowedError):
        world.known(overlay)
    world.library.examine(base, now=NOW, format=Format.RAW)
    known = world.known(overlay)
    assert known.parent is not None and known.parent.path == str(base)
    row = world.library.known(overlay)
    assert row is not None
    with world.library.source(row, layer=True) as source:
        assert source is not None
    assert not verify(world.library, str(overlay), now=NOW).damage
    load = world.library.load_page
    with world.library.open(overlay) as chain:
        assert not recheck(chain, known.content, load, pause=lambda size: None).damage
    moved = world.rebase(overlay, create(world.images / "to.qcow2", MIB), world.images / "moved.qcow2")
    assert moved.disk.id == known.disk.id
    assert world.promote(overlay, world.images / "made.qcow2").disk.id == known.disk.id


def test_the_images_in_a_directory(world: World) -> None:
    create(world.images / "base.qcow2", MIB)
    create(world.images / "other.qed", MIB)
    for source, target in (("base.qcow2", "DISK.QCOW2"), ("other.qed", "web.snap1")):
        (world.images / source).rename(world.images / target)
    (world.images / "README").write_text("not an image")
    (world.images / "live.iso").write_bytes(bytes(2048))
    (world.images / "named.raw").write_text("whatever it is")
    (world.images / ".hidden.qcow2").write_bytes(b"")
    (world.images / "link.snap2").symlink_to("web.snap1")
    (world.images / "directory.qcow2").mkdir()
    os.mkfifo(world.images / "pipe.snap3")
    names = [os.path.basename(path) for path in image_files([str(world.images)])]
    assert names == ["DISK.QCOW2", "named.raw", "web.snap1"]
