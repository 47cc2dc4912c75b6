"""References that mean several things: all of them are done, or none is chosen."""

from __future__ import annotations

from pathlib import Path

import pytest

from overlaysync.units import KIB, MIB
from tests import images
from tests.e2e import disks
from tests.e2e.nodes import DONE, IN_USE, NOT_FOUND, NOT_VERIFIED, USAGE, WOULD_DESTROY, Lab, Node
from tests.e2e.versions import publish, shared

pytestmark = [pytest.mark.qemu, pytest.mark.holds("B2")]


def damage(path: Path) -> None:
    """Turn bits of an image over, as a failing disk does."""
    path.chmod(0o644)
    images.patch(path, path.stat().st_size - 64 * KIB, b"rot")
    path.chmod(0o444)


def team_here(lab: Lab, node: Node, *words: str) -> tuple[str, list[Path]]:
    """A team's masters on a node, published."""
    team = lab.team("red", node)
    paths = [disks.make_master(node.place / f"{lab.name(word)}.qcow2", size=MIB) for word in words]
    share = node.share(*paths, "--team", team)
    share.stop()
    return team, paths


def test_verify_of_a_team_finds_damage_in_any_image(lab: Lab) -> None:
    alice = lab.node("alice")
    team, paths = team_here(lab, alice, "a", "b", "c")
    (alice.place / team).mkdir()  # where its images might be: TEAM/ means the team all the same
    verified = alice.json("verify", f"{team}/")["verified"]
    assert [item["path"] for item in verified] == [str(path) for path in paths]

    for path in paths:
        before = path.read_bytes()
        damage(path)
        result = alice.run("verify", f"{team}/", "--json")
        assert result.code == NOT_VERIFIED
        found = {item["path"]: item["ok"] for item in result.document["verified"]}
        assert found == {str(other): other != path for other in paths}
        path.chmod(0o644)
        path.write_bytes(before)
    assert alice.run("verify", f"{lab.name('a')[:1]}-*", paths[1]).code == DONE


def test_verify_goes_on_after_an_image_that_cannot_be_read(lab: Lab) -> None:
    alice = lab.node("alice")
    team, (first, second) = team_here(lab, alice, "a", "b")
    with disks.opened_by_qemu(first):
        busy = alice.run("verify", f"{team}/", "--json")
        assert busy.code == IN_USE
        assert [item["path"] for item in busy.document["verified"]] == [str(second)]
        assert [item["exit_code"] for item in busy.document["failed"]] == [IN_USE]
        damage(second)
        assert alice.run("verify", f"{team}/").code == NOT_VERIFIED
        assert alice.fails(IN_USE, "verify", first)


def test_what_takes_one_thing_refuses_several(lab: Lab) -> None:
    alice = lab.node("alice")
    team, paths = team_here(lab, alice, "a", "b")
    overlay = disks.make_overlay(alice.place / f"{lab.name('vm')}.qcow2", paths[0], (0, 64 * KIB))
    before = alice.files()
    for words in (
        ("new", "fresh.qcow2", "--master", f"{team}/"),
        ("rebase", overlay, "--onto", f"{team}/"),
        ("promote", f"{team}/", "--as", "kept"),
        ("id", f"{team}/"),
        ("rebase", f"{team}/", "--onto", paths[0]),
    ):
        error = alice.fails(USAGE, *words)
        assert len(error["candidates"]) == 2 and error["hint"], words
        assert all(any(str(path) in line for line in error["candidates"]) for path in paths)
    assert alice.files() == before
    # What only one file fits is that one.
    assert alice.json("id", paths[0].stem)["path"] == str(paths[0])
    made = alice.json("new", "fresh.qcow2", "--master", f"{paths[1].stem[:1]}-*")
    assert made["parent"] == alice.json("id", paths[1])["disk"]
    assert alice.fails(NOT_FOUND, "id", f"{team}/nothing")


def test_promote_and_rebase_take_a_name(lab: Lab) -> None:
    alice = lab.node("alice")
    base, other = (disks.make_master(alice.place / f"{lab.name(word)}.qcow2", size=MIB) for word in "ab")
    overlay = disks.make_overlay(alice.place / f"{lab.name('vm')}.qcow2", base, (0, 64 * KIB))
    publish(alice, overlay)
    disks.write(overlay, 128 * KIB, disks.noise("since", 4 * KIB))  # as its VM would
    promoted = alice.json("promote", overlay.stem, "--as", lab.name("kept"))
    assert disks.identical(overlay, Path(promoted["path"]))
    moved = alice.json("rebase", overlay.stem, "--onto", other, "--as", lab.name("moved"))
    assert disks.identical(overlay, Path(moved["path"]))


def test_discard_takes_names_like_paths(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    team = lab.team("red", alice, bob)
    base = disks.make_master(alice.place / f"{lab.name('base')}.qcow2", size=MIB)
    vms = [
        disks.make_overlay(alice.place / f"{lab.name(word)}.qcow2", base, (0, 64 * KIB))
        for word in ("vm1", "vm2", "vm3")
    ]
    with shared(alice, alice.place, "--team", team) as share:
        bob.fetch(f"{team}/", "--peer", share.peer)
        assert bob.files() == alice.files()
        assert bob.fails(WOULD_DESTROY, "discard", base.stem, "--yes")
        assert bob.json("discard", vms[0].stem, "--yes")["discarded"] == [str(bob.place / vms[0].name)]
        copy = bob.place / "copy.qcow2"
        copy.write_bytes((bob.place / vms[1].name).read_bytes())
        bob.json("id", copy)
        assert len(bob.fails(USAGE, "discard", vms[1].stem, "--yes")["candidates"]) == 2
        copy.unlink()
        result = bob.run("discard", f"{team}/", "--yes", "--json")
    assert result.code == DONE
    assert result.document["discarded"] == [str(bob.place / vm.name) for vm in vms[1:]]
    assert "is a master, and stays" in result.stderr
    assert bob.files() == {base.name}
