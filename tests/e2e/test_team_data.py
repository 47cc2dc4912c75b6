"""A team's data in another file: no advice, and no running share, makes them public."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from overlaysync.units import MIB
from tests.e2e import disks
from tests.e2e.nodes import NOT_ALLOWED, USAGE, WOULD_DESTROY, Lab, Node, until
from tests.images import create, draw, run

pytestmark = pytest.mark.qemu


def team_s_overlay(lab: Lab, alice: Node) -> tuple[str, Path, Path]:
    """A public master, and an overlay on it that is shared with a team; both in one folder."""
    team = lab.team("red", alice)
    folder = alice.place / "lab"
    folder.mkdir()
    master = disks.make_master(folder / "debian.raw", size=4 * MIB)
    published(alice, master)
    overlay = create(folder / "web.qcow2", backing=master)
    draw(overlay, "TEAMDATA")
    published(alice, overlay, "--team", team)
    return team, master, overlay


def published(node: Node, *words: Path | str) -> None:
    share = node.share(*words)
    share.document()
    share.stop()


def copy_of(overlay: Path) -> Path:
    """A backup of a VM that was started."""
    copy = overlay.with_name("backup.qcow2")
    copy.write_bytes(overlay.read_bytes())
    draw(copy, "X", offset=2 * MIB)
    return copy


def test_a_copy_of_a_team_s_overlay_that_a_vm_wrote_to_is_made_public_by_nobody_but_the_user(
    lab: Lab,
) -> None:
    alice = lab.node("alice")
    team, master, overlay = team_s_overlay(lab, alice)
    share = alice.share("--public", master.parent, "--exclude", "web*")
    copy = copy_of(overlay)
    until(lambda: "left out" in share.stderr, what="the copy is noticed")
    assert f"Not sharing {copy}" in share.stderr and f"data of {team}/web:1" in share.stderr
    assert [item["name"] for item in alice.json("ls", "--peer", share.peer)["images"]] == ["debian"]
    share.stop()
    refused = alice.fails(NOT_ALLOWED, "share", copy)
    (ours, public) = (shlex.split(way)[1:] for way in re.findall(r"overlaysync [^;]*", refused["hint"]))
    assert "--yes" in alice.fails(USAGE, *public)["hint"], "asked: there is no terminal"
    share = alice.share(*ours[1:])
    first = share.document()["shared"][0]
    assert (first["team"], first["name"]) == (team, "backup")
    share.stop()
    share = alice.share(*public[1:], "--yes")
    assert share.document()["shared"][0]["team"] == ""


def test_a_master_that_a_team_s_overlay_was_committed_into_is_kept_for_the_team(lab: Lab) -> None:
    alice = lab.node("alice")
    team, master, overlay = team_s_overlay(lab, alice)
    run("qemu-img", "commit", "-q", overlay)
    hint = alice.fails(WOULD_DESTROY, "verify", "--repair", master)["hint"]
    assert f"cp {master} COPY" in hint and f"overlaysync share --team {team} COPY" in hint
    assert "--public" not in hint and f"share {master}" not in hint
    assert f"data of {team}/web:1" in alice.fails(NOT_ALLOWED, "share", master)["why"]
