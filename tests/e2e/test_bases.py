"""Which copy of a master a fetched overlay is put on, when there are several or it is not where it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from overlaysync.units import KIB, MIB
from tests import images
from tests.e2e import disks
from tests.e2e.nodes import DONE, IN_USE, NO_BASE, WOULD_DESTROY, Lab, Node
from tests.e2e.versions import edit, shared

pytestmark = [pytest.mark.qemu, pytest.mark.holds("C2")]

WHERE = ("--to", "vm", "--masters", "masters", "--wait", "2")


def below(overlay: Path) -> Path:
    """The image that an overlay stands on."""
    info = json.loads(images.run("qemu-img", "info", "--output=json", overlay))
    return Path(info["full-backing-filename"])


def pair(lab: Lab, node: Node) -> tuple[Path, Path]:
    master = disks.make_master(node.place / f"{lab.name('debian')}.qcow2", size=2 * MIB)
    return master, disks.make_overlay(node.place / f"{lab.name('web')}.qcow2", master, (0, 64 * KIB))


def test_a_copy_elsewhere_is_no_base_while_the_right_one_is_here(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    master, vm = pair(lab, alice)
    with shared(alice, master, vm) as share:
        bob.json("fetch", vm.stem, *WHERE, "--peer", share.peer)
    stick = bob.base / "stick"
    stick.mkdir()
    copy = Path(shutil.copy(master, stick / "other.qcow2"))
    bob.json("id", copy)
    disks.write(vm, MIB, disks.noise("more", 64 * KIB))
    mine, right = bob.place / "vm" / vm.name, bob.place / "masters" / master.name
    with shared(alice, master, vm) as share:
        peer = ("--peer", share.peer)
        assert bob.json("sync", vm.stem, *WHERE, *peer)["synced"][-1]["state"] == "updated"
        assert below(mine) == right
        bob.json("fetch", vm.stem, *WHERE, "--as", "second", *peer)
        assert below(mine.with_name("second.qcow2")) == right
        # Where its owner has put it there, it stays there.
        other = mine.with_name("second.qcow2")
        images.run("qemu-img", "rebase", "-u", "-F", "qcow2", "-b", copy, other)
    disks.write(vm, MIB, disks.noise("and more", 64 * KIB))
    with shared(alice, master, vm) as share:
        peer = ("--peer", share.peer)
        bob.json("fetch", vm.stem, *WHERE, "--as", "second", "--replace", *peer)
        assert below(other) == copy and disks.identical(other, vm)
        right.unlink()
        other.unlink()
        mine.unlink()
        planned = bob.run("fetch", vm.stem, "--to", "third", "--dry-run", *peer)
        fetched = bob.run("fetch", vm.stem, "--to", "third", *peer)
    assert f"on {copy} " in planned.stderr and f"on {copy} " in fetched.stderr
    assert below(bob.place / "third" / vm.name) == copy


def test_a_master_that_got_another_name_is_found_and_never_replaced_by_an_older_one(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    team = lab.team("red", alice, bob)
    master, vm = pair(lab, alice)
    with shared(alice, master, vm, "--team", team) as share:
        bob.json("sync", f"{team}/", *WHERE, "--peer", share.peer)
    old = Path(shutil.copy(master, alice.place / f"{lab.name('old')}.qcow2"))
    images.run("qemu-img", "rebase", "-u", "-F", "qcow2", "-b", old.name, vm)
    edit(master, "a newer one")
    moved, mine = bob.place / "masters" / "renamed.qcow2", bob.place / "vm" / vm.name
    place = bob.place / "masters" / master.name
    with shared(alice, master, vm, old, "--team", team) as share:
        peer = ("--peer", share.peer)
        place.rename(moved)
        bob.json("fetch", f"{team}/{master.stem}", "--to", "masters", *peer)
        newer = place.read_bytes()
        # Only sync and --replace write what is there anew.
        hint = bob.fails(NO_BASE, "fetch", f"{team}/{vm.stem}", *WHERE, *peer)["hint"]
        assert str(moved) in hint and "--replace" in hint
        assert bob.run("sync", f"{team}/", *WHERE, *peer).code == DONE
        assert below(mine) == moved and disks.identical(mine, vm)

        # Where it is missing it comes back beside the newer one.
        moved.unlink()
        for _ in range(2):
            assert bob.run("sync", f"{team}/{vm.stem}", *WHERE, *peer).code == DONE
        assert below(mine).parent == place.parent and below(mine) != place
        assert disks.identical(mine, vm) and place.read_bytes() == newer

        # What its guest wrote stays, and what is said replaces nothing.
        below(mine).rename(moved)
        images.run("qemu-img", "rebase", "-u", "-F", "qcow2", "-b", moved, mine)
        disks.write(mine, MIB, disks.noise("work", 4 * KIB))
        images.run("qemu-img", "rebase", "-u", "-F", "qcow2", "-b", place, mine)
        work = mine.read_bytes()
        for words in (("sync", f"{team}/{vm.stem}"), ("fetch", f"{team}/{vm.stem}", "--replace")):
            failed = bob.run(*words, *WHERE, *peer)
            assert failed.code == NO_BASE
            assert f"overlaysync adopt '{mine}'" in failed.stderr and "--repair" not in failed.stderr
        assert mine.read_bytes() == work and place.read_bytes() == newer
        assert bob.run("fetch", vm.stem, *WHERE, "--discard-changes", *peer).code == DONE
    assert below(mine) == moved and disks.identical(mine, vm)


def test_a_newer_master_goes_beside_one_that_overlays_stand_on(lab: Lab) -> None:
    """The teacher's update leaves the overlays of the room alone, and is not refused for ever."""
    alice, bob = lab.node("alice"), lab.node("bob")
    team = lab.team("red", alice, bob)
    master, vm = pair(lab, alice)
    with shared(alice, master, vm, "--team", team) as share:
        bob.json("sync", f"{team}/", *WHERE, "--peer", share.peer)
    place, mine = bob.place / "masters" / master.name, bob.place / "vm" / vm.name
    before, old = place.read_bytes(), Path(shutil.copy(master, alice.place / "old.qcow2"))
    images.run("qemu-img", "rebase", "-u", "-F", "qcow2", "-b", old.name, vm)
    edit(master, "a newer one")
    with shared(alice, master, vm, "--team", team) as share:
        hint = bob.fails(WOULD_DESTROY, "fetch", master.stem, *WHERE, "--replace", "--peer", share.peer)
        with shared(bob, mine):
            used = bob.fails(IN_USE, "fetch", master.stem, *WHERE, "--replace", "--peer", share.peer)
        assert "--as NAME" in used["hint"] and "another program" not in used["why"]
        done = [bob.json("sync", f"{team}/", *WHERE, "--peer", share.peer) for _ in range(2)]
    states = [{one["name"]: one["state"] for one in document["synced"]} for document in done]
    assert states[0][master.stem] == "fetched" and states[1][master.stem] == "current"
    assert "--as NAME" in hint["hint"]
    assert place.read_bytes() == before and below(mine) == place
    (newer,) = {*(bob.place / "masters").iterdir()} - {place}
    assert disks.identical(newer, master)


def test_the_newer_version_in_the_place_of_an_older_is_called_that(lab: Lab) -> None:
    """Copied there by hand: nothing heals it away without a word."""
    alice, bob = lab.node("alice"), lab.node("bob")
    master, vm = pair(lab, alice)
    with shared(alice, master, vm) as share:
        bob.json("fetch", vm.stem, *WHERE, "--peer", share.peer)
    place = bob.place / "masters" / master.name
    images.run("qemu-img", "rebase", "-f", "qcow2", "-b", "", vm)
    edit(master, "a newer one")
    with shared(alice, master) as share:
        bob.json("fetch", master.stem, "--to", "new", "--peer", share.peer)
    place.chmod(0o644)
    shutil.copyfile(bob.place / "new" / master.name, place)
    error = bob.run("verify", place)
    assert f"holds {master.stem}:2" in error.stdout
    assert f"to put {master.stem}:1 in the place of {master.stem}:2" in error.stderr
    assert "--repair" not in bob.fails(NO_BASE, "id", bob.place / "vm" / vm.name)["hint"]
