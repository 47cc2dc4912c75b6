"""Images that change, appear and go while they are shared."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from overlaysync.units import CHUNK, KIB, MIB
from tests.e2e import disks
from tests.e2e.nodes import (
    DONE,
    IN_USE,
    NETWORK,
    NOT_FOUND,
    NOT_VERIFIED,
    USAGE,
    WOULD_DESTROY,
    Lab,
    Node,
    Share,
    until,
)

pytestmark = pytest.mark.qemu


def listed(node: Node, share: Share, name: str) -> list[dict[str, Any]]:
    """What ``node`` sees at the share under a name."""
    found: list[dict[str, Any]] = node.json("ls", "--peer", share.peer, "--wait", "0.5")["images"]
    return [item for item in found if item["name"] == name]


def test_an_overlay_that_is_written_to_becomes_a_new_version_when_quiet(lab: Lab) -> None:
    alice, bob, carol = (lab.node(word) for word in ("alice", "bob", "carol"))
    name = lab.name("vm")
    master = disks.make_master(alice.place / f"{lab.name('master')}.qcow2", size=4 * MIB)
    overlay = disks.make_overlay(alice.place / f"{name}.qcow2", master, (0, MIB))
    share = alice.share(overlay)
    bob.fetch(name, "--peer", share.peer)
    first = bob.json("show", bob.place / overlay.name)

    with disks.opened_by_qemu(overlay):
        disks.write_through_qemu(overlay, 2 * MIB, disks.noise("changed", 3 * CHUNK))
        # From this moment on, even where it is still listed, and for as long as it is in use.
        refused = carol.run("fetch", name, "--peer", share.peer, "--wait", "1")
        assert refused.code in (NOT_FOUND, IN_USE)
        assert overlay.name not in carol.files()
        until(lambda: [item["in_use"] for item in listed(bob, share, name)] == [True], what="its withdrawal")
    until(lambda: [item["in_use"] for item in listed(bob, share, name)] == [False], what="version 2")
    (now,) = listed(bob, share, name)

    assert now["version"] == 2 and now["follows"] == [first["manifest"]]
    for words in ([], ["--dry-run"]):
        error = bob.fails(WOULD_DESTROY, "fetch", name, "--peer", share.peer, *words)
        assert f"{name}:1" in error["what"] and "--replace" in error["hint"]
    (item,) = bob.fetch(name, "--peer", share.peer, "--replace")
    assert item["version"] == 2
    assert item["layer"] == now["layer"] != first["layer"]
    assert item["wire"]["data"] == 3 * CHUNK
    assert disks.identical(overlay, Path(item["path"]))
    assert bob.files() == {master.name, overlay.name}


@pytest.mark.holds("N9")
@pytest.mark.slow
def test_a_file_that_changes_while_it_is_fetched_is_never_a_mixture(lab: Lab) -> None:
    """Written without asking anybody, as ``dd`` does; QEMU's locks keep only QEMU away."""
    alice, bob = lab.node("alice"), lab.node("bob")
    name = lab.name("disk")
    path = disks.make_master(alice.place / f"{name}.raw", size=24 * MIB)
    old = path.read_bytes()
    new = old[: 4 * MIB] + disks.noise("new", 16 * MIB) + old[20 * MIB :]
    share = alice.share(path)
    command = ("fetch", name, "--peer", share.peer, "--limit-rate", "12M", "--wait", "1", "--json")
    ends = []
    fetch = bob.start(*command)
    part = bob.place / f".{name}.raw.part"
    until(lambda: part.exists() or not fetch.running, what="some transfer")
    with open(path, "r+b") as file:
        for offset in range(4 * MIB, 20 * MIB, MIB):
            os.pwrite(file.fileno(), new[offset : offset + MIB], offset)
            ends += [] if fetch.running else [fetch.wait().code]
            if not fetch.running:
                fetch = bob.start(*command)
    ends.append(fetch.wait().code)

    for code in ends:
        assert code in (DONE, NOT_FOUND, NETWORK, NOT_VERIFIED), ends
    if bob.files():
        assert (bob.place / path.name).read_bytes() in (old, new)
    until(lambda: [item["version"] for item in listed(bob, share, name)] == [2], what="version 2")
    (item,) = bob.fetch(name, "--peer", share.peer, "--replace")
    assert item["version"] == 2
    assert Path(item["path"]).read_bytes() == new


def test_images_come_go_and_are_replaced_in_a_shared_directory(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    old, new, kept = (lab.name(word) for word in ("old", "new", "kept"))
    for name in (old, kept):
        disks.make_master(alice.place / f"{name}.qcow2", size=MIB)
    share = alice.share(alice.place)
    assert {item["name"] for item in share.document()["shared"]} == {old, kept}

    disks.make_master(alice.place / f"{new}.qcow2", size=MIB)
    (alice.place / f"{old}.qcow2").unlink()
    newer = disks.make_master(alice.place / ".newer.qcow2", size=MIB, seed="newer")
    newer.replace(alice.place / f"{kept}.qcow2")

    def versions() -> dict[str, int]:
        found = bob.json("ls", "--peer", share.peer, "--wait", "0.5")["images"]
        return {item["name"]: item["version"] for item in found}

    until(lambda: versions() == {new: 1, kept: 2}, what="all the changes listed")
    for name in (new, kept):
        (item,) = bob.fetch(name, "--peer", share.peer)
        assert disks.identical(alice.place / f"{name}.qcow2", Path(item["path"]))
    assert bob.fails(NOT_FOUND, "fetch", old, "--peer", share.peer, "--wait", "1")["hint"]


def test_another_publisher_s_version_follows_the_one_it_was_made_of(lab: Lab) -> None:
    alice, bob, carol = (lab.node(word) for word in ("alice", "bob", "carol"))
    name = lab.name("disk")
    share = alice.share(disks.make_master(alice.place / f"{name}.raw", size=MIB))
    (item,) = bob.fetch(name, "--peer", share.peer)
    theirs = bob.share(Path(item["path"]))
    assert theirs.document()["shared"][0]["publisher"] == item["publisher"]
    theirs.stop()
    Path(item["path"]).chmod(0o644)
    with open(item["path"], "r+b") as file:
        file.write(disks.noise("bob was here", 4 * KIB))

    theirs = bob.share(Path(item["path"]))

    (published,) = theirs.document()["shared"]
    assert published["version"] == 2 and published["follows"] == [item["manifest"]]
    assert published["publisher"] != item["publisher"]
    assert f"overlaysync trust {published['publisher']} --name {name}" in theirs.stderr
    peers = ("--peer", share.peer, "--peer", theirs.peer)
    assert carol.fails(USAGE, "fetch", name, *peers)["candidates"]
    (oldest,) = carol.fetch(f"{name}:1", *peers)
    assert oldest["disk"] == item["disk"]
    carol.run("trust", published["publisher"])
    (newest,) = carol.fetch(name, *peers, "--as", "two")
    assert newest["version"] == 2
    shutil.rmtree(bob.place)
