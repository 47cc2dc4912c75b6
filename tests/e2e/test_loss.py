"""What a guest wrote and exists nowhere else is never thrown away unasked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from overlaysync.store.catalog import Catalog
from overlaysync.store.holders import label_key
from overlaysync.store.home import Home
from overlaysync.units import KIB, MIB
from tests import images
from tests.e2e import disks
from tests.e2e.nodes import DONE, USAGE, WOULD_DESTROY, Lab, Node, until

pytestmark = [pytest.mark.qemu, pytest.mark.holds("A4")]


@pytest.fixture
def node(lab: Lab) -> Node:
    return lab.node("student")


@pytest.fixture
def master(node: Node, lab: Lab) -> Path:
    path = disks.make_master(node.place / f"{lab.name('base')}.qcow2", size=MIB)
    path.chmod(0o444)
    return path


@pytest.fixture
def vm(node: Node, lab: Lab, master: Path) -> Path:
    return disks.make_overlay(node.place / f"{lab.name('vm')}.qcow2", master, (0, 64 * KIB))


def with_snapshot(path: Path) -> bytes:
    images.run("qemu-img", "snapshot", "-c", "before-exam", path)
    disks.write(path, 512 * KIB, disks.noise("after", 64 * KIB))
    return path.read_bytes()


def lost(node: Node, path: Path) -> Any:
    (item,) = node.json("discard", path, "--yes")["lost"]
    assert item["path"] == str(path) and not path.exists()
    return item["lost"]


# -- internal snapshots ------------------------------------------------------------------------------


def test_promote_does_not_discard_internal_snapshots_unasked(node: Node, vm: Path) -> None:
    before = with_snapshot(vm)
    error = node.fails(WOULD_DESTROY, "promote", vm, "--as", "next", "--discard")
    assert "before-exam" in error["why"] and "--yes" in error["hint"]
    assert vm.read_bytes() == before and not (node.place / "next.qcow2").exists(), "before any work"
    assert node.run("promote", vm, "--as", "next", "--discard", "--yes").code == DONE
    assert not vm.exists()


def test_rebase_does_not_replace_internal_snapshots_unasked(node: Node, vm: Path) -> None:
    before = with_snapshot(vm)
    other = disks.make_master(node.place / "other.qcow2", size=MIB)
    error = node.fails(WOULD_DESTROY, "rebase", vm, "--onto", other, "--replace")
    assert "before-exam" in error["why"]
    assert vm.read_bytes() == before
    content = images.content(vm)
    assert node.run("rebase", vm, "--onto", other, "--replace", "--yes").code == DONE
    assert images.content(vm) == content


def test_a_fast_forward_does_not_replace_internal_snapshots_unasked(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    master = disks.make_master(alice.place / f"{lab.name('base')}.qcow2", size=MIB)
    share = alice.share(master)
    bob.fetch(master.stem, "--peer", share.peer)
    share.stop()
    path = bob.place / master.name
    path.chmod(0o644)
    images.run("qemu-img", "snapshot", "-c", "before-exam", path)
    disks.write(master, 0, disks.noise("newer", 64 * KIB))
    share = alice.share(master)
    before = path.read_bytes()
    error = bob.fails(WOULD_DESTROY, "fetch", master.stem, "--replace", "--peer", share.peer)
    assert "before-exam" in error["why"] and "--discard-changes" in error["hint"]
    assert path.read_bytes() == before
    bob.fetch(master.stem, "--replace", "--discard-changes", "--peer", share.peer)
    assert disks.identical(master, path)


# -- discard -----------------------------------------------------------------------------------------


def test_discard_says_what_is_lost(node: Node, vm: Path, master: Path) -> None:
    node.json("new", "empty.qcow2", "--master", master)
    assert lost(node, node.place / "empty.qcow2") is None
    copy = node.place / "copy.qcow2"
    copy.write_bytes(vm.read_bytes())
    with_snapshot(copy)
    assert "before-exam" in lost(node, copy)
    node.share(vm, master).stop()
    assert "no other machine" in lost(node, vm)


def test_discard_asks_and_without_a_terminal_says_that_it_cannot(node: Node, vm: Path, master: Path) -> None:
    error = node.fails(USAGE, "discard", vm)
    assert "stdin is not a terminal" in error["what"] and "--yes" in error["hint"]
    assert "never published" in error["why"]
    other = Path(node.json("new", "other.qcow2", "--master", master)["path"])
    for words in ((), ("--dry-run",)):
        done = node.run("discard", vm, other, *words)
        assert done.code == (DONE if words else USAGE)
        lines = (done.stdout if words else done.stderr).splitlines()
        assert any(str(vm) in line and "never published" in line for line in lines)
        assert any(str(other) in line and "nothing would be lost" in line for line in lines)
    assert [bool(one["lost"]) for one in node.json("discard", vm, other, "-n")["would_lose"]] == [True, False]
    assert vm.exists() and other.exists()
    assert "never published" in lost(node, vm)


# -- who else has it ---------------------------------------------------------------------------------


def holders(node: Node, content: str) -> list[tuple[bytes, str]]:
    catalog = Catalog.open(Home(node.home, node.home / "config"))
    try:
        return [
            (holder.node, holder.label)
            for holder in catalog.holders.of(bytes.fromhex(content.removeprefix("b3:")))
        ]
    finally:
        catalog.close()


def test_those_who_fetched_it_from_here_have_it(lab: Lab, node: Node, vm: Path, master: Path) -> None:
    bob = lab.node("bob")
    layer = node.json("id", vm)["layer"]
    share = node.share(vm, master)
    assert holders(node, layer) == []
    bob.fetch(vm.stem, "--peer", share.peer)
    ((key, label),) = until(lambda: holders(node, layer), what="a holder")
    assert label.startswith("bob@") and key == label_key(label)
    share.stop()
    assert lost(node, vm) is None


def test_those_who_list_what_was_here_have_it(lab: Lab, node: Node, vm: Path, master: Path) -> None:
    bob = lab.node("bob")
    layer = node.json("id", vm)["layer"]
    share = node.share(vm, master)
    bob.fetch(vm.stem, "--peer", share.peer)
    until(lambda: holders(node, layer), what="a holder")
    share.stop()
    theirs = bob.share(bob.place / vm.name)
    node.json("ls", "--peer", theirs.peer)
    ((key, label),) = holders(node, layer)
    assert key != label_key(label) and label.startswith("bob@"), "its key is known now"
    stranger = disks.make_master(bob.place / f"{lab.name('other')}.raw", size=MIB)
    share = bob.share(stranger)
    node.json("ls", "--peer", share.peer)
    assert holders(node, share.document()["shared"][0]["disk"]) == [], "what was never here is not noted"
    assert holders(node, layer), "that it is not shared now does not mean that it is gone"
    theirs.stop()
    disks.write(bob.place / vm.name, 0, disks.noise("bob's", 64 * KIB))
    node.json("ls", "--peer", bob.share(bob.place / vm.name).peer)
    assert holders(node, layer) == [], "Bob's file holds the next version by now"


def test_what_was_fetched_and_not_changed_can_be_had_again(
    lab: Lab, node: Node, vm: Path, master: Path
) -> None:
    bob = lab.node("bob")
    bob.fetch(vm.stem, "--peer", node.share(vm, master).peer)
    assert lost(bob, bob.place / vm.name) is None
