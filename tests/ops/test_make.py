"""New, promoted and rebased images, judged by QEMU: clean, identical, and the master never written."""

from __future__ import annotations

import os
import stat
from dataclasses import replace as changed
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from overlaysync.errors import (
    BaseImageError,
    InUseError,
    UsageError,
    VerificationError,
    WouldDestroyError,
)
from overlaysync.formats.chain import Chain
from overlaysync.formats.image import Format
from overlaysync.model.digest import format_id
from overlaysync.ops.audience import stem
from overlaysync.ops.image_paths import image_path
from overlaysync.ops.known import Known
from overlaysync.ops.make import backing_name
from overlaysync.ops.publish import Publisher
from overlaysync.store.manifests import ManifestRow
from overlaysync.store.target import entry_at
from overlaysync.trust.keys import load_or_make
from overlaysync.units import CHUNK, MIB
from tests import reference
from tests.images import (
    Op,
    apply,
    content,
    convert,
    create,
    draw,
    format_of,
    own_extents,
    patch,
    run,
)
from tests.ops.chains import OVERLAYS, RAW, Geometry, Spec, build, fresh_world, specs
from tests.ops.world import NOW, World, guest, hidden_files, is_clean, sha

pytestmark = pytest.mark.qemu

FORMATS = ["raw", "qcow2", "qed"]
OVERLAY_FORMATS = ["qcow2", "qed"]
SLOW = settings(suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture
def master(world: World) -> Path:
    path = create(world.images / "debian.raw", 2 * MIB + 512)
    draw(path, "AB-oC---D")
    apply(path, [Op("write", 2 * MIB, 512, 7)])
    path.chmod(0o444)
    return path


@pytest.fixture
def overlay(world: World, master: Path) -> Path:
    path = create(world.images / "vm.qcow2", backing=master, cluster_size=4096)
    apply(path, [Op("write", 3 * CHUNK + 4096, 8192, 1), Op("zero", 0, CHUNK), Op("write", MIB, CHUNK, 2)])
    return path


def check_made(made: Known, path: Path, like: Path) -> None:
    """The image at ``path`` is sound, and its guest sees what the guest of ``like`` sees."""
    assert is_clean(path)
    formats = ["-f", format_of(path), "-F", format_of(like)]
    run("qemu-img", "compare", "-q", *formats, path, like)
    assert made.disk.id == reference.disk(content(like)).id
    assert made.path == os.path.realpath(path)
    assert hidden_files(path.parent) == []


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# -- new ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", OVERLAY_FORMATS)
@pytest.mark.parametrize("base_suffix", FORMATS)
@pytest.mark.slow
def test_new(world: World, master: Path, suffix: str, base_suffix: str) -> None:
    base = convert(master, world.images / f"base.{base_suffix}") if base_suffix != "raw" else master
    before = sha(base)
    path = world.images / f"new.{suffix}"
    made = world.new(path, base)
    check_made(made, path, base)
    assert own_extents(path) == [(0, 2 * MIB + 512, 0)]
    assert made.layer is not None and made.layer.indices == ()
    assert made.layer.parent == world.known(base).disk.id
    assert mode(path) == 0o644 and sha(base) == before
    draw(path, "Z")
    assert content(path)[:CHUNK] == b"Z" * CHUNK and sha(base) == before


def test_new_names_its_base_and_format(world: World, master: Path) -> None:
    world.new(world.images / "new.qcow2", master)
    told = run("qemu-img", "info", world.images / "new.qcow2")
    assert "backing file: debian.raw" in told and "backing file format: raw" in told


def test_new_takes_no_name_that_is_taken(world: World, master: Path) -> None:
    for taken in ("new.qcow2", "link.qcow2"):
        path = world.images / taken
        if taken.startswith("link"):
            path.symlink_to("nowhere")
        else:
            path.write_bytes(b"precious")
        with pytest.raises(WouldDestroyError):
            world.new(path, master)
    assert (world.images / "new.qcow2").read_bytes() == b"precious"


def test_new_on_a_base_that_changed_meanwhile(world: World, master: Path) -> None:
    base = world.known(master)
    master.chmod(0o644)
    patch(master, 0, b"other")
    with pytest.raises(BaseImageError):
        world.maker.new(str(world.images / "new.qcow2"), base, format=Format.QCOW2, now=NOW)
    assert not (world.images / "new.qcow2").exists()


@pytest.mark.parametrize("name", ["b:c.raw", "json:{}.raw", "ü b.raw"])
def test_names_that_qemu_would_take_for_protocols(world: World, master: Path, name: str) -> None:
    base = master.rename(master.with_name(name))
    path = world.images / "new.qed"
    check_made(world.new(path, base), path, master if master.exists() else base)


def test_a_base_elsewhere_is_named_in_full(tmp_path: Path) -> None:
    (tmp_path / "masters").mkdir()
    (tmp_path / "link").symlink_to("masters")
    base = str(tmp_path / "link" / "m.raw")
    assert backing_name(str(tmp_path / "vm.qcow2"), base) == os.fsencode(tmp_path / "masters" / "m.raw")
    assert backing_name(str(tmp_path / "masters" / "vm.qcow2"), base) == b"m.raw"
    assert backing_name("/x/vm.qcow2", "/x/nbd:m.raw") == b"./nbd:m.raw"


def test_image_paths_have_checked_names() -> None:
    assert image_path("/x", "vm", Format.QED) == "/x/vm.qed"
    with pytest.raises(UsageError):
        image_path("/x", "../vm", Format.QED)


@pytest.mark.parametrize(
    ("name", "format", "file"),
    [
        ("vm.qcow2", Format.QCOW2, "vm.qcow2"),
        ("VM.QCOW2", Format.QCOW2, "VM.QCOW2"),
        ("vm.img", Format.RAW, "vm.img"),
        ("cloud.img", Format.QCOW2, "cloud.img"),
        ("cloud.IMG", Format.QED, "cloud.IMG"),
        ("live.iso", Format.RAW, "live.iso"),
        ("vm-1.2", Format.RAW, "vm-1.2.raw"),
        ("web.snap2", Format.QCOW2, "web.snap2.qcow2"),
    ],
)
def test_an_image_path_keeps_an_ending_that_fits(name: str, format: Format, file: str) -> None:
    assert image_path("/x", name, format) == f"/x/{file}"


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("vm.qcow2", Format.QED),
        ("vm.raw", Format.QCOW2),
        ("vm.RAW", Format.QCOW2),
        ("vm.qed", Format.RAW),
        ("vm.iso", Format.QCOW2),
    ],
)
def test_an_image_path_has_no_ending_of_another_format(name: str, format: Format) -> None:
    with pytest.raises(UsageError, match=f"is {format}, so its name cannot end in .{name[3:]}") as caught:
        image_path("/x", name, format)
    assert f"vm.{format}" in caught.value.hint


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("web.qcow2", "web"),
        ("web.QCOW2", "web"),
        ("web.qed", "web"),
        ("web.raw", "web"),
        ("web.IMG", "web"),
        ("debian-12.5.iso", "debian-12.5"),
        ("web.snap1", "web.snap1"),
        ("web.snap2", "web.snap2"),
        ("debian-12.5", "debian-12.5"),
        ("web", "web"),
        ("two words.qcow2", "two-words"),
    ],
)
def test_a_stem_lacks_the_endings_of_images_alone(file: str, name: str) -> None:
    assert stem(f"/x/{file}") == name


# -- promote -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.slow
def test_promote(world: World, master: Path, overlay: Path, suffix: str) -> None:
    before = sha(master), sha(overlay)
    path = world.images / f"next.{suffix}"
    known = world.known(overlay)
    made = world.promote(overlay, path)
    check_made(made, path, overlay)
    assert made.disk.id == known.disk.id and made.layer is None and made.parent is None
    assert mode(path) == 0o444
    assert (sha(master), sha(overlay)) == before
    assert mode(master) == 0o444


@pytest.mark.parametrize("geometry", OVERLAYS, ids=str)
@pytest.mark.slow
def test_promote_from_any_geometry(world: World, master: Path, geometry: Geometry) -> None:
    path = create(world.images / f"vm.{geometry.format}", 3 * MIB, backing=master, **geometry.options)
    apply(path, [Op("write", 512, 1024, 1), Op("zero", MIB, 512), Op("write", 3 * MIB - 512, 512, 2)])
    for suffix in (geometry.format, "raw"):
        target = world.images / f"next.{suffix}"
        check_made(world.promote(path, target), target, path)


def test_promote_refuses_a_master(world: World, master: Path) -> None:
    with pytest.raises(UsageError):
        world.promote(master, world.images / "next.raw")


def test_promote_takes_no_name_that_is_taken(world: World, master: Path, overlay: Path) -> None:
    before = sha(master)
    with pytest.raises(WouldDestroyError):
        world.promote(overlay, master)
    assert sha(master) == before


@pytest.mark.parametrize("which", ["master", "overlay"])
def test_promote_notices_bytes_that_changed_meanwhile(
    world: World, master: Path, overlay: Path, which: str
) -> None:
    known = world.known(overlay)
    master.chmod(0o644)
    place = master if which == "master" else overlay
    at = 4 * CHUNK + 5 if which == "master" else overlay.read_bytes().index(b"\2" * 4096)
    assert place.read_bytes()[at] != 0xEE
    patch(place, at, b"\xee")
    with pytest.raises(InUseError):
        world.maker.promote(known, str(world.images / "next.raw"), format=Format.RAW, now=NOW)
    with Chain.open(str(overlay)) as chain:
        unseen = changed(known, files=chain.fingerprints())
    with pytest.raises(VerificationError):
        world.maker.promote(unseen, str(world.images / "next.raw"), format=Format.RAW, now=NOW)
    assert not (world.images / "next.raw").exists()


@pytest.mark.parametrize("how", ["promote", "rebase"])
@pytest.mark.slow
def test_what_a_guest_wrote_where_nothing_was_is_not_left_behind(
    world: World, master: Path, overlay: Path, how: str
) -> None:
    """Only what has data is read: a chunk that was zeros when the image was hashed would not be looked at."""
    known, base = world.known(overlay), world.known(other_masters(world, master)["alike"])
    apply(overlay, [Op("write", MIB + 2 * CHUNK, 512, 9)])
    with pytest.raises(InUseError):
        if how == "promote":
            world.maker.promote(known, str(world.images / "next.raw"), format=Format.RAW, now=NOW)
        else:
            world.maker.rebase(known, base, str(overlay), now=NOW, replaces=entry_at(overlay))


@pytest.mark.slow
def test_promote_keeps_a_manifests_promise_or_refuses(world: World, overlay: Path) -> None:
    known = world.known(overlay)
    publisher = Publisher(world.library, load_or_make(world.home.node_key), "ann@lab-abc234")
    manifest = publisher.publish(known, team=None, created="2025-01-31T12:00:00Z")
    assert manifest.header.result == format_id(known.disk.id)
    made = world.promote(overlay, world.images / "kept.raw")
    assert made.disk.id == manifest.header.result_id
    assert known.layer is not None
    lie = ManifestRow(
        id=b"i" * 32,
        envelope=b"e",
        kind="layer",
        team="",
        name="vm",
        version=9,
        publisher=b"p" * 32,
        content=known.layer.id,
        parent=known.layer.parent,
        result=b"r" * 32,
        created="2025-01-31T12:00:00Z",
    )
    world.catalog.manifests.keep(lie)
    with pytest.raises(VerificationError, match="promises"):
        world.promote(overlay, world.images / "broken.raw")
    assert not (world.images / "broken.raw").exists()


# -- rebase ------------------------------------------------------------------------------------------


def other_masters(world: World, master: Path) -> dict[str, Path]:
    """Masters to move to: alike, larger, smaller, of other content, empty."""
    made = {name: world.images / f"{name}.raw" for name in ("alike", "bigger", "smaller", "other", "empty")}
    data = content(master)
    made["alike"].write_bytes(data)
    made["bigger"].write_bytes(data + b"\5" * (CHUNK + 512))
    made["smaller"].write_bytes(data[: CHUNK + 1536])
    made["other"].write_bytes(bytes(255 - byte for byte in data[:MIB]) + data[MIB:])
    made["empty"].write_bytes(b"")
    return made


@pytest.mark.parametrize("geometry", OVERLAYS, ids=str)
@pytest.mark.slow
def test_rebase(world: World, master: Path, geometry: Geometry) -> None:
    overlay = create(world.images / f"vm.{geometry.format}", backing=master, **geometry.options)
    apply(overlay, [Op("write", 3 * CHUNK + 512, 8192, 1), Op("zero", 0, CHUNK), Op("write", MIB, 512, 2)])
    bases = other_masters(world, master)
    before = {path: sha(path) for path in (master, overlay, *bases.values())}
    for name, base in bases.items():
        path = world.images / f"vm-on-{name}.{geometry.format}"
        made = world.rebase(overlay, base, path)
        check_made(made, path, overlay)
        assert made.parent is not None and made.parent.path == os.path.realpath(base)
        assert made.layer is not None and made.layer.parent == made.parent.disk.id
        assert made.layer.unit == geometry.granule
        assert guest(path) == content(overlay)
        assert mode(path) == 0o644
    assert {path: sha(path) for path in before} == before


def test_rebase_stores_only_what_differs(world: World, master: Path, overlay: Path) -> None:
    made = world.rebase(overlay, other_masters(world, master)["alike"], world.images / "on.qcow2")
    granules = {at // 4096 for at in range(3 * CHUNK + 4096, 3 * CHUNK + 12288, 4096)}
    granules |= {at // 4096 for at in (*range(0, CHUNK, 4096), *range(MIB, MIB + CHUNK, 4096))}
    allocated = {
        at // 4096
        for offset, length, kind in own_extents(world.images / "on.qcow2")
        if kind
        for at in range(offset, offset + length, 4096)
    }
    assert allocated == granules
    assert made.layer == world.known(overlay).layer


@pytest.mark.slow
def test_rebase_in_place(world: World, master: Path, overlay: Path) -> None:
    before, base = content(overlay), other_masters(world, master)["other"]
    made = world.rebase(overlay, base, overlay, replace=True)
    assert content(overlay) == before and is_clean(overlay)
    assert made.parent is not None and made.parent.path == os.path.realpath(base)
    assert hidden_files(overlay.parent) == []


def test_rebase_refuses_what_cannot_be(world: World, master: Path, overlay: Path) -> None:
    top = create(world.images / "top.qcow2", backing=overlay)
    before = sha(overlay)
    for base in (overlay, top):
        for replace in (False, True):
            with pytest.raises(UsageError):
                world.rebase(overlay, base, overlay if replace else world.images / "x.qcow2", replace=replace)
    with pytest.raises(UsageError):
        world.rebase(master, overlay, world.images / "x.qcow2")
    with pytest.raises(WouldDestroyError):
        world.rebase(overlay, master, overlay)
    assert sha(overlay) == before and not (world.images / "x.qcow2").exists()


def test_nothing_stands_on_an_overlay_that_may_be_written(world: World, master: Path, overlay: Path) -> None:
    base = create(world.images / "base.qcow2", backing=master)
    new, moved = world.images / "new.qcow2", world.images / "moved.qcow2"
    with pytest.raises(WouldDestroyError):
        world.new(new, base)
    with pytest.raises(WouldDestroyError):
        world.rebase(overlay, base, moved)
    assert not new.exists() and not moved.exists()
    base.chmod(0o444)
    check_made(world.new(new, base), new, base)
    check_made(world.rebase(overlay, base, moved), moved, overlay)


def test_rebase_onto_a_base_that_changed_meanwhile(world: World, master: Path, overlay: Path) -> None:
    known, base = world.known(overlay), other_masters(world, master)["alike"]
    hashed = world.known(base)
    patch(base, 5 * CHUNK, b"other")
    with pytest.raises((BaseImageError, VerificationError)):
        world.maker.rebase(known, hashed, str(world.images / "x.qcow2"), now=NOW)
    assert not (world.images / "x.qcow2").exists()


# -- again -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_a_stopped_run_had_made_is_taken(world: World, master: Path, overlay: Path) -> None:
    """It may have been stopped after the name was given, and its user types the same again."""
    other = other_masters(world, master)["alike"]
    new, kept, moved = (world.images / f"{word}.qcow2" for word in ("new", "kept", "moved"))
    first = world.new(new, master), world.promote(overlay, kept), world.rebase(overlay, other, moved)
    before = {path: sha(path) for path in (new, kept, moved)}
    for path in before:
        world.catalog.forget_image(path)

    again = world.new(new, master), world.promote(overlay, kept), world.rebase(overlay, other, moved)

    assert [made.content.id for made in again] == [made.content.id for made in first]
    assert {path: sha(path) for path in before} == before
    assert all(world.library.known(path) for path in before)


@pytest.mark.slow
def test_nothing_else_is_taken_for_it(world: World, master: Path, overlay: Path) -> None:
    bases = other_masters(world, master)
    new, kept, moved = (world.images / f"{word}.qcow2" for word in ("new", "kept", "moved"))
    world.new(new, master)
    world.promote(overlay, kept)
    world.rebase(overlay, bases["alike"], moved)

    with pytest.raises(WouldDestroyError):  # the same bytes, but on another file
        world.rebase(overlay, master, moved)
    draw(new, "Z")
    with pytest.raises(WouldDestroyError):
        world.new(new, master)
    kept.chmod(0o644)
    with pytest.raises(WouldDestroyError):  # it may be written: not a master to build on
        world.promote(overlay, kept)
    draw(kept, "Z")
    kept.chmod(0o444)
    known = world.catalog.images.at(kept)
    with pytest.raises(WouldDestroyError):
        world.promote(overlay, kept)
    assert world.catalog.images.at(kept) == known, "what it should be is not forgotten"


# -- any chain ---------------------------------------------------------------------------------------


@st.composite
def journeys(draw: st.DrawFn) -> tuple[tuple[Spec, ...], tuple[Spec, ...], str]:
    """A chain, another chain to move to (now and then of like content), a format to promote to."""
    chain = draw(specs())
    other = draw(st.one_of(specs(depth=1), specs(depth=2)))
    if draw(st.booleans()):
        size = other[0].size
        alike = [op for op in chain[0].ops if op.what in ("write", "zero") and op.offset + op.length <= size]
        other = (Spec(RAW, size, tuple(alike)),)
    return chain, other, draw(st.sampled_from(FORMATS))


def check_journey(world: World, journey: tuple[tuple[Spec, ...], tuple[Spec, ...], str]) -> None:
    chain, other, suffix = journey
    paths = build(world.images, chain)
    bases = build(world.images, other, name="other")
    before = {path: sha(path) for path in (*paths, *bases)}
    bases[-1].chmod(0o444)
    top = paths[-1]
    promoted = world.images / f"promoted.{suffix}"
    check_made(world.promote(top, promoted), promoted, top)
    assert mode(promoted) == 0o444
    moved = world.images / f"moved.{format_of(top)}"
    made = world.rebase(top, bases[-1], moved)
    check_made(made, moved, top)
    assert made.layer == world.known(moved, fresh=True).layer
    assert {path: sha(path) for path in before} == before


@pytest.mark.slow
@settings(SLOW, max_examples=6)
@given(journeys())
def test_promote_and_rebase(journey) -> None:
    with fresh_world() as world:
        check_journey(world, journey)


@pytest.mark.slow
@settings(SLOW, max_examples=50)
@given(journeys())
def test_promote_and_rebase_many(journey) -> None:
    with fresh_world() as world:
        check_journey(world, journey)
