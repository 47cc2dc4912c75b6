"""Adopt: which master an overlay belongs to, told by its layer id; QEMU judges what is written."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from overlaysync.errors import BaseImageError, InUseError, UsageError, WouldDestroyError
from overlaysync.model.pin import Pin
from overlaysync.ops.adopt import (
    Proof,
    already_stands,
    candidates,
    note_history,
    note_unverified,
    on_its_master,
    prove,
    read_over,
)
from overlaysync.ops.adopt_messages import unproven
from overlaysync.ops.claims import Claim, Claims, Grade
from overlaysync.ops.discard import check_discardable, discard
from overlaysync.ops.expected import Basis
from overlaysync.ops.manifest_rows import keep_manifest
from overlaysync.ops.publish import Publisher
from overlaysync.ops.strays import Stray, look
from overlaysync.trust.book import Book
from overlaysync.trust.envelope import Manifest
from overlaysync.trust.keys import load_or_make
from overlaysync.trust.teams import Team
from overlaysync.units import CHUNK, MIB
from tests.images import Op, apply, content, create, draw, run
from tests.ops.world import NOW, World, is_clean, sha

pytestmark = [pytest.mark.qemu, pytest.mark.holds("C2")]

SIZE = 2 * MIB
CREATED = "2026-09-01T08:00:00Z"
BEFORE, GUESSED, AFTER = "2026-08-31T08:00:00Z", "2026-08-31T09:00:00Z", "2026-08-31T09:00:01Z"
CLUSTERS = [512, 4096, CHUNK]


@pytest.fixture
def master(world: World) -> Path:
    (world.images / "masters").mkdir()
    return make_master(world.images / "masters" / "base.qcow2", "AB-oC---D")


def make_master(path: Path, pattern: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    draw(create(path, SIZE), pattern)
    path.chmod(0o444)
    return path


def make_overlay(path: Path, master: Path, *, cluster_size: int = 4096) -> Path:
    """An overlay that hides whole and half units of its master."""
    path.parent.mkdir(exist_ok=True)
    create(path, backing=master, cluster_size=cluster_size)
    apply(path, [Op("write", 3 * CHUNK + 4096, 8192, 1), Op("zero", 0, CHUNK), Op("write", MIB, 512, 2)])
    return path


def lost(path: Path, *ops: Op) -> Path:
    """An overlay with those writes on a master that is gone."""
    master = create(path.with_name("gone.qcow2"), SIZE)
    apply(create(path, backing=master, cluster_size=4096), ops)
    master.unlink()
    return path


def publish(world: World, path: Path, name: str = "vm") -> Manifest:
    publisher = Publisher(world.library, load_or_make(world.home.node_key), "ann@pc-abcdef")
    return publisher.publish(world.known(path), team="", created=CREATED, name=name)


def own_key(world: World) -> bytes:
    return load_or_make(world.home.node_key).public


def another(world: World, root: str = "other") -> World:
    """A second node on the same disk, which knows nothing yet."""
    return World.make(world.images / root)


def claims_of(
    world: World,
    stray: Stray,
    offered: tuple[Manifest, ...] = (),
    *,
    book: Book | None = None,
    teams: Mapping[str, Team] = MappingProxyType({}),
) -> list[Claim]:
    claims = Claims(stray, world.library, book or Book.of(own_key(world)), teams)
    return [*claims.here(), *claims.of(offered)]


def find(world: World, overlay: Path, *directories: Path, offered: tuple[Manifest, ...] = ()) -> Proof | None:
    stray = look(str(overlay), world.library)
    claims = claims_of(world, stray, offered)
    return on_its_master(world.library, stray, claims, list(map(str, directories)), now=NOW)


def adopt(
    world: World, overlay: Path, to: Path, *directories: Path, offered: tuple[Manifest, ...] = ()
) -> Proof:
    proof = find(world, overlay, *directories, offered=offered)
    assert proof is not None
    world.maker.adopt(proof.known, str(to), now=NOW)
    return proof


def check_adopted(new: Path, master: Path, want: bytes) -> None:
    assert is_clean(new)
    assert content(new) == want
    assert json.loads(run("qemu-img", "info", "--output=json", new))["full-backing-filename"] == str(master)


# -- found by what is known here ---------------------------------------------------------------------


@pytest.mark.parametrize("cluster_size", CLUSTERS)
def test_the_directory_of_the_masters_was_renamed(world: World, master: Path, cluster_size: int) -> None:
    overlay = make_overlay(world.images / "vm.qcow2", master, cluster_size=cluster_size)
    want, before = content(overlay), world.known(overlay)
    moved = master.parent.rename(world.images / "masters2") / master.name
    with pytest.raises(BaseImageError) as caught:
        world.known(overlay)
    assert f"overlaysync adopt '{overlay}'" in caught.value.hint
    old, new = sha(overlay), world.images / "new.qcow2"
    proof = adopt(world, overlay, new, moved.parent)
    check_adopted(new, moved, want)
    assert world.known(new).content.id == before.content.id
    assert proof.known.parent is not None and proof.known.parent.path == str(moved)
    assert sha(overlay) == old


@pytest.mark.parametrize("cluster_size", CLUSTERS)
@pytest.mark.slow
def test_a_copied_overlay_is_known_by_a_manifest_that_a_peer_offers(
    world: World, master: Path, cluster_size: int
) -> None:
    overlay = make_overlay(world.images / "vm.qcow2", master, cluster_size=cluster_size)
    want, offered = content(overlay), publish(world, overlay)
    here = another(world)
    copied = Path(shutil.copy(master, here.images / "other-name.qcow2"))
    make_master(here.images / "base.qcow2", "ABBBB")  # the same name, other content
    stick = Path(shutil.copy(overlay, here.images / "stick.qcow2"))
    master.parent.rename(world.images / "gone")
    assert find(here, stick, here.images) is None
    new = here.images / "new.qcow2"
    proof = adopt(here, stick, new, here.images, offered=(offered,))
    check_adopted(new, copied, want)
    assert "vm:1 by ann@pc" in proof.words
    here.catalog.close()


def test_an_overlay_that_was_written_to_is_known_by_the_record_of_its_file(
    world: World, master: Path
) -> None:
    overlay = make_overlay(world.images / "vm.qcow2", master)
    world.known(overlay)
    apply(overlay, [Op("write", CHUNK, 4096, 9)])
    want = content(overlay)
    moved = master.parent.rename(world.images / "masters2") / master.name
    new = world.images / "new.qcow2"
    proof = adopt(world, overlay, new, moved.parent)
    check_adopted(new, moved, want)
    assert proof.claim is not None and proof.claim.grade is Grade.RECORD


def test_a_pair_that_was_moved_and_written_to_is_known_again(world: World, master: Path) -> None:
    overlay = make_overlay(world.images / "lab" / "vm.qcow2", master)
    world.known(overlay)
    apply(overlay, [Op("write", CHUNK, 4096, 9)])
    want = content(overlay)
    moved = master.parent.rename(world.images / "masters2") / master.name
    overlay.parent.rename(world.images / "lab2")
    overlay = world.images / "lab2" / "vm.qcow2"
    new = world.images / "new.qcow2"
    adopt(world, overlay, new, moved.parent)
    check_adopted(new, moved, want)


def test_another_file_in_the_place_of_a_known_one_is_not_taken_for_it(world: World, master: Path) -> None:
    """``cp`` onto a file keeps its inode. What is allocated in it no longer shows that it is another."""
    overlay = make_overlay(world.images / "vm.qcow2", master)
    world.known(overlay)
    inode = overlay.stat().st_ino
    other = lost(world.images / "other.qcow2", Op("write", 5 * CHUNK, 4096, 3))
    shutil.copyfile(other, overlay)
    assert overlay.stat().st_ino == inode
    assert find(world, overlay, master.parent) is None


def test_a_master_that_was_replaced_is_not_taken(world: World, master: Path) -> None:
    overlay = make_overlay(world.images / "vm.qcow2", master)
    want = content(overlay)
    world.known(overlay)
    kept = master.rename(world.images / "kept.qcow2")
    make_master(master, "EEEE")
    assert not already_stands(world.library, str(overlay), world.known(kept).disk.id, now=NOW)
    with pytest.raises(BaseImageError) as caught:
        world.known(overlay)
    assert f"overlaysync adopt '{overlay}'" in caught.value.hint
    new = world.images / "new.qcow2"
    adopt(world, overlay, new, world.images, master.parent)
    check_adopted(new, kept, want)


def test_one_that_stands_on_its_master_is_left_as_it_is(world: World, master: Path) -> None:
    overlay = make_overlay(world.images / "vm.qcow2", master)
    known = world.known(overlay)
    assert known.parent is not None
    assert already_stands(world.library, str(overlay), known.parent.disk.id, now=NOW)


# -- whose word counts -------------------------------------------------------------------------------


def dispute(world: World, master: Path) -> tuple[Stray, Manifest, Manifest]:
    """An overlay, what its publisher says of it, and what another one says who has it on another master."""
    overlay = make_overlay(world.images / "vm.qcow2", master)
    true = publish(world, overlay)
    liar = another(world, "liar")
    make_master(liar.images / "base.qcow2", "EEEE")
    false = Path(shutil.copy(overlay, liar.images / "vm.qcow2"))
    run("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", "base.qcow2", false)
    lie = publish(liar, false)
    liar.catalog.close()
    return look(str(overlay), world.library), true, lie


def test_of_two_unknown_publishers_that_contradict_each_other_none_is_believed(
    world: World, master: Path
) -> None:
    stray, true, lie = dispute(world, master)
    here = another(world, "here")
    claims = claims_of(here, stray, (true, lie))
    with pytest.raises(BaseImageError, match="2 different masters") as caught:
        candidates(stray, claims)
    assert "--master" in caught.value.hint
    assert true.header.parent_id is not None
    assert candidates(stray, claims, true.header.parent_id) == [true.header.parent_id]
    here.catalog.close()


def test_a_trusted_publisher_outweighs_others(world: World, master: Path) -> None:
    stray, true, lie = dispute(world, master)
    here = another(world, "here")
    pin = Pin("", "vm", true.publisher, CREATED)
    claims = claims_of(here, stray, (lie, true), book=Book.of(own_key(here), [pin]))
    assert candidates(stray, claims) == [true.header.parent_id]
    with pytest.raises(BaseImageError, match="does not belong"):
        candidates(stray, claims, lie.header.parent_id)
    here.catalog.close()


def test_what_was_only_hashed_here_does_not_outweigh_what_was_published(world: World, master: Path) -> None:
    """An overlay from a stick that was looked at over another file of the same path has a wrong record."""
    overlay = make_overlay(world.images / "vm.qcow2", master)
    true = publish(world, overlay)
    here = another(world, "here")
    shutil.copy(master, here.images / "kept.qcow2")
    master.rename(world.images / "away.qcow2")
    make_master(master, "EEEE")
    stick = Path(shutil.copy(overlay, here.images / "stick.qcow2"))
    wrong = here.known(stick)
    stray = look(str(stick), here.library)
    assert wrong.parent is not None
    assert candidates(stray, claims_of(here, stray)) == [wrong.parent.disk.id]
    pin = Pin("", "vm", true.publisher, CREATED)
    claims = claims_of(here, stray, (true,), book=Book.of(own_key(here), [pin]))
    assert candidates(stray, claims) == [true.header.parent_id]
    here.catalog.close()


# -- the master that the user names ------------------------------------------------------------------


def test_an_empty_overlay_fits_any_master_of_its_size(world: World, master: Path) -> None:
    empty = lost(world.images / "vm.qcow2")
    stray = look(str(empty), world.library)
    base, smaller = world.known(master), world.known(draw_smaller(world))
    assert candidates(stray, claims_of(world, stray), base.disk.id) == [base.disk.id]
    proof = prove(world.library, stray, base, ())
    assert proof is not None and proof.claim is None and "nothing was written" in proof.words
    assert prove(world.library, stray, smaller, ()) is None
    # Not without a word of the user, though another one like it is known to stand there.
    world.known(create(world.images / "another.qcow2", backing=master, cluster_size=4096))
    assert find(world, empty, master.parent) is None


def test_of_small_clusters_another_overlay_on_the_master_proves_nothing(world: World, master: Path) -> None:
    overlay = make_overlay(world.images / "vm.qcow2", master, cluster_size=512)
    other = create(world.images / "other.qcow2", backing=master, cluster_size=512)
    apply(other, [Op("write", 0, 512, 4)])
    assert find(world, overlay, master.parent, offered=(publish(world, other, "other"),)) is None
    assert find(world, overlay, master.parent, offered=(publish(world, overlay),)) is not None


def draw_smaller(world: World) -> Path:
    path = create(world.images / "small.raw", MIB)
    draw(path, "A")
    path.chmod(0o444)
    return path


@pytest.mark.parametrize("cluster_size", CLUSTERS)
def test_without_proof_nothing_is_taken_and_the_way_on_is_said(
    world: World, master: Path, cluster_size: int
) -> None:
    overlay = make_overlay(world.images / "vm.qcow2", master, cluster_size=cluster_size)
    stray, base = look(str(overlay), world.library), world.known(master)
    claims = claims_of(world, stray)
    assert on_its_master(world.library, stray, claims, [str(master.parent)], now=NOW) is None
    assert prove(world.library, stray, base, claims) is None
    stray = replace(stray, options=("--to", "vm", "--masters", "my masters"))
    error = unproven(stray, claims, only=base, asked="2 peers", guess="")
    assert error.exit_code == 5
    assert "2 peers" in error.why
    same = f"overlaysync adopt {overlay} --to vm --masters 'my masters'"
    assert f"{same} --peer HOST;" in error.hint and f"{same} --master '{master}' --unverified" in error.hint


def test_what_was_taken_unproven_is_noted_for_good(world: World, master: Path) -> None:
    overlay = make_overlay(world.images / "vm.qcow2", master)
    stray, base = look(str(overlay), world.library), world.known(master)
    new = world.images / "new.qcow2"
    made = world.maker.adopt(read_over(world.library, stray, base), str(new), now=NOW)
    text = note_unverified(world.library, made, "it belongs elsewhere", at=GUESSED)
    assert "nothing proves" in text and "it belongs elsewhere" in text
    assert text in world.known(new).notes
    apply(new, [Op("write", 0, 512, 3)])
    assert text in world.known(new).notes  # of the same file, whatever its guest writes
    with open(new, "rb"):  # so that its inode stays taken
        new.unlink()
        apply(make_overlay(new, master), [Op("write", 512, 512, 4)])
        assert text not in world.known(new).notes


@pytest.mark.parametrize("fate", ["kept", "removed", "discarded"])
def test_what_was_taken_unproven_proves_nothing_later(world: World, master: Path, fate: str) -> None:
    overlay = make_overlay(world.images / "vm.qcow2", master)
    moved = master.parent.rename(world.images / "masters2") / master.name
    stray = look(str(overlay), world.library)
    new = world.images / "new.qcow2"
    made = world.maker.adopt(read_over(world.library, stray, world.known(moved)), str(new), now=NOW)
    note_unverified(world.library, made, at=GUESSED)
    if fate == "removed":
        new.unlink()
    if fate == "discarded":
        discard(str(new), world.catalog, check_discardable(str(new), world.catalog))
    assert find(world, overlay, moved.parent) is None


@pytest.mark.parametrize("who", ["own", "another's"])
@pytest.mark.parametrize("created", [BEFORE, AFTER])
def test_a_guess_that_was_published_is_still_a_guess(
    world: World, master: Path, who: str, created: str
) -> None:
    """It says what was published; only a version from before the guess can say that the master is right."""
    signer = load_or_make((world if who == "own" else another(world)).home.node_key)
    overlay = make_overlay(world.images / "vm.qcow2", master)
    moved = master.parent.rename(world.images / "masters2") / master.name
    stray = look(str(overlay), world.library)
    new = world.images / "new.qcow2"
    made = world.maker.adopt(read_over(world.library, stray, world.known(moved)), str(new), now=NOW)
    text = note_unverified(world.library, made, at=GUESSED)
    Publisher(world.library, signer, "pl@bob").publish(made, team="", created=created, name="web")
    copy = world.images / "copy.qcow2"
    shutil.copy(new, copy)
    proof = find(world, overlay, moved.parent)
    assert (proof is not None) is (created == BEFORE)
    assert text in world.known(new).notes
    assert (text in world.known(copy).notes) is (created == AFTER)
    if proof is not None:
        note_history(world.library, stray, world.known(copy), proof, at=AFTER)
        assert text not in world.known(new).notes, "it was proven"


@pytest.mark.slow
def test_what_becomes_of_a_guess_is_one_too(world: World, master: Path) -> None:
    """Written to and published again, moved, rebased, promoted, stood on."""
    other = make_master(world.images / "other.qcow2", "CC-D")
    overlay = make_overlay(world.images / "vm.qcow2", master)
    new, moved = world.images / "new.qcow2", world.images / "moved.qcow2"
    stray = look(str(overlay), world.library)
    made = world.maker.adopt(read_over(world.library, stray, world.known(other)), str(new), now=NOW)
    text = note_unverified(world.library, made, at=GUESSED)
    expected = world.library.expected(str(other))
    assert expected and expected.basis is Basis.READ, "a guess does not say what its master is"
    apply(new, [Op("write", 0, 512, 3)])
    publish(world, new)
    stray = look(str(Path(shutil.copy(new, world.images / "copy.qcow2"))), world.library)
    assert not [claim for claim in claims_of(world, stray) if claim.parent == world.known(other).disk.id]
    new.rename(moved)
    assert text in world.known(moved).notes
    apply(moved, [Op("write", 512, 512, 4)])
    assert text in world.known(moved).notes
    made_of_it = [
        world.rebase(moved, master, world.images / "rebased.qcow2"),
        world.promote(moved, world.images / "promoted.qcow2"),
        world.new(world.images / "above.qcow2", world.images / "promoted.qcow2"),
        world.rebase(moved, master, moved, replace=True),
    ]
    for known in made_of_it:
        assert any(text in note for note in known.notes)
        assert any(text in note for note in world.known(Path(known.path)).notes), known.path


# -- history -----------------------------------------------------------------------------------------


def test_history_goes_on_in_the_new_file(world: World, master: Path) -> None:
    overlay = make_overlay(world.images / "vm.qcow2", master)
    first = publish(world, overlay)
    moved = master.parent.rename(world.images / "masters2") / master.name
    new = world.images / "new.qcow2"
    proof = adopt(world, overlay, new, moved.parent)
    stray = look(str(overlay), world.library)
    note_history(world.library, stray, world.known(new), proof, at=CREATED)
    held = world.catalog.held.at(str(new))
    assert held is not None
    assert (held.name, held.manifests, held.file) == ("vm", (first.id,), world.known(new).files[0])
    apply(new, [Op("write", MIB, 512, 5)])
    publisher = Publisher(world.library, load_or_make(world.home.node_key), "ann@pc-abcdef")
    second = publisher.publish(world.known(new), team="", created=CREATED)
    assert second.header.full_name == "vm"
    assert second.header.followed == (first.id,)


def test_history_goes_on_from_what_a_peer_offers(world: World, master: Path) -> None:
    overlay = make_overlay(world.images / "vm.qcow2", master)
    first = publish(world, overlay)
    here = another(world, "here")
    shutil.copy(master, here.images / "base.qcow2")
    new = here.images / "new.qcow2"
    stick = Path(shutil.copy(overlay, here.images / "stick.qcow2"))
    proof = adopt(here, stick, new, here.images, offered=(first,))
    note_history(here.library, look(str(stick), here.library), here.known(new), proof, at=CREATED)
    held = here.catalog.held.at(str(new))
    assert held is not None and (held.name, held.manifests) == ("vm", (first.id,))
    assert here.catalog.manifests.find(first.id) is not None
    here.catalog.close()


def test_work_since_the_last_version_stays_work(world: World, master: Path) -> None:
    """The note of the new file must not say that it is as published: what differs would be taken for rot."""
    overlay = make_overlay(world.images / "vm.qcow2", master)
    publish(world, overlay)
    apply(overlay, [Op("write", MIB, 512, 5)])
    moved = master.parent.rename(world.images / "masters2") / master.name
    new = world.images / "new.qcow2"
    proof = adopt(world, overlay, new, moved.parent)
    made = world.known(new)
    note_history(world.library, look(str(overlay), world.library), made, proof, at=CREATED)
    held = world.catalog.held.at(str(new))
    assert held is not None and held.file != made.files[0]


# -- refusals ----------------------------------------------------------------------------------------


def test_a_master_is_no_stray(world: World, master: Path) -> None:
    with pytest.raises(UsageError, match="is a master"):
        look(str(master), world.library)


def test_an_overlay_in_use_is_not_read(world: World, master: Path) -> None:
    overlay = make_overlay(world.images / "vm.qcow2", master)
    fd = os.open(overlay, os.O_RDWR)
    try:
        # What a QEMU does that writes: it holds the byte that says "I use the permission to write".
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("@hhqqi0q", fcntl.F_RDLCK, os.SEEK_SET, 101, 1, 0))
        with pytest.raises(InUseError):
            look(str(overlay), world.library)
    finally:
        os.close(fd)


def test_nothing_stands_on_a_master_that_may_be_written(world: World, master: Path) -> None:
    """An overlay that may be written is no master, though its guest sees the right disk."""
    middle = make_overlay(world.images / "middle.qcow2", master)
    top = make_overlay(world.images / "top.qcow2", middle)
    world.known(top)
    middle = middle.rename(world.images / "renamed.qcow2")
    base = world.known(middle)
    assert find(world, top, world.images) is None
    stray = look(str(top), world.library)
    with pytest.raises(WouldDestroyError, match="may be written"):
        world.maker.adopt(read_over(world.library, stray, base), str(world.images / "new.qcow2"), now=NOW)
    middle.chmod(0o444)
    assert find(world, top, world.images) is not None


def test_a_manifest_that_is_kept_is_enough(world: World, master: Path) -> None:
    overlay = make_overlay(world.images / "vm.qcow2", master)
    first = publish(world, overlay)
    here = another(world, "here")
    shutil.copy(master, here.images / "base.qcow2")
    keep_manifest(here.catalog, first, at=CREATED)
    stick = Path(shutil.copy(overlay, here.images / "stick.qcow2"))
    assert find(here, stick, here.images) is not None
    here.catalog.close()
