"""Sync with real processes: what moves forward, what is left alone, and a spare machine that follows."""

from __future__ import annotations

import os
import shlex
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from overlaysync.units import KIB, MIB
from tests.e2e import disks
from tests.e2e.nodes import DONE, INTERRUPTED, NOT_FOUND, USAGE, WOULD_DESTROY, Lab, Node, Share, until
from tests.e2e.versions import edit, publish, shared

pytestmark = [pytest.mark.qemu, pytest.mark.holds("B2")]

FORWARD_S = 15
"""A version that is published is at a machine that watches within this time."""


class Watch(Share):
    """A ``sync --watch`` in the background."""


def watch(node: Node, *arguments: object) -> Watch:
    """Start to watch, and wait until it follows."""
    started = node._start(Watch, "sync", *arguments, "--watch", "--json")
    started.document()
    return started


def states(document: Any) -> dict[str, str]:
    """What became of each image."""
    return {f"{item['name']}:{item['version']}": item["state"] for item in document["synced"]}


def team_with_vm(lab: Lab, *words: str) -> tuple[str, list[Node], Path, Path]:
    """A team, its members, and the first one's master and overlay on it."""
    nodes = [lab.node(word) for word in words]
    team = lab.team("red", *nodes)
    base = disks.make_master(nodes[0].place / f"{lab.name('base')}.qcow2", size=2 * MIB)
    vm = disks.make_overlay(nodes[0].place / f"{lab.name('vm')}.qcow2", base, (0, 64 * KIB))
    return team, nodes, base, vm


# -- once --------------------------------------------------------------------------------------------


def test_what_is_absent_comes_and_what_is_unchanged_moves_forward(lab: Lab) -> None:
    team, (alice, bob), base, vm = team_with_vm(lab, "alice", "bob")
    masters, vms = bob.place / "masters", bob.place / "vms"
    where = ("--to", vms, "--masters", masters, "--wait", "2")
    with shared(alice, alice.place, "--team", team) as share:
        first = bob.json("sync", f"{team}/", *where, "--peer", share.peer)
        again = bob.json("sync", f"{team}/", *where, "--peer", share.peer)
    assert states(first) == {f"{base.stem}:1": "fetched", f"{vm.stem}:1": "fetched"}
    assert set(states(again).values()) == {"current"} and "failed" not in again
    assert (bob.files(masters), bob.files(vms)) == ({base.name}, {vm.name})

    disks.write(vm, MIB, disks.noise("more", 64 * KIB))
    with shared(alice, alice.place) as share:
        forward = bob.json("sync", vm.stem, *where, "--peer", share.peer)
        assert states(forward) == {f"{vm.stem}:2": "updated"}
        assert forward["synced"][0]["wire"]["data"] == 64 * KIB
    assert disks.identical(vm, vms / vm.name)
    assert (bob.files(masters), bob.files(vms)) == ({base.name}, {vm.name})


def test_a_publisher_s_own_file_moves_forward_to_what_another_made_of_it(lab: Lab) -> None:
    team, (alice, bob), base, vm = team_with_vm(lab, "alice", "bob")
    with shared(alice, alice.place, "--team", team) as share:
        bob.fetch(f"{team}/{vm.stem}", "--peer", share.peer)
    edit(bob.place / vm.name, "bob", offset=MIB)
    with shared(bob, bob.place) as share:
        assert states(alice.json("sync", f"{team}/", "--peer", share.peer, "--wait", "2")) == {
            f"{base.stem}:1": "current",
            f"{vm.stem}:2": "updated",
        }
    assert disks.identical(bob.place / vm.name, vm)


def test_a_master_is_left_in_whichever_of_the_directories_has_it(lab: Lab) -> None:
    team, (alice, bob), base, vm = team_with_vm(lab, "alice", "bob")
    empty, system = bob.place / "empty", bob.place / "system"
    masters = ("--masters", empty, "--masters", system, "--to", bob.place, "--wait", "2")
    with shared(alice, alice.place, "--team", team) as share:
        bob.fetch(base.stem, "--to", system, "--peer", share.peer)
        done = bob.json("sync", f"{team}/", *masters, "--peer", share.peer)
    assert states(done) == {f"{base.stem}:1": "current", f"{vm.stem}:1": "fetched"}
    assert not empty.exists() and bob.files() == {"system", vm.name}


def test_work_and_forks_are_listed_and_never_touched(lab: Lab) -> None:
    """One file with work in it, one whose name is forked, one of unknown origin; the rest comes."""
    nodes = [lab.node(word) for word in ("alice", "bob", "carol")]
    alice, bob, carol = nodes
    team = lab.team("red", *nodes)
    names = {word: lab.name(word) for word in ("fine", "forked", "odd", "work")}
    paths = {word: disks.make_master(alice.place / f"{name}.qcow2", size=MIB) for word, name in names.items()}
    with shared(alice, alice.place, "--team", team) as share:
        for word in ("forked", "work", "fine"):
            for node in (bob, carol):
                node.fetch(names[word], "--peer", share.peer)
    work, forked, odd = (bob.place / paths[word].name for word in ("work", "forked", "odd"))
    edit(work, "bob's work")
    disks.make_master(odd, size=MIB, seed="from a stick")
    side = carol.place / forked.name
    edit(side, "carol")
    publish(carol, side)
    for word in ("fine", "forked", "work"):
        edit(paths[word], "alice")
    before = {path: path.read_bytes() for path in (work, forked, odd)}

    with shared(alice, alice.place) as share, shared(carol, side) as other:
        peers = ("--peer", share.peer, "--peer", other.peer, "--wait", "2")
        result = bob.run("sync", f"{team}/", *peers, "--json")
        text = bob.run("sync", f"{team}/", *peers)

    assert states(result.document) == {f"{names['fine']}:2": "updated"}
    failed = {one["name"].partition("/")[2]: one for one in result.document["failed"]}
    assert {name: one["exit_code"] for name, one in failed.items()} == {
        names["forked"]: USAGE,
        names["odd"]: WOULD_DESTROY,
        names["work"]: WOULD_DESTROY,
    }
    assert len(failed[names["forked"]]["candidates"]) == 2
    assert f"overlaysync share '{work}'" in failed[names["work"]]["hint"]
    assert f"overlaysync fetch {team}/{names['odd']} --" in failed[names["odd"]]["hint"]
    assert result.code == text.code == result.document["failed"][0]["exit_code"]
    assert all(name in text.stderr for name in failed)
    assert {path: path.read_bytes() for path in before} == before
    assert disks.identical(paths["fine"], bob.place / paths["fine"].name)


def test_the_last_copy_of_a_side_that_was_given_up_stays(lab: Lab) -> None:
    """Ben settles a fork for Ann's side. His own, Cleo still has, and by then no other machine."""
    nodes = [lab.node(word) for word in ("ann", "ben", "cleo")]
    ann, ben, cleo = nodes
    team = lab.team("red", *nodes)
    ours = disks.make_master(ann.place / f"{lab.name('web')}.qcow2", size=MIB)
    name = f"{team}/{ours.stem}"
    with shared(ann, ours, "--team", team) as share:
        ben.fetch(name, "--peer", share.peer)
    side, kept = ben.place / ours.name, cleo.place / ours.name
    edit(ours, "ann")
    edit(side, "ben", offset=512 * KIB)
    with shared(ben, side) as share:
        cleo.fetch(name, "--peer", share.peer)
        cleo.json("ls", name, "--peer", share.peer, "--wait", "0.5")
    before = kept.read_bytes()
    with shared(ann, ours) as share:
        ben.fetch(name, "--peer", share.peer, "--discard-changes")
    with shared(ben, side) as share:
        refused = cleo.run("sync", name, "--json", "--peer", share.peer)
        (failed,) = (
            refused.document["failed"] if "failed" in refused.document else [refused.document["error"]]
        )
    assert refused.code == WOULD_DESTROY and kept.read_bytes() == before
    assert "no other machine is known to have this version" in failed["why"]
    assert "--as NAME" in failed["hint"] and "--discard-changes" in failed["hint"]
    # An untouched file that is merely older goes forward as ever.
    edit(side, "ben goes on")
    with shared(ben, side) as share:
        assert states(ann.json("sync", name, "--peer", share.peer)) == {f"{name.split('/')[1]}:4": "updated"}


def test_a_link_is_left_alone(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    master = disks.make_master(alice.place / f"{lab.name('web')}.qcow2", size=MIB)
    other = disks.make_master(bob.place / "other.qcow2", size=MIB)
    (bob.place / master.name).symlink_to(other)
    with shared(alice, master) as share:
        command = f"overlaysync fetch {master.stem} --peer {shlex.quote(share.peer)} --replace"
        result = bob.run("sync", master.stem, "--peer", share.peer, "--wait", "1")
    assert result.code == WOULD_DESTROY and command in result.stderr
    assert (bob.place / master.name).is_symlink()


def test_one_version_cannot_be_followed(lab: Lab) -> None:
    alice = lab.node("alice")
    for reference in ("web:2", "b3:0123456789"):
        assert "overlaysync fetch" in alice.fails(USAGE, "sync", reference)["hint"]


def test_what_nobody_has_is_said_and_the_rest_comes(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    master = disks.make_master(alice.place / f"{lab.name('web')}.qcow2", size=MIB)
    with shared(alice, master) as share:
        result = bob.run(
            "sync", "nothing-like-it", master.stem, "--peer", share.peer, "--wait", "1", "--json"
        )
    assert result.code == NOT_FOUND
    assert states(result.document) == {f"{master.stem}:1": "fetched"}
    assert [one["name"] for one in result.document["failed"]] == ["nothing-like-it"]


@pytest.mark.holds("A2")
def test_a_known_fork_is_not_decided_by_who_is_away_and_nothing_that_is_known_is_missed(lab: Lab) -> None:
    nodes = [lab.node(word) for word in ("alice", "bob", "carol")]
    alice, bob, carol = nodes
    team, web, db = lab.team("red", *nodes), lab.name("web"), lab.name("db")
    mine, _ = (disks.make_master(alice.place / f"{name}.qcow2", size=MIB) for name in (web, db))
    with shared(alice, alice.place, "--team", team) as share:
        (item,) = bob.fetch(f"{team}/{web}", "--peer", share.peer)
        carol.fetch(f"{team}/{web}", "--peer", share.peer)
    theirs = Path(item["path"])
    edit(mine, "alice")
    edit(theirs, "bob")
    with shared(alice, alice.place) as share, shared(bob, theirs) as side:
        carol.json("history", f"{team}/", "--peer", share.peer, "--peer", side.peer, "--wait", "2")
    with shared(bob, theirs) as side:
        peers = ("--peer", side.peer, "--wait", "1")
        for to in ("--to", carol.place), ("--to", carol.place / "new"):
            refused = carol.run("sync", f"{team}/{web}", *to, *peers, "--json")
            (error,) = refused.document["failed"]
            assert refused.code == error["exit_code"] == USAGE and not refused.document["synced"]
            assert len(error["candidates"]) == 2
            (away,) = (line for line in error["candidates"] if "no machine within reach" in line)
            assert "alice@" in away and "@bob" in error["hint"]
        assert len(carol.fails(USAGE, "fetch", f"{team}/{web}", "--as", "x", *peers)["candidates"]) == 2
        result = carol.run("sync", f"{team}/", *peers, "--json")
        failed = {one["name"]: one for one in result.document["failed"]}
        assert {name: one["exit_code"] for name, one in failed.items()} == {
            f"{team}/{web}": USAGE,
            f"{team}/{db}": NOT_FOUND,
        }
        text = carol.run("sync", f"{team}/", *peers).stderr
        less = carol.run("sync", f"{team}/", *peers, "--exclude", "db*", "--json")
        assert [one["name"] for one in less.document["failed"]] == [f"{team}/{web}"]
        none = carol.run("sync", f"{team}/", *peers, "--exclude", f"{team}/{web}", "--exclude", "db*")
        assert none.code == DONE, none.stderr
        assert text.count("is forked") == text.count(f"has '{team}/{db}'") == 1, "each problem once"
        taken = carol.run(*shlex.split(error["hint"].partition(";")[0].partition("overlaysync ")[2]))
        assert taken.code == DONE, taken.stderr


# -- watching ----------------------------------------------------------------------------------------


def test_a_machine_that_watches_moves_forward_and_is_a_source(lab: Lab) -> None:
    team, (alice, spare, carol), base, vm = team_with_vm(lab, "alice", "spare", "carol")
    share = alice.share(alice.place, "--team", team)
    follower = watch(spare, f"{team}/", "--peer", share.peer, "--wait", "2")
    assert states(follower.document()) == {f"{base.stem}:1": "fetched", f"{vm.stem}:1": "fetched"}
    copy = spare.place / vm.name

    disks.write(vm, MIB, disks.noise("day one", 64 * KIB))
    until(lambda: f"{vm.stem}:2" in follower.stderr, within_s=FORWARD_S, what="version 2 at the spare")
    share.stop()
    assert disks.identical(vm, copy)

    # The machine that published it is gone; the spare has it, with what it stands on.
    peer = ("--peer", follower.peer, "--wait", "2")

    def listed() -> set[tuple[str, int]]:
        return {(item["name"], item["version"]) for item in carol.json("ls", *peer)["images"]}

    until(lambda: listed() == {(base.stem, 1), (vm.stem, 2)}, what="both images listed by the spare")
    fetched = carol.fetch(f"{team}/{vm.stem}", *peer)
    assert [item["version"] for item in fetched] == [1, 2]
    assert {label.split("@")[0] for item in fetched for label in item["sources"]} == {"spare"}
    assert disks.identical(copy, carol.place / vm.name)
    assert follower.stop().code == INTERRUPTED


def test_what_is_written_to_on_a_machine_that_watches_is_not_published_and_stays(lab: Lab) -> None:
    team, (alice, spare), _, vm = team_with_vm(lab, "alice", "spare")
    share = alice.share(alice.place, "--team", team)
    follower = watch(spare, vm.stem, "--peer", share.peer, "--wait", "2")
    copy = spare.place / vm.name
    disks.write(copy, MIB, disks.noise("written on the spare", 64 * KIB))
    work = copy.read_bytes()
    until(lambda: "never published" in follower.stderr, within_s=FORWARD_S, what="word of the work")
    disks.write(vm, MIB, disks.noise("published by alice", 64 * KIB))

    def listed() -> set[int]:
        found = alice.json("ls", "--peer", share.peer, "--wait", "1")["images"]
        return {item["version"] for item in found if item["name"] == vm.stem}

    until(lambda: listed() == {2}, what="version 2 at its publisher")
    until(lambda: not listed_by(spare, follower, alice, vm.stem), what="nothing of it at the spare")
    assert copy.read_bytes() == work
    assert spare.json("history", vm.stem, "--local")["history"][0]["by"].startswith("alice@")
    assert follower.stop().code == INTERRUPTED
    assert copy.read_bytes() == work


def listed_by(node: Node, share: Share, asking: Node, name: str) -> set[int]:
    """The versions that a node lists at its share."""
    found = asking.json("ls", name, "--peer", share.peer, "--wait", "1")["images"]
    return {
        item["version"]
        for item in found
        if any(label.startswith(f"{node.base.name}@") for label in item["nodes"])
    }


def test_a_watch_begins_before_there_is_anything_and_survives_its_peers(lab: Lab) -> None:
    alice, spare = lab.node("alice"), lab.node("spare")
    lab.team("red", alice, spare)
    name = lab.name("web")
    other = disks.make_master(alice.place / f"{lab.name('other')}.qcow2", size=MIB)
    share = alice.share(other, "--port", "0")
    port = share.port
    follower = watch(spare, name, "--peer", share.peer, "--wait", "1")
    assert [one["exit_code"] for one in follower.document()["failed"]] == [NOT_FOUND]
    share.stop()
    until(
        lambda: "No machine that you named answers" in follower.stderr,
        within_s=FORWARD_S,
        what="word of its silence",
    )
    master = disks.make_master(alice.place / f"{name}.qcow2", size=MIB)
    again = alice.share(master, "--port", port)
    until((spare.place / master.name).exists, within_s=FORWARD_S, what="the image")
    until(lambda: f"{name}:1" in follower.stderr, what="word of it")
    assert disks.identical(master, spare.place / master.name)
    again.stop()
    assert follower.stop().code == INTERRUPTED


def test_a_fork_that_appears_is_said_and_moves_nothing(lab: Lab) -> None:
    alice, bob, spare = (lab.node(word) for word in ("alice", "bob", "spare"))
    team = lab.team("red", alice, bob, spare)
    name = lab.name("web")
    mine = disks.make_master(alice.place / f"{name}.qcow2", size=MIB)
    with shared(alice, mine, "--team", team) as share:
        bob.fetch(name, "--peer", share.peer)
    theirs = bob.place / mine.name
    share, other = alice.share(mine), bob.share(theirs)
    follower = watch(spare, f"{team}/", "--peer", share.peer, "--peer", other.peer, "--wait", "2")
    copy = spare.place / mine.name
    ports = share.port, other.port
    for path, process in ((mine, share), (theirs, other)):
        process.stop()
        edit(path, path.parent.parent.name)
    share = alice.share(mine, "--port", ports[0])
    other = bob.share(theirs, "--port", ports[1])
    # Whichever side was seen first may have been taken; the other must not take its place.
    until(lambda: "forked" in follower.stderr, within_s=FORWARD_S, what="word of the fork")
    taken = copy.read_bytes()

    # One side goes on: that does not settle it.
    share.stop()
    edit(mine, "alice again", offset=64 * KIB)
    share = alice.share(mine, "--port", ports[0])

    def seen() -> set[int]:
        return {entry["version"] for entry in spare.json("history", name, "--local")["history"]}

    until(lambda: 3 in seen(), within_s=FORWARD_S, what="version 3 seen by the spare")
    assert copy.read_bytes() == taken
    assert follower.stop().code == INTERRUPTED
    assert copy.read_bytes() == taken
    for process in (share, other):
        assert process.stop().code in (DONE, INTERRUPTED)


def told(follower: Watch, words: str) -> bool:
    """Whether a command that watches has said it."""
    return words in follower.stderr


def test_machines_that_only_watch_exchange_what_their_files_hold(lab: Lab) -> None:
    """No machine runs a share: what each had reaches the others, and so does what comes later."""
    team, nodes, base, vm = team_with_vm(lab, "alice", "bob", "carol")
    alice, bob, carol = nodes
    publish(alice, alice.place, "--team", team)
    db = disks.make_master(bob.place / f"{lab.name('db')}.qcow2", size=MIB)
    publish(bob, db, "--team", team)
    draft = disks.make_master(bob.place / f"{lab.name('draft')}.qcow2", size=MIB)

    first = watch(alice, f"{team}/", "--peer", "127.0.0.1:1", "--wait", "0")  # where nothing answers
    assert set(first.document()["shared"]) == {f"{team}/{path.stem}:1" for path in (base, vm)}
    second = watch(bob, f"{team}/", "--peer", first.peer, "--wait", "1")
    third = watch(carol, f"{team}/", "--peer", first.peer, "--peer", second.peer, "--wait", "1")
    images_of_carol = {base.name, vm.name, db.name}
    until(lambda: carol.files() == images_of_carol, within_s=FORWARD_S, what="all of it at carol's")
    until((bob.place / vm.name).exists, within_s=FORWARD_S, what="the overlay at bob's")

    disks.write(vm, MIB, disks.noise("day one", 64 * KIB))
    work = vm.read_bytes()
    until(lambda: f"overlaysync share {vm}" in first.stderr, within_s=FORWARD_S, what="how to publish it")
    assert alice.json("history", f"{team}/{vm.stem}", "--local")["history"][0]["version"] == 1
    publish(alice, vm)
    for node, follower in ((bob, second), (carol, third)):
        until(partial(told, follower, f"{vm.stem}:2"), within_s=FORWARD_S, what="version 2")
        assert disks.identical(vm, node.place / vm.name)
    assert vm.read_bytes() == work and draft.name not in carol.files()
    for follower in (first, second, third):
        assert follower.stop().code == INTERRUPTED


def servers(process: Watch) -> list[str]:
    """What goes after ``--peer`` to reach all that a process serves, before it says so itself."""
    of_process = Path(f"/proc/{process.popen.pid}")
    sockets = {os.readlink(entry) for entry in (of_process / "fd").iterdir()}
    rows = [line.split() for line in (of_process / "net/tcp6").read_text().splitlines()[1:]]
    open_ones = [row for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets]
    return [f"[::1]:{int(row[1].split(':')[1], 16)}" for row in open_ones]


def test_what_is_here_is_served_while_what_is_absent_is_looked_for(lab: Lab) -> None:
    """A machine that begins to watch may be the only one that has what others need."""
    team, (alice, bob), base, vm = team_with_vm(lab, "alice", "bob")
    publish(alice, alice.place, "--team", team)
    wanted = f"{team}/{lab.name('absent')}"
    follower = alice._start(
        Watch, "sync", f"{team}/", wanted, "--watch", "--peer", "127.0.0.1:1", "--wait", "600"
    )

    def fetched() -> bool:
        peers = [word for peer in servers(follower) for word in ("--peer", peer)]
        return bob.run("fetch", f"{team}/{vm.stem}", *peers, "--wait", "1").code == DONE

    until(fetched, what="an image from the machine that begins to watch")
    assert bob.files() == {base.name, vm.name} and not follower.stdout
    assert follower.stop().code == INTERRUPTED
