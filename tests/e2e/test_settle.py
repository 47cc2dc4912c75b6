"""Ending a fork whose other side cannot be had any more, with real processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from overlaysync.units import KIB, MIB
from tests.e2e import disks
from tests.e2e.nodes import DONE, NOT_FOUND, USAGE, WOULD_DESTROY, Lab, Node
from tests.e2e.versions import edit, publish, shared

pytestmark = [pytest.mark.qemu, pytest.mark.holds("A3")]


class Forked:
    """A name of a team that Ann and Ben have each gone on from; Cleo has heard of both sides.

    Attributes:
        mine, theirs: Ann's file and Ben's.
    """

    def __init__(self, lab: Lab) -> None:
        nodes = [lab.node(word) for word in ("ann", "ben", "cleo")]
        self.ann, self.ben, self.cleo = nodes
        team = lab.team("red", *nodes)
        self.mine = disks.make_master(self.ann.place / f"{lab.name('web')}.qcow2", size=MIB)
        self.name = f"{team}/{self.mine.stem}"
        with shared(self.ann, self.mine, "--team", team) as share:
            for node in (self.ben, self.cleo):
                node.fetch(self.name, "--peer", share.peer)
        self.theirs = self.ben.place / self.mine.name
        edit(self.mine, "ann")
        edit(self.theirs, "ben", offset=512 * KIB)
        with shared(self.ann, self.mine) as share, shared(self.ben, self.theirs) as side:
            for node in (self.ann, self.cleo):
                node.json("history", self.name, "--peer", share.peer, "--peer", side.peer, "--wait", "2")


def settled(node: Node, path: Path) -> list[int]:
    """The versions that a file is chosen over."""
    return [item["version"] for item in node.json("settle", path)["settled"]]


def test_a_side_that_is_lost_is_settled_without_it(lab: Lab) -> None:
    """Ben's machine is gone, and with it his side. When it comes back after all, he still has his work."""
    fork = Forked(lab)
    ann, ben, cleo, mine = fork.ann, fork.ben, fork.cleo, fork.mine
    work = fork.theirs.read_bytes()
    copy = cleo.place / mine.name
    with shared(ann, mine) as share:
        refused = cleo.run("sync", fork.name, "--peer", share.peer)
        assert refused.code == USAGE and "overlaysync settle FILE" in refused.stderr

    said = ann.run("settle", mine).stdout
    assert "ben@" in said and f"overlaysync share {mine}" in said
    assert publish(ann, mine)["version"] == 3
    with shared(ann, mine) as share:
        (entry, *_) = ann.json("history", fork.name, "--local")["history"]
        assert entry["version"] == 3 and len(entry["follows"]) == 2 and not entry["fork"]
        done = cleo.run("sync", fork.name, "--peer", share.peer)
        assert done.code == DONE and disks.identical(mine, copy)

        back = ben.run("sync", fork.name, "--peer", share.peer, "--json")
        assert back.code == WOULD_DESTROY and fork.theirs.read_bytes() == work
        (error,) = back.document["failed"]
        assert "no other machine is known to have this version" in error["why"]


def test_a_running_share_says_how_to_choose_its_side(lab: Lab) -> None:
    fork = Forked(lab)
    with shared(fork.ann, fork.mine) as share:
        assert f"to choose yours: overlaysync settle {fork.mine}" in share.stderr
    assert settled(fork.ann, fork.mine) == [2]
    edit(fork.mine, "goes on")
    assert publish(fork.ann, fork.mine)["version"] == 3
    assert settled(fork.ann, fork.mine) == []


def test_what_has_no_side_is_said(lab: Lab) -> None:
    node = lab.node("ann")
    path = disks.make_master(node.place / f"{lab.name('web')}.qcow2", size=MIB)
    assert f"overlaysync share {path}" in node.fails(USAGE, "settle", path)["hint"]
    assert publish(node, path)["version"] == 1
    assert "nothing to settle" in node.run("settle", path).stdout
    node.fails(NOT_FOUND, "settle", node.place / "nothing.qcow2")
