"""Members of a team: which ones were seen, the code shown again, and what leaving takes away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from overlaysync.trust.team_files import keep_team, load_teams
from overlaysync.trust.teams import new_team
from overlaysync.units import KIB, MIB
from tests.e2e import disks
from tests.e2e.nodes import (
    DONE,
    NOT_ALLOWED,
    NOT_FOUND,
    USAGE,
    Lab,
    Node,
    Share,
    until,
)
from tests.e2e.terminals import Terminal


def raw(node: Node, name: str, *seeds: object) -> Path:
    path = node.place / f"{name}.raw"
    path.write_bytes(disks.noise([name, *seeds], 128 * KIB))
    return path


def shown(node: Node, team: str) -> dict[str, dict[str, Any]]:
    """What ``team show`` says of each member, by user."""
    (entry,) = node.json("team", "show", team)["teams"]
    assert entry["team"] == team
    return {member["node"].partition("@")[0]: member for member in entry["members"]}


def things(member: dict[str, Any]) -> list[tuple[str, int, str]]:
    return [(thing["name"], thing["version"], thing["kind"]) for thing in member["holds"]]


def look(node: Node, *shares: Share) -> None:
    node.json("ls", *(word for share in shares for word in ("--peer", share.peer)), "--wait", "10")


# -- who was seen ------------------------------------------------------------------------------------


@pytest.mark.qemu
def test_members_that_were_seen_and_what_they_have(lab: Lab) -> None:
    alice, bob, carl = (lab.node(name) for name in ("alice", "bob", "carl"))
    team = lab.team("red", alice, bob)
    assert list(shown(bob, team)) == ["bob"]
    assert f"overlaysync ls {team}/" in bob.run("team", "show", team).stdout
    master = disks.make_master(alice.place / f"{lab.name('debian')}.qcow2", size=MIB)
    overlay = disks.make_overlay(alice.place / f"{lab.name('vm')}.qcow2", master, (0, 64 * KIB))
    public = alice.share(raw(alice, lab.name("public")), "--public")
    share = alice.share(overlay, master, "--team", team)
    carl_share = carl.share(raw(carl, lab.name("other")))
    look(bob, share, public, carl_share)

    members = shown(bob, team)
    assert list(members) == ["bob", "alice"], "who is in no team is no member"
    assert members["bob"]["you"] and members["bob"]["seen_at"] is None and not members["bob"]["holds"]
    seen = members["alice"]
    assert not seen["you"] and seen["seen_at"].endswith("Z") and (seen["masters"], seen["overlays"]) == (1, 1)
    assert things(seen) == [(master.stem, 1, "master"), (overlay.stem, 1, "overlay")]
    assert seen["id"] == share.document()["shared"][0]["publisher"]
    text = bob.run("team", "show").stdout
    assert "1 master, 1 overlay" in text and f"{overlay.stem}:1" in text and seen["id"] in text

    # What is here counts, whoever published it; what was seen stays when the member is gone.
    bob.fetch(f"{team}/{master.stem}", "--peer", share.peer)
    share.stop()
    members = shown(bob, team)
    assert things(members["bob"]) == [(master.stem, 1, "master")] and things(members["alice"]) == things(seen)


def test_a_team_made_anew_has_no_members_yet(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    team = lab.team("red", alice, bob)
    share = alice.share(raw(alice, lab.name("vm")), "--team", team)
    look(bob, share)
    assert set(shown(bob, team)) == {"alice", "bob"}
    keep = load_teams(bob.home / "teams")[team]
    bob.json("team", "leave", team, "--yes")
    bob.fails(NOT_FOUND, "team", "show", team)
    keep_team(bob.home / "teams", new_team(team))
    assert set(shown(bob, team)) == {"bob"}
    look(bob, share)
    assert set(shown(bob, team)) == {"bob"}, "alice has another key"
    # Not even the old key's come back.
    bob.json("team", "leave", team, "--yes")
    keep_team(bob.home / "teams", keep)
    assert set(shown(bob, team)) == {"bob"}


# -- the code ----------------------------------------------------------------------------------------


def code_of(node: Node, team: str) -> str:
    return load_teams(node.home / "teams")[team].code


def test_the_code_is_shown_on_a_terminal_after_a_question(lab: Lab) -> None:
    alice = lab.node("alice")
    created = alice.run("team", "create", "red")
    assert code_of(alice, "red") in created.stdout and "overlaysync team code red" in created.stdout
    assert "not shown again" not in created.stdout
    with Terminal(alice, "team", "code", "red") as terminal:
        terminal.answer("can join the team", "y")
        assert terminal.end() == DONE
        assert code_of(alice, "red") in terminal.shown
    for answer in ("n", ""):
        with Terminal(alice, "team", "code", "red") as terminal:
            terminal.answer("can join the team", answer)
            assert terminal.end() == DONE
            assert code_of(alice, "red") not in terminal.shown
    with Terminal(alice, "team", "code", "blue") as terminal:
        assert terminal.end() == NOT_FOUND


def test_the_code_is_never_shown_elsewhere(lab: Lab, tmp_path: Path) -> None:
    alice = lab.node("alice")
    alice.run("team", "create", "red")
    code = code_of(alice, "red")
    for arguments in (("team", "code", "red"), ("team", "code", "red", "--json")):
        result = alice.run(*arguments)
        assert result.code == USAGE and code not in result.stdout + result.stderr
        assert "overlaysync team code red" in result.stdout + result.stderr
    with Terminal(alice, "team", "code", "red", "--json") as terminal:
        assert terminal.end() == USAGE and code not in terminal.shown
    file = tmp_path / "printed"
    with (
        open(file, "wb") as stdout,
        Terminal(alice, "team", "code", "red", stdout=stdout.fileno()) as terminal,
    ):
        assert terminal.end() == USAGE and code not in terminal.shown
    assert file.read_bytes() == b""


# -- leaving -----------------------------------------------------------------------------------------


def test_leaving_says_what_becomes_unreachable_and_asks(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    team = lab.team("red", alice, bob)
    theirs, there, mine = (lab.name(word) for word in ("theirs", "there", "mine"))
    share = alice.share(raw(alice, theirs), raw(alice, there), "--team", team)
    bob.fetch(f"{team}/{theirs}", "--peer", share.peer)
    bob.share(raw(bob, mine), "--team", team).stop()

    error = bob.fails(USAGE, "team", "leave", team)
    assert error["hint"] == f"overlaysync team leave {team} --yes"
    with Terminal(bob, "team", "leave", team) as terminal:
        terminal.answer(f"Leave team '{team}'?", "n")
        assert terminal.end() == DONE
        for name in (theirs, there, mine):
            assert f"{team}/{name}:1" in terminal.shown
        assert "--public" in terminal.shown and "still in team" in terminal.shown
    assert set(shown(bob, team)) == {"alice", "bob"}

    left = bob.json("team", "leave", team, "--yes")
    assert left == {
        "team": team,
        "own": [f"{team}/{mine}:1"],
        "others": [f"{team}/{theirs}:1"],
        "elsewhere": [f"{team}/{there}:1"],
        "left": True,
    }
    assert bob.json("team", "show") == {"teams": []}
    bob.fails(NOT_FOUND, "team", "leave", team, "--yes")
    bob.fails(NOT_FOUND, "fetch", f"{team}/{there}", "--peer", share.peer)


def test_on_a_terminal_yes_leaves(lab: Lab) -> None:
    alice = lab.node("alice")
    team = lab.team("red", alice)
    with Terminal(alice, "team", "leave", team) as terminal:
        terminal.answer("To come back you need its code", "y")
        assert terminal.end() == DONE
    assert alice.json("team", "show") == {"teams": []}


# -- afterwards --------------------------------------------------------------------------------------


def ways(path: Path) -> list[str]:
    return [
        f"overlaysync share --public {path}, or for another team",
        f"overlaysync share --team TEAM {path}",
    ]


def test_what_was_a_team_s_can_be_shared_again_when_the_user_says_for_whom(lab: Lab) -> None:
    alice, bob, carl = (lab.node(name) for name in ("alice", "bob", "carl"))
    red, blue = lab.team("red", alice, bob), lab.team("blue", bob, carl)
    mine = raw(bob, lab.name("mine"))
    bob.share(mine, "--team", red).stop()
    bob.json("team", "leave", red, "--yes")

    for where in (mine, bob.place):
        error = bob.fails(NOT_ALLOWED, "share", where)
        assert red in error["what"]
        assert error["hint"].count("overlaysync ") == 2
        assert all(way in error["hint"] for way in ways(mine))
    assert "blue" not in str(bob.json("ls", "--local"))

    share = bob.share(mine, "--team", blue)
    assert [(item["team"], item["version"]) for item in share.document()["shared"]] == [(blue, 1)]
    look(carl, share)
    (fetched,) = carl.fetch(f"{blue}/{mine.stem}", "--peer", share.peer)
    assert Path(fetched["path"]).read_bytes() == mine.read_bytes()
    share.stop()
    again = bob.share(mine)
    assert again.document()["shared"][0]["team"] == blue, "for whom it is now is known again"
    again.stop()
    error = bob.fails(USAGE, "share", mine, "--public")
    assert f"{blue}/{mine.stem}" in error["what"] and "--yes" in error["hint"]


def test_an_earlier_team_of_that_name_counts_for_nothing(lab: Lab) -> None:
    """Alice makes the team anew with Carl; Bob has the old key, and what was published with it."""
    alice, bob, carl = (lab.node(name) for name in ("alice", "bob", "carl"))
    team = lab.team("red", alice, bob)
    vm, theirs = raw(alice, lab.name("vm")), raw(bob, lab.name("theirs"))
    share = alice.share(vm, "--team", team)
    bob.fetch(f"{team}/{vm.stem}", "--peer", share.peer)
    share.stop()
    old = bob.share(theirs, f"{vm.stem}.raw", "--team", team)
    alice.fetch(f"{team}/{theirs.stem}", "--peer", old.peer)

    alice.json("team", "leave", team, "--yes")
    alice.json("team", "create", team)
    keep_team(carl.home / "teams", load_teams(alice.home / "teams")[team])
    assert alice.json("ls", "--local")["images"] == [], "what is here of the old team is not the new one's"
    alice.fails(NOT_FOUND, "history", f"{team}/", "--local")

    # What was for the old team is for the new one when Alice says so, and begins anew.
    error = alice.fails(NOT_ALLOWED, "share", vm)
    assert all(way in error["hint"] for way in ways(vm))
    vm.chmod(0o644)
    raw(alice, vm.stem, "changed")
    new = alice.share(vm, "--team", team)
    (item,) = new.document()["shared"]
    assert (item["version"], item["follows"]) == (1, [])

    # Neither side sees the other; not even where one of them asks both.
    peers = ("--peer", old.peer, "--peer", new.peer, "--wait", "1")
    assert [one["publisher"] for one in carl.json("ls", *peers)["images"]] == [item["publisher"]]
    assert {one["name"] for one in bob.json("ls", *peers)["images"]} == {vm.stem, theirs.stem}
    carl.fails(NOT_FOUND, "fetch", f"{team}/{theirs.stem}", *peers)
    (fetched,) = carl.fetch(f"{team}/{vm.stem}", *peers)
    assert Path(fetched["path"]).read_bytes() == vm.read_bytes()
    assert set(shown(carl, team)) == {"alice", "carl"}
    assert set(shown(alice, team)) == {"alice"}


def test_what_appears_later_is_not_for_a_team_made_anew_by_its_name_alone(lab: Lab) -> None:
    alice = lab.node("alice")
    team = lab.team("red", alice)
    vm = raw(alice, lab.name("vm"))
    alice.share(vm, "--team", team).stop()
    alice.json("team", "leave", team, "--yes")
    alice.json("team", "create", team)
    folder = alice.place / "folder"
    folder.mkdir()
    (folder / "other.raw").write_bytes(disks.noise("other", 128 * KIB))
    share = alice.share(folder, "--public")
    vm.rename(folder / vm.name)
    until(lambda: vm.name in share.stderr, what="a word about the file that has appeared")
    assert f"Cannot share {folder / vm.name} with team '{team}'" in share.stderr
    look(alice, share)
    assert [image["name"] for image in alice.json("ls", "--peer", share.peer)["images"]] == ["other"]
