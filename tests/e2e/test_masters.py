"""An overlay knows its master: whatever is put in its place, every command says so, again and again."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from pathlib import Path

import pytest

from overlaysync.units import KIB, MIB
from tests import images
from tests.e2e import disks
from tests.e2e.nodes import DONE, NO_BASE, NOT_VERIFIED, WOULD_DESTROY, Lab, Node, until

pytestmark = [pytest.mark.qemu, pytest.mark.holds("C2")]


def fetched(lab: Lab, node: Node) -> tuple[Path, Path]:
    """An overlay and its master that came from a peer."""
    alice = lab.node("alice")
    master = disks.make_master(alice.place / f"{lab.name('base')}.qcow2", size=MIB)
    vm = disks.make_overlay(alice.place / f"{lab.name('vm')}.qcow2", master, (0, 64 * KIB))
    node.fetch(vm.stem, "--peer", alice.share(vm, master).peer)
    return node.place / vm.name, node.place / master.name


def made(lab: Lab, node: Node) -> tuple[Path, Path]:
    """A new overlay that a VM has run on."""
    master = disks.make_master(node.place / f"{lab.name('base')}.qcow2", size=MIB)
    master.chmod(0o444)
    node.json("new", "vm.qcow2", "--master", master)
    disks.write(node.place / "vm.qcow2", 0, disks.noise("work", 64 * KIB))
    return node.place / "vm.qcow2", master


def hashed(lab: Lab, node: Node) -> tuple[Path, Path]:
    """An overlay that was only looked at."""
    master = disks.make_master(node.place / f"{lab.name('base')}.qcow2", size=MIB)
    vm = disks.make_overlay(node.place / "vm.qcow2", master, (0, 64 * KIB))
    node.json("id", vm)
    return vm, master


def published(lab: Lab, node: Node) -> tuple[Path, Path]:
    """An overlay that was shared, with another overlay below it."""
    master = disks.make_master(node.place / f"{lab.name('base')}.qcow2", size=MIB)
    middle = disks.make_overlay(node.place / f"{lab.name('middle')}.qcow2", master, (0, 64 * KIB))
    middle.chmod(0o444)
    vm = disks.make_overlay(node.place / f"{lab.name('vm')}.qcow2", middle, (128 * KIB, 64 * KIB))
    node.share(vm, middle, master).stop()
    return vm, master


def write_into(master: Path) -> None:
    master.chmod(0o644)
    disks.write(master, 512 * KIB, disks.noise("other", 64 * KIB))


def copy_over(master: Path) -> None:
    master.chmod(0o644)
    other = disks.make_master(master.with_name("download.qcow2"), size=MIB, seed="newer")
    shutil.copyfile(other, master)
    other.unlink()


def move_over(master: Path) -> None:
    disks.make_master(master.with_name("download.qcow2"), size=MIB, seed="newer").rename(master)


CASES = [
    (fetched, write_into),
    (made, copy_over),
    (hashed, move_over),
    (published, write_into),
    (fetched, move_over),
]


@pytest.mark.parametrize(("origin", "change"), CASES, ids=lambda one: one.__name__)
def test_every_command_refuses_an_overlay_on_another_master(lab: Lab, origin, change) -> None:
    node = lab.node("student")
    vm, master = origin(lab, node)
    was = node.json("id", master)["disk"]
    other = disks.make_master(node.place / "elsewhere.qcow2", size=MIB)
    files = set(os.listdir(node.place))
    before = vm.read_bytes()
    change(master)
    now = node.json("show", master)["disk"]
    assert was != now
    commands = [
        ("id", vm),
        ("show", vm),
        ("verify", vm),
        ("verify", vm, "--repair", "--yes", "--peer", "127.0.0.1:1"),
        ("share", vm, master),
        ("promote", vm, "--as", "promoted"),
        ("rebase", vm, "--onto", other),
        ("rebase", vm, "--onto", other, "--replace", "--yes"),
    ]
    for command in commands * 2:
        error = node.fails(NO_BASE, *command)
        assert was in error["why"] and now in error["why"], command
        assert "--accept-master" in error["hint"]
    assert vm.read_bytes() == before and set(os.listdir(node.place)) == files


@pytest.mark.parametrize("origin", [fetched, hashed, published], ids=lambda one: one.__name__)
def test_nothing_new_is_put_on_a_master_that_is_not_what_it_was(lab: Lab, origin) -> None:
    node = lab.node("student")
    vm, master = origin(lab, node)
    was = node.json("id", master)["disk"]
    other = disks.make_overlay(node.place / "other.qcow2", disks.make_master(node.place / "own.qcow2"))
    write_into(master)
    if origin is not hashed:  # by its name as by its path
        error = node.fails(NO_BASE, "new", "n.qcow2", "--master", master.stem)
        assert was in error["why"] and str(master) in error["what"]
        assert vm.stem in {one["name"] for one in node.json("ls", "--local")["images"]}, "it was not touched"
    now = node.json("id", master)["disk"]
    for command in [("new", "n.qcow2", "--master", master), ("rebase", other, "--onto", master)] * 2:
        error = node.fails(NO_BASE, *command)
        assert was in error["why"] and now in error["why"]
        assert "--repair" in error["hint"]
    assert not (node.place / "n.qcow2").exists()
    assert node.run("new", "n.qcow2", "--master", master, "--accept-master").code == DONE
    assert node.json("id", "n.qcow2")["parent"] == now, "that overlay was made on what is there"
    assert node.fails(NO_BASE, "id", vm), "and the others were not"


def test_a_user_who_means_it_says_so_and_is_not_asked_again(lab: Lab) -> None:
    node = lab.node("student")
    vm, master = hashed(lab, node)
    write_into(master)
    now = node.json("id", master)["disk"]
    assert node.json("show", vm, "--accept-master")["parent"] == now
    assert node.json("id", vm)["parent"] == now
    promoted = node.json("promote", vm, "--as", "promoted")
    assert disks.identical(vm, Path(promoted["path"]))


def test_a_master_that_may_be_written_to_is_mentioned(lab: Lab) -> None:
    node = lab.node("student")
    master = disks.make_master(node.place / "base.qcow2", size=MIB)
    vm = node.place / "vm.qcow2"
    for command in (("new", vm, "--master", master), ("promote", vm, "--as", "next")):
        assert node.run(*command).stderr.count(f"chmod a-w '{master}'") == 1
    share = node.share(vm)
    until(lambda: f"chmod a-w '{master}'" in share.stderr, what="the note")
    share.stop()
    assert share.stderr.count("chmod a-w") == 1
    master.chmod(0o444)
    assert "chmod" not in node.run("new", "other.qcow2", "--master", master).stderr


# -- what verify says --------------------------------------------------------------------------------


def test_damage_that_was_looked_at_is_still_damage_and_is_healed(lab: Lab) -> None:
    """The file was written to, so what is there may be somebody's work: healed only when the user says so."""
    alice, bob = lab.node("alice"), lab.node("bob")
    master = disks.make_master(alice.place / f"{lab.name('base')}.qcow2", size=MIB)
    share = alice.share(master)
    bob.fetch(master.stem, "--peer", share.peer)
    path = bob.place / master.name
    write_into(path)
    path.chmod(0o444)
    bob.json("show", path)
    for _ in range(2):
        result = bob.run("verify", path, "--json")
        assert result.code == NOT_VERIFIED
        document = result.stdout
        assert '"basis": "published"' in document and f"{master.stem}:1" in document
    error = bob.fails(WOULD_DESTROY, "verify", path, "--repair", "--peer", share.peer)
    assert "never published" in error["why"] and "--yes" in error["hint"]
    healed = bob.run(*shlex.split(error["hint"].rpartition("overlaysync ")[2]))
    assert healed.code == DONE and f"as it was when published as {master.stem}:1" in healed.stdout
    assert disks.identical(master, path)
    assert bob.run("new", "vm.qcow2", "--master", path).code == DONE


def test_a_days_work_committed_by_mistake_is_not_healed_away(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    master = disks.make_master(alice.place / f"{lab.name('base')}.qcow2", size=MIB)
    share = alice.share(master)
    bob.fetch(master.stem, "--peer", share.peer)
    path, vm = bob.place / master.name, bob.place / "vm.qcow2"
    bob.json("new", vm, "--master", path)
    (bob.place / "saved").mkdir()
    bob.json("id", shutil.copy(path, bob.place / "saved"))
    disks.write(vm, 0, disks.noise("a day's work", 64 * KIB))
    work = images.content(vm)
    path.chmod(0o644)
    images.run("qemu-img", "commit", "-q", "-f", "qcow2", vm)
    bob.fails(WOULD_DESTROY, "verify", path, "--repair", "--peer", share.peer)
    assert images.content(path) == work
    error = bob.fails(NO_BASE, "id", vm)
    assert "its work is in that file" in error["why"]
    # What is printed can be typed: it names the master, as an empty overlay fits any.
    (command,) = re.findall(r"overlaysync (adopt .*?) \(", error["hint"])
    assert bob.run(*shlex.split(command), "--peer", share.peer).code == DONE, command
