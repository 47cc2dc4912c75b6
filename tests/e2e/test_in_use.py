"""A VM that runs while its image is shared stays in every list, and its last version comes from others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from overlaysync.units import KIB, MIB
from tests.e2e import disks
from tests.e2e.nodes import DONE, IN_USE, Lab, Node, Share, until

_WATCH_S = 30.0


def listed(node: Node, name: str, *shares: Share) -> list[dict[str, Any]]:
    peers = [word for share in shares for word in ("--peer", share.peer)]
    images: list[dict[str, Any]] = node.json("ls", name, *peers, "--wait", "2")["images"]
    return images


def vm(lab: Lab, node: Node) -> Path:
    """An overlay named web on a master."""
    master = disks.make_master(node.place / f"{lab.name('base')}.qcow2", size=MIB)
    return disks.make_overlay(node.place / f"{lab.name('web')}.qcow2", master, (0, 64 * KIB))


def test_a_vm_in_use_stays_listed_and_others_give_its_last_version(lab: Lab) -> None:
    alice, bob, carol = lab.node("alice"), lab.node("bob"), lab.node("carol")
    overlay = vm(lab, alice)
    name = overlay.stem
    share = alice.share(overlay)
    label = share.document()["node"]
    bob.fetch(name, "--peer", share.peer)
    second = bob.share(bob.place / overlay.name)
    other = second.document()["node"]

    with disks.opened_by_qemu(overlay):
        disks.write_through_qemu(overlay, 0, disks.noise("written by the guest", 64 * KIB))
        until(lambda: listed(carol, name, share)[0]["in_use"], within_s=_WATCH_S, what="use")
        (image,) = listed(carol, name, share, second)
        assert (image["version"], image["machines"], len(image["nodes"])) == (1, 1, 1)
        (usage,) = image["in_use_at"]
        assert usage["node"] == label and usage["since"].endswith("Z")
        fetched = carol.fetch(name, "--peer", share.peer, "--peer", second.peer)
        assert fetched[-1]["version"] == 1
        assert (carol.place / overlay.name).exists()
        (shown,) = carol.json("history", name, "--peer", share.peer, "--peer", second.peer)["history"]
        assert {(one["node"], one["now"]) for one in shown["holders"]} == {(other, True)}

        # Nobody else has it any more.
        second.stop()
        asked = ("--peer", share.peer, "--wait", "2")
        text = carol.run("ls", name, *asked).stdout
        assert f"in use at {label}; last published {name}:1" in text and "×" not in text
        dave = lab.node("dave")
        error = dave.fails(IN_USE, "fetch", name, *asked)
        assert f"in use at {label}" in error["why"] and "snapshot" in error["hint"]
        assert dave.files() == set()
        assert carol.fetch(name, *asked)[-1]["already_here"]
        # Lists and sync go on.
        (row,) = carol.json("history", name, *asked)["history"]
        assert row["in_use"] and row["held_by"] == []
        assert {(one["node"], one["now"]) for one in row["holders"]} >= {(other, False)}
        assert "in use at" in carol.run("show", name, *asked).stdout.replace("in use at  ", "in use at ")
        base = lab.name("base")
        synced = dave.run("sync", name, base, *asked, "--json")
        assert synced.code == IN_USE
        assert [one["name"] for one in synced.document["synced"]] == [base]
        assert [one["exit_code"] for one in synced.document["failed"]] == [IN_USE]
        assert carol.run("sync", name, *asked).code == DONE

    until(lambda: listed(carol, name, share)[0]["version"] == 2, within_s=_WATCH_S, what="the next version")
    (image,) = listed(carol, name, share)
    assert (image["in_use"], image["machines"]) == (False, 1)


def test_a_share_that_begins_while_the_vm_runs_lists_what_it_published_before(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    overlay = vm(lab, alice)
    alice.share(overlay).stop()
    with disks.opened_by_qemu(overlay) as pid:
        disks.write_through_qemu(overlay, 0, disks.noise("written by the guest", 64 * KIB))
        share = alice.share(overlay)
        (used,) = share.document()["in_use"]
        assert (used["name"], used["version"], share.document()["shared"]) == (overlay.stem, 1, [])
        (image,) = listed(bob, overlay.stem, share)
        assert image["in_use"] and image["peers"] == []
        assert [one["in_use"] for one in alice.json("ls", overlay.stem, "--local")["images"]] == [True]
        # Under another name, or for a team, it was never published.
        team = lab.team("red", alice)
        for more in (("--as", "other"), ("--team", team)):
            error = alice.fails(IN_USE, "share", overlay, *more)
            assert f"pid {pid}" in error["why"]
    until(lambda: not listed(bob, overlay.stem, share)[0]["in_use"], within_s=_WATCH_S, what="its end")
    assert listed(bob, overlay.stem, share)[0]["version"] == 2


def test_what_a_team_has_in_use_is_for_its_members_alone(lab: Lab) -> None:
    alice, bob, carol = lab.node("alice"), lab.node("bob"), lab.node("carol")
    overlay = vm(lab, alice)
    team = lab.team("red", alice, bob)
    share = alice.share(overlay, "--team", team)
    with disks.opened_by_qemu(overlay):
        until(lambda: listed(bob, overlay.stem, share)[0]["in_use"], within_s=_WATCH_S, what="use")
        assert carol.json("ls", "--peer", share.peer, "--wait", "2")["images"] == []
        assert overlay.stem not in carol.run("peers", "--peer", share.peer).stdout
