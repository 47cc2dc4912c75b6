"""A machine is lost, and its team gets the VMs back from others: from a member, from a sealed holder."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from overlaysync.model.digest import as_digests
from overlaysync.ops.recovery.vaults import TeamVault
from overlaysync.trust.team_files import load_teams
from overlaysync.units import CHUNK, KIB, MIB
from overlaysync.vault.directory import DirectoryObjects
from tests import images
from tests.e2e import disks
from tests.e2e.nodes import DONE, NOT_FOUND, NOT_VERIFIED, USAGE, WOULD_DESTROY, Lab, Node, until
from tests.e2e.recovery import COMPANIONS, DISKS, Machine, flat_copies, machines, make_vms, same_as, work
from tests.e2e.room import room

pytestmark = [pytest.mark.qemu, pytest.mark.lan, pytest.mark.slow]

UNDER_REPLICATED = 12
SPREAD_S = 90
"""What was saved is at those who keep it within this time."""


def copies_of(node: Node, team: str) -> dict[str, int]:
    """On how many machines each VM is, as ``status`` says."""
    result = node.run("status", team, "--json")
    assert result.code in (DONE, UNDER_REPLICATED), result.stderr
    # What is not replicated as it should be is printed, and then the error.
    document = result.document
    return {vm["name"]: vm["copies"] for vm in document["teams"][0]["vms"]}


def join(node: Node, member: Node, team: str) -> None:
    """Join a team with nothing but its code."""
    code = node.base / "code"
    code.touch(mode=0o600)
    code.write_text(load_teams(member.home / "teams")[team].code)
    node.json("team", "join", team, "--code-file", code)
    code.unlink()


def lose(machine: Machine, world: Any) -> None:
    """The machine is gone: its cable is pulled, and its home and images are deleted."""
    world.cut(machine.host)
    machine.node.close()
    shutil.rmtree(machine.node.home)
    shutil.rmtree(machine.node.place)


def now_minute() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S+00:00")


@pytest.mark.holds("D2")
@pytest.mark.red_without("D2", "holders are given what a team saved unsealed")
def test_vms_come_back_from_a_member_and_from_a_sealed_holder(lab: Lab, tmp_path: Path) -> None:
    with room(4) as world:
        found = machines(lab, world, "alice bob carol dora")
        alice, bob, carol, dora = (found[word].node for word in ("alice", "bob", "carol", "dora"))
        team = lab.team("red", alice, bob)
        make_vms(alice)
        first = alice.json("save", "--team", team, "-m", "monday", alice.place)
        flat_copies(alice, tmp_path / "monday")
        until(lambda: now_minute() > first["saved"].replace("Z", "+00:00"), what="the next second")
        between = now_minute()
        until(lambda: now_minute() > between, what="the second after")
        work(alice, "tuesday")
        second = alice.json("save", "--team", team, "-m", "tuesday", alice.place)
        flat_copies(alice, tmp_path / "tuesday")
        assert (first["state"], second["state"]) == (1, 2)
        assert {vm["name"] for vm in second["vms"]} == {"web", "db", "mail"}
        assert copies_of(alice, team) == {"web": 1, "db": 1, "mail": 1}
        planted = secrets_of(alice, team)
        wire = lab.node("wire", prefix=world.switch.prefix)
        capture = lab.root / "capture"
        sniffer = wire.start_module("tests.e2e.sniffer", capture)
        sniffer.document()

        alice.start("keep", team)
        bob.start("keep", team)
        carol.start("keep", "--others", "--budget", "1G")
        everywhere = {"web": 3, "db": 3, "mail": 3}
        until(lambda: copies_of(alice, team) == everywhere, within_s=SPREAD_S, what="three copies")
        assert alice.run("status", team).code == DONE

        disk = tmp_path / "usb"
        error = alice.fails(NOT_FOUND, "archive", "add", "usb", f"file://{disk}")
        assert f"mkdir '{disk}'" in error["hint"]
        disk.mkdir()
        alice.json("archive", "add", "usb", f"file://{disk}")
        assert alice.json("archive", "push", team)["states"] == 2
        assert copies_of(alice, team) == everywhere, "a directory of the same disk is no other copy"

        lose(found["alice"], world)
        join(dora, bob, team)
        back = dora.json("restore", team, "--to", dora.place / "newest")
        assert same_as(tmp_path / "tuesday", dora.place / "newest")
        assert {one["vm"]: one["state"] for one in back["restored"]} == {"web": 2, "db": 2, "mail": 2}
        assert not any(
            disk["missing_masters"]
            for one in dora.json("restore", team, "--dry-run", "--to", dora.place / "newest", "--wait", "1")[
                "plan"
            ]
            for disk in one["disks"]
        )
        web = next(one for one in back["restored"] if one["vm"] == "web")
        assert "lab-startup.py lab.yaml" in web["start"] and "force_copy" in web["warnings"][0]
        dora.json("restore", team, "--at", between, "--to", dora.place / "monday")
        assert same_as(tmp_path / "monday", dora.place / "monday")

        # Nothing that is there is replaced.
        disks.write(dora.place / "newest" / "web.qcow2", 0, b"today's work")
        error = dora.fails(WOULD_DESTROY, "restore", team, "--vm", "web", "--to", dora.place / "newest")
        assert "--to" in error["hint"]

        # And with the member gone too: the sealed holder alone.
        lose(found["bob"], world)
        again = lab.node("erin", prefix=world.hosts[3].prefix)
        join(again, dora, team)
        dora.close()
        again.json("restore", team, "--to", again.place / "newest")
        assert same_as(tmp_path / "tuesday", again.place / "newest")
        again.json("restore", f"{team}:1", "--to", again.place / "monday")
        assert same_as(tmp_path / "monday", again.place / "monday")
        nothing_of(planted, carol.home / "vault")

        # Nor on the way: all that any machine has sent, of which the packs of the team are a part.
        sniffer.stop()
        sent = capture.read_bytes()
        packs = [path.read_bytes() for path in (carol.home / "vault").glob("*/packs/*")]
        assert packs and all(pack[:64] in sent for pack in packs)
        assert planted_in(sent, planted) == []

        # Only the archive is left, and a machine that has nothing of all that.
        lose(found["carol"], world)
        last = lab.node("frank", prefix=world.hosts[3].prefix)
        join(last, again, team)
        again.close()
        last.fails(NOT_FOUND, "restore", team, "--to", last.place / "nothing")
        last.json("archive", "add", "usb", f"file://{disk}")
        last.json("restore", team, "--to", last.place / "newest")
        assert same_as(tmp_path / "tuesday", last.place / "newest")
        last.json("restore", f"{team}:1", "--to", last.place / "monday")
        assert same_as(tmp_path / "monday", last.place / "monday")
        nothing_of(planted, disk)


def secrets_of(node: Node, team: str) -> list[bytes]:
    """What nobody outside the team is to see: names, digests, and what guests and firmware have written."""
    vault = TeamVault(DirectoryObjects(node.home / "vault"), load_teams(node.home / "teams")[team])
    vms = [vm for state in vault.states() for vm in state.state.vms]
    digests = {id for vm in vms for disk in vm.disks for id in (disk.manifest, *disk.below)}
    digests |= {part for vm in vms for one in vm.companions for part in one.parts}
    chunk = images.content(node.place / "debian.qcow2")[:CHUNK]
    digests.add(blake3(chunk).hexdigest())
    vault.learn()
    assert len(digests) > 10 and all(
        vault.contents.packs_with(as_digests(bytes.fromhex(id))) for id in digests
    )
    written = [disks.noise("uefi tuesday", 528 * KIB), disks.noise("web tuesday", 96 * KIB), chunk]
    names = [team, *DISKS, *COMPANIONS, "debian.qcow2", "monday", "tuesday", "force_copy"]
    texts = [text.encode() for text in (*names, *digests)]
    return [*texts, *map(bytes.fromhex, digests), *(data[:64] for data in written)]


def planted_in(data: bytes, planted: Sequence[bytes]) -> list[bytes]:
    return [secret for secret in planted if secret in data]


def nothing_of(planted: Sequence[bytes], vault: Path) -> None:
    """A sealed holder, or the disk of an archive, has none of it, in files or in their names."""
    files = [path for path in vault.rglob("*") if path.is_file()]
    assert files
    for path in files:
        names = str(path.relative_to(vault)).encode()
        assert planted_in(path.read_bytes(), planted) == planted_in(names, planted) == [], path


def test_what_was_said_to_keep_stays(lab: Lab) -> None:
    alice = lab.node("alice")
    team = lab.team("red", alice)
    said = ("keep", team, "--once", "--peer", "127.0.0.1:1")
    first = alice.json(*said, "--copies", "2", "--budget", "1G")["keeps"]
    assert first["teams"][team] == {"copies": 2, "budget": 1 << 30, "live_s": 0}
    assert alice.json(*said)["keeps"] == first


@pytest.mark.holds("D6")
@pytest.mark.red_without("D6", "a share that keeps notes holders without knowing which node they are")
def test_a_share_that_keeps_knows_which_node_each_holder_is(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    team = lab.team("red", alice, bob)
    make_vms(alice)
    alice.json("save", "--team", team, alice.place)
    share = alice.share(alice.place / "web.qcow2")
    assert bob.json("keep", team, "--once", "--peer", share.peer)["taken"] == 1
    share.stop()
    alice.json("keep", team, "--once", "--peer", "127.0.0.1:1")
    holder = bob.share(disks.make_master(bob.place / "any.raw", size=64 * KIB))
    alice.share(alice.place / "web.qcow2", "--peer", holder.peer)

    def noted() -> set[str]:
        """The labels of other holders, by what the share has noted."""
        standing = alice.run("status", team, "--local", "--json").document
        holders = [holder for vm in standing["teams"][0]["vms"] for holder in vm["holders"]]
        return {holder["label"] for holder in holders if not holder["here"]}

    until(noted, what="the holder")
    assert {label.partition("@")[0] for label in noted()} == {"bob"}


def test_a_vault_that_was_lost_is_not_gone_on_with(lab: Lab) -> None:
    """The next head would list the next state alone, and others would drop the rest."""
    alice, bob = lab.node("alice"), lab.node("bob")
    team = lab.team("red", alice, bob)
    make_vms(alice)
    alice.json("save", "--team", team, alice.place)
    share = alice.share(alice.place / "web.qcow2")
    assert bob.json("keep", team, "--once", "--peer", share.peer)["taken"] == 1
    share.stop()
    shutil.rmtree(alice.home / "vault")
    error = alice.fails(NOT_VERIFIED, "save", "--team", team, alice.place)
    assert f"overlaysync keep {team} --once" in error["hint"]
    holder = bob.share(disks.make_master(bob.place / "any.raw", size=64 * 1024))
    assert alice.json("keep", team, "--once", "--peer", holder.peer)["taken"] == 1
    assert alice.json("save", "--team", team, alice.place)["state"] == 2
    assert len(alice.json("history", team, "--local")["states"]) == 2
    shutil.rmtree(alice.home / "vault")
    anew = alice.json("save", "--team", team, "--begin-anew", alice.place)
    assert anew["state"] == 1 and bob.json("keep", team, "--once", "--peer", "127.0.0.1:1")["taken"] == 0


def test_a_machine_without_copies_says_what_the_others_have(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    team = lab.team("red", alice, bob)
    result = bob.run("status", team, "--local")
    assert result.code == DONE and f"to ask the others: overlaysync status {team}" in result.stdout
    result = bob.run("status", team, "--peer", "127.0.0.1:9", "--wait", "0")
    assert result.code == UNDER_REPLICATED
    assert "no other machine answered" in result.stderr and "overlaysync keep" in result.stderr

    keep = alice.start_keep(team)
    status = bob.run("status", team, "--peer", keep.peer)
    assert status.code == DONE and "the machine that answered has none" in status.stdout
    disks.make_master(alice.place / "base.qcow2", size=1 << 20)
    disks.make_overlay(alice.place / "web.qcow2", alice.place / "base.qcow2", (0, 4096))
    alice.json("save", "--team", team)
    result = bob.run("status", team, "--peer", keep.peer, "--json")
    (vm,) = result.document["teams"][0]["vms"]
    assert (vm["name"], vm["states"], vm["copies"]) == ("web", [1], 1)
    (holder,) = vm["holders"]
    assert holder["label"].startswith("alice@") and holder["proven_at"] and not holder["here"]
    assert vm["lost_with"] == holder["label"]
    assert not list((bob.home / "vault").glob("*/packs/*")), "it was only looked at"

    # A machine that has lost what it lists is no copy.
    for pack in (alice.home / "vault").glob("*/packs/*"):
        pack.unlink()
    carol = lab.node("carol")
    join(carol, bob, team)
    (vm,) = carol.run("status", team, "--peer", keep.peer, "--json").document["teams"][0]["vms"]
    assert vm["copies"] == 0 and "does not give what it lists" in vm["holders"][0]["problem"]


@pytest.mark.holds("D4")
@pytest.mark.red_without("D4", "only what this machine has held itself counts as seen")
def test_an_older_list_alone_is_not_taken_for_the_newest(lab: Lab) -> None:
    """All who have the newer one are gone, or the one who is left has been turned back."""
    alice, bob, carol = (lab.node(word) for word in ("alice", "bob", "carol"))
    team = lab.team("red", alice, bob, carol)
    disks.make_overlay(alice.place / "web.qcow2", disks.make_master(alice.place / "base.qcow2", size=MIB))
    alice.json("save", "--team", team)
    keep = alice.start_keep(team)
    assert bob.json("keep", team, "--once", "--peer", keep.peer)["taken"] == 1
    disks.write(alice.place / "web.qcow2", 0, disks.noise("web", 64 * KIB))
    alice.json("save")
    assert carol.run("status", team, "--peer", keep.peer, "--json").document["teams"][0]["vms"]
    keep.stop()

    old = bob.share(disks.make_master(bob.place / "any.raw", size=64 * KIB))
    restored = carol.run("restore", team, "--peer", old.peer, "--dry-run")
    assert restored.code == DONE and f"from {team}:1" in restored.stderr
    assert "has saved more since" in restored.stderr and "may be older than you expect" in restored.stderr


def test_what_changed_is_said_of_the_whole_team(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    team = lab.team("red", alice, bob)
    for name in ("web", "db"):
        disks.make_overlay(
            alice.place / f"{name}.qcow2", disks.make_master(alice.place / f"{name}-base.qcow2", size=MIB)
        )
    alice.json("save")
    disks.write(alice.place / "web.qcow2", 0, disks.noise("web", 64 * KIB))
    alice.json("save", "--vm", "web")
    disks.write(alice.place / "db.qcow2", 0, disks.noise("db", 64 * KIB))
    alice.json("save", "--vm", "db")

    def changes(*arguments: object) -> dict[str, Any]:
        return {vm["name"]: vm for vm in alice.json("diff", *arguments)["vms"]}

    found = changes(f"{team}:2", f"{team}:3")
    assert {name: vm["what"] for name, vm in found.items()} == {"web": "same", "db": "changed"}
    assert (found["db"]["old"], found["db"]["new"]) == (1, 3)
    assert (found["web"]["old"], found["web"]["new"]) == (2, 2)
    assert {vm["what"] for vm in changes(f"{team}:1").values()} == {"changed"}
    assert alice.run("diff", f"{team}:2", f"{team}:3").stdout.startswith("db  changed  1 to 3\n")

    # Another machine goes on from the first state: a fork of one of the VMs.
    keep = alice.start_keep(team)
    bob.json("restore", f"{team}:1", "--vm", "web", "--peer", keep.peer)
    disks.write(bob.place / "web.qcow2", 0, disks.noise("other", 64 * KIB))
    bob.json("save", "--team", team, "--vm", "web", bob.place / "web.qcow2")
    bob.json("keep", team, "--once", "--peer", keep.peer)
    keep.stop()
    document = bob.json("diff", f"{team}:1")
    assert {vm["name"]: vm["what"] for vm in document["vms"]} == {"web": "forked", "db": "changed"}
    assert "name its state by its id" in bob.run("diff", f"{team}:1").stdout


@pytest.mark.red_without("D9", "the newest state of a VM is forgotten with the machine that saved it")
def test_what_a_lost_machine_saved_is_forgotten_when_its_vms_live_on(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    team = lab.team("red", alice, bob)
    base = disks.make_master(alice.place / "base.qcow2", size=MIB)
    disks.make_overlay(alice.place / "web.qcow2", base, (0, 64 * KIB))
    alice.json("save")
    keep = alice.start_keep(team)
    once = ("keep", team, "--once", "--peer", keep.peer)
    assert bob.json(*once)["taken"] == 1

    assert bob.fails(NOT_FOUND, "forget", team, "--node", "carol")["hint"] == f"overlaysync history {team}/"
    error = bob.fails(WOULD_DESTROY, "forget", team, "--node", "alice")
    assert "web was saved there last" in error["why"] and "overlaysync restore" in error["hint"]
    bob.json("restore", team, "--wait", "0", "--peer", "127.0.0.1:9")
    disks.write(bob.place / "web.qcow2", 0, disks.noise("more", 64 * KIB))
    bob.json("save", "--vm", "web", bob.place)
    for dry in (["--dry-run"], []):
        (gone,) = bob.json("forget", team, "--node", "alice", *dry)["forgotten"]
        assert gone["state"] == 1
    assert [row["state"] for row in bob.json("history", team, "--local")["states"]] == [2]
    bob.fails(USAGE, "forget", team, "--node", "bob")
    assert "--discard-vm web" in error["hint"]
    assert not bob.json("vault", "check", "--read")["damaged"]

    # It is not taken again, unless the machine comes back and saves.
    assert bob.json(*once)["taken"] == 0
    disks.write(alice.place / "web.qcow2", 0, disks.noise("again", 64 * KIB))
    alice.json("save")
    assert bob.json(*once)["taken"] == 1


@pytest.mark.red_without("D9", "a machine outside a team takes again what its user has dropped")
def test_what_nobody_needs_goes_with_the_lost_machine(lab: Lab) -> None:
    """Also from a machine outside the team, which does not take it again."""
    alice, bob, carol = (lab.node(word) for word in ("alice", "bob", "carol"))
    team = lab.team("red", alice, bob)
    disks.make_overlay(alice.place / "web.qcow2", disks.make_master(alice.place / "base.qcow2", size=MIB))
    disks.make_overlay(alice.place / "db.qcow2", alice.place / "base.qcow2", (0, 64 * KIB))
    alice.json("save")
    keep = alice.start_keep(team)
    assert bob.json("keep", team, "--once", "--peer", keep.peer)["taken"] == 1
    sealed = ("keep", "--others", "--budget", "1G", "--once", "--peer", keep.peer)
    assert carol.json(*sealed)["taken"] == 1

    forget = ("forget", team, "--node", "alice")
    hint = bob.fails(WOULD_DESTROY, *forget)["hint"]
    assert hint.endswith(f"overlaysync {' '.join(forget)} --discard-vm db --discard-vm web")
    assert "web was saved there last" in bob.fails(WOULD_DESTROY, *forget, "--discard-vm", "db")["why"]
    assert "db, web" in bob.fails(USAGE, *forget, "--discard-vm", "wbe")["why"]
    bob.fails(USAGE, "forget", team, "--discard-vm", "db")
    result = bob.run(*forget, "--discard-vm", "db", "--discard-vm", "web")
    assert result.code == DONE and f"forgot {team}:1" in result.stdout
    assert not list((bob.home / "vault").glob("*/heads/*/*"))

    # What is to be typed outside the team is told.
    command = result.stderr[result.stderr.index("overlaysync forget --others") :].split()[1:]
    error = carol.fails(NOT_FOUND, *command[:-1], "abcd-efgh")
    assert command[-1] in error["hint"] and command[-1] in error["why"]
    for words in (["forget", "--others"], ["forget", "--others", team, *command[2:]], ["forget"]):
        carol.fails(USAGE, *words)
    (gone,) = carol.json(*command, "--dry-run")["dropped"]
    assert carol.json(*command[:-1], command[-1][:9])["dropped"] == [gone] and gone["node"] == command[-1]
    assert not list((carol.home / "vault").glob("*/heads/*/*")) and carol.json(*sealed)["taken"] == 0
    carol.fails(NOT_FOUND, *command)
