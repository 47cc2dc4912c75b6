"""Versions as people see them: history, ls, show, and fetching an old one, with real processes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from overlaysync.units import MIB
from tests.e2e import disks
from tests.e2e.nodes import DONE, NOT_FOUND, USAGE, WOULD_DESTROY, Lab, Node
from tests.e2e.versions import edit, publish, shared

pytestmark = pytest.mark.qemu


def team_of(lab: Lab, *words: str) -> tuple[str, list[Node]]:
    """A team, and nodes that are its members."""
    nodes = [lab.node(word) for word in words]
    return lab.team("red", *nodes), nodes


def test_the_versions_of_a_name_with_what_each_follows_and_who_has_it(lab: Lab) -> None:
    team, (alice, bob, carol) = team_of(lab, "alice", "bob", "carol")
    name = lab.name("web")
    master = disks.make_master(alice.place / f"{name}.qcow2", size=MIB)
    with shared(alice, master, "--team", team) as share:
        (item,) = bob.fetch(f"{team}/{name}", "--peer", share.peer)
        edit(Path(item["path"]), "bob")
        second = publish(bob, Path(item["path"]), "-m", "fixed the routing")
        assert (second["version"], second["follows"]) == (2, [one_id(bob, name, 1)])
        with shared(bob, item["path"]) as theirs:
            asked = ("--peer", share.peer, "--peer", theirs.peer, "--wait", "2")
            newest, oldest = carol.json("history", f"{team}/{name}", *asked)["history"]
            text = carol.run("history", f"{team}/", *asked).stdout
            (listed, _) = carol.json("ls", name, *asked)["images"]
            shown = carol.json("show", name, *asked)

    assert (newest["version"], newest["follows"], newest["fork"]) == (2, [oldest["manifest"]], False)
    assert (oldest["version"], oldest["follows"], oldest["fork"]) == (1, [], False)
    assert newest["id"] == second["disk"] and newest["created"] == second["created"]
    assert [label.split("@")[0] for label in newest["held_by"]] == ["bob"]
    assert [label.split("@")[0] for label in oldest["held_by"]] == ["alice"]
    assert (newest["here"], newest["note"], newest["team"]) == ([], "fixed the routing", team)
    for fields in (listed, shown, bob.json("show", item["path"])):
        assert fields["note"] == newest["note"] and fields["follows"] == newest["follows"]
        assert fields["created"] == newest["created"] and fields["fork"] is False
    first, second_line = text.splitlines()
    assert first.startswith(f"{team}/{name}:2") and "follows 1" in first and "at bob@" in first
    assert "“fixed the routing”" in first
    assert second_line.startswith(f"{team}/{name}:1") and "follows" not in second_line

    offline = bob.json("history", name, "--local")["history"]
    assert [entry["version"] for entry in offline] == [2, 1]
    assert [entry["here"] for entry in offline] == [[item["path"]], []]
    assert "no machine within reach" in carol.run("history", name, "--wait", "0.2").stdout
    absent = carol.fails(NOT_FOUND, "history", "nothing-like-it", "--local")
    assert "machines that answer" not in absent["why"] and "--local" in absent["hint"]  # nobody was asked


def one_id(node: Node, name: str, version: int) -> str:
    """The manifest id of a version that a node has seen."""
    entries = node.json("history", f"{name}:{version}", "--local")["history"]
    (id,) = {entry["manifest"] for entry in entries}
    return str(id)


def test_a_fork_is_said_by_history_ls_and_show_and_settled_by_what_follows_both(lab: Lab) -> None:
    team, (alice, bob, carol) = team_of(lab, "alice", "bob", "carol")
    name = lab.name("web")
    mine = disks.make_master(alice.place / f"{name}.qcow2", size=MIB)
    with shared(alice, mine, "--team", team) as share:
        (item,) = bob.fetch(name, "--peer", share.peer)
    theirs = Path(item["path"])
    edit(mine, "alice")
    edit(theirs, "bob")
    with shared(alice, mine) as share, shared(bob, theirs) as other:
        asked = ("--peer", share.peer, "--peer", other.peer, "--wait", "2")
        listed = carol.json("ls", name, *asked)["images"]
        assert [(one["version"], one["fork"]) for one in listed] == [(2, True), (2, True)]
        assert carol.run("ls", *asked).stdout.count("2 versions, forked") == 2
        history = carol.json("history", name, *asked)["history"]
        assert [(one["version"], one["fork"]) for one in history] == [(2, True), (2, True), (1, False)]
        assert history[0]["follows"] == history[1]["follows"] == [history[2]["manifest"]]
        sides = carol.json("show", name, *asked)["images"]
        assert {side["by"].split("@")[0] for side in sides} == {"alice", "bob"}
        assert all(side["fork"] for side in sides)
        shown = carol.run("show", name, *asked)
        assert "2 versions, forked" in shown.stderr and shown.stdout.count("fork") == 2
        error = carol.fails(USAGE, "fetch", name, *asked)
        assert len(error["candidates"]) == 2

    # Nothing that her share prints loses Alice's side unasked. She takes Bob's on purpose, and goes on from
    # there: what follows follows both.
    content, lonely = mine.read_bytes(), "no other machine is known to have this version"
    with shared(bob, theirs) as other:
        alice.json("ls", name, "--peer", other.peer, "--wait", "2")
        with shared(alice, mine) as share:
            (said,) = re.findall("This forks .* bob@.*", share.stderr)
        assert lonely in said, said
        both, choose = re.findall("overlaysync (fetch [^;]*);", said)
        beside = alice.json(*shlex.split(both), "--peer", other.peer)["fetched"][0]
        assert disks.identical(theirs, Path(beside["path"])) and mine.read_bytes() == content
        Path(beside["path"]).unlink()
        refused = alice.fails(WOULD_DESTROY, *shlex.split(choose), "--peer", other.peer)
        assert lonely in refused["why"] and "--discard-changes" in refused["hint"]
        take = (*shlex.split(choose), "--discard-changes", "--peer", other.peer)
        dry = alice.run(*take, "--dry-run")
        assert "your side of the fork" in dry.stdout and lonely in dry.stdout and lonely in dry.stderr
        assert lonely in alice.json(*take, "-n")["plan"][-1]["would_lose"] and mine.read_bytes() == content
        taken = alice.run(*take)
        assert taken.code == DONE and lonely in taken.stdout and lonely in taken.stderr
    edit(mine, "settled")
    with shared(alice, mine) as share, shared(bob, theirs) as other:
        asked = ("--peer", share.peer, "--peer", other.peer, "--wait", "2")
        newest, *sides, _ = carol.json("history", name, *asked)["history"]
        assert (newest["version"], newest["fork"]) == (3, False)
        by = {side["by"].split("@")[0]: side["manifest"] for side in sides}
        assert newest["follows"] == [by["bob"], by["alice"]], "first the one that it was made from"
        assert not any(side["fork"] for side in sides)
        line = carol.run("history", name, *asked).stdout.splitlines()[0]
        assert "follows 2 (" in line and " and 2 (" in line
        listed = carol.json("ls", name, *asked)["images"]
        assert [one["version"] for one in listed] == [3, 2]
        assert "older" in carol.run("ls", *asked).stdout.splitlines()[1]


def test_an_old_version_comes_as_long_as_anyone_lists_it(lab: Lab) -> None:
    team, (alice, bob, carol, dave) = team_of(lab, "alice", "bob", "carol", "dave")
    name = lab.name("web")
    master = disks.make_master(alice.place / f"{name}.qcow2", size=MIB)
    first = publish(alice, master, "--team", team)
    with shared(alice, master) as share:
        (old,) = bob.fetch(name, "--peer", share.peer)
    for word in ("two", "three"):
        edit(master, word)
        publish(alice, master)
    with shared(alice, master) as share, shared(bob, old["path"]) as theirs:
        asked = ("--peer", share.peer, "--peer", theirs.peer, "--wait", "2")
        (item,) = carol.fetch(f"{name}:1", *asked)
        assert (item["version"], item["disk"]) == (1, first["disk"])
        assert disks.identical(Path(old["path"]), Path(item["path"]))
        (newest,) = dave.fetch(name, *asked)
        assert newest["version"] == 3
        assert dave.fails(NOT_FOUND, "fetch", f"{name}:2", *asked)
        versions = [
            (one["version"], bool(one["held_by"])) for one in dave.json("history", name, *asked)["history"]
        ]
        assert versions == [(3, True), (2, False), (1, True)]


def test_show_of_a_team_shows_all_of_it(lab: Lab) -> None:
    team, (alice, bob) = team_of(lab, "alice", "bob")
    names = sorted(lab.name(word) for word in ("web", "db"))
    for name in names:
        disks.make_master(alice.place / f"{name}.qcow2", size=MIB)
    with shared(alice, alice.place, "--team", team) as share:
        images = bob.json("show", f"{team}/", "--peer", share.peer, "--wait", "2")["images"]
    assert [image["name"] for image in images] == names
    assert all(image["created"] and image["follows"] == [] for image in images)
