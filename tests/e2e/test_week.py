"""A week of a team of three, with a model of who wrote what: no byte that a guest wrote is lost unasked.

They edit in turn, fork, settle it, take over from each other, lose a machine and a member, and have a master
replaced under their feet. At the end every machine has the same heads, and these hold all that was written.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from overlaysync.units import CHUNK
from tests import images
from tests.e2e.nodes import (
    DONE,
    NO_BASE,
    NOT_FOUND,
    USAGE,
    WOULD_DESTROY,
    Lab,
    Node,
    Result,
    Share,
)

pytestmark = [pytest.mark.qemu, pytest.mark.slow]

BLOCKS = 64
MASTER = ord("M")


@dataclass(slots=True)
class Machine:
    """A member's machine: its node, its share, and what each of its files must hold.

    Attributes:
        blocks: by name of the VM, what its guest wrote: block → byte.
    """

    node: Node
    team: str
    blocks: dict[str, dict[int, int]] = field(default_factory=dict)
    sharing: Share | None = None

    def path(self, name: str) -> Path:
        return self.node.place / f"{name}.qcow2"

    def publish(self, note: str = "") -> dict[str, int]:
        """Share all there is with the team, and go on sharing; versions by name."""
        self.rest()
        words = ["-m", note] if note else []
        self.sharing = self.node.share("--team", self.team, *words, self.node.place)
        return {item["name"]: item["version"] for item in self.sharing.document()["shared"]}

    def rest(self) -> None:
        """Stop sharing."""
        if self.sharing is not None:
            self.sharing.stop()
        self.sharing = None

    def write(self, name: str, block: int, byte: int) -> None:
        """The VM runs for a moment."""
        self.rest()
        images.apply(self.path(name), [images.Op("write", block * CHUNK, CHUNK, byte)])
        self.blocks[name][block] = byte

    def take(self, name: str, other: Machine) -> None:
        """The model of a fetch that took what another has."""
        self.blocks[name] = dict(other.blocks[name])

    def look(self) -> None:
        """Every VM's disk is what the model says."""
        for name, blocks in self.blocks.items():
            seen = images.content(self.path(name))
            expected = [blocks.get(block, MASTER) for block in range(BLOCKS)]
            assert [seen[block * CHUNK] for block in range(BLOCKS)] == expected, (self.node.base.name, name)
            assert seen == b"".join(bytes([byte]) * CHUNK for byte in expected)


@dataclass(slots=True)
class Week:
    """The team, and all that was ever written."""

    lab: Lab
    team: str
    machines: list[Machine]
    written: dict[tuple[str, int], int] = field(default_factory=dict)
    given_up: set[tuple[str, int]] = field(default_factory=set)

    def write(self, machine: Machine, name: str) -> None:
        """Write where nobody has written in any VM, so that everything written can be found again."""
        block = len(self.written)
        byte = 128 + block
        machine.write(name, block, byte)
        self.written[name, block] = byte
        self.look()

    def peers(self, asking: Machine) -> list[str]:
        return [
            word
            for machine in self.machines
            if machine is not asking and machine.sharing is not None
            for word in ("--peer", machine.sharing.peer)
        ]

    def run(self, machine: Machine, *words: object) -> Result:
        return machine.node.run(*words, *self.peers(machine), "--wait", "20", "--json")

    def sync(self, machine: Machine, *sources: Machine, **newer: Machine) -> None:
        """A nightly sync with nothing to complain of: takes all of each source, and single VMs of others."""
        result = self.run(machine, "sync", f"{self.team}/", "--to", machine.node.place)
        assert result.code == DONE, result.stderr + result.stdout
        for source in sources:
            for name in source.blocks:
                machine.take(name, source)
        for name, source in newer.items():
            machine.take(name, source)
        self.look()

    def look(self) -> None:
        for machine in self.machines:
            machine.look()


def heads(machine: Machine, week: Week) -> dict[str, Any]:
    """The newest version of each VM as a machine knows it."""
    listed = week.run(machine, "history", f"{week.team}/").document["history"]
    followed = {before for item in listed for before in item["follows"]}
    return {
        item["name"]: item["manifest"]
        for item in listed
        if item["manifest"] not in followed and item["name"] in ("web", "db")
    }


@pytest.mark.holds("A1")
def test_a_week_of_a_team_of_three(lab: Lab) -> None:
    nodes = [lab.node(word) for word in ("ana", "ben", "cid")]
    team = lab.team("red", *nodes)
    week = Week(lab, team, [Machine(node, team) for node in nodes])
    ana, ben, cid = week.machines

    # Monday. Ana makes two VMs on a master; the others get them with their master.
    master = images.create(ana.path("debian"), BLOCKS * CHUNK)
    images.draw(master, "M" * BLOCKS)
    master.chmod(0o444)
    for name in ("web", "db"):
        ana.node.json("new", ana.path(name), "--master", master)
        ana.blocks[name] = {}
        week.write(ana, name)
    assert ana.publish("first day") == {"debian": 1, "web": 1, "db": 1}
    week.sync(ben, ana)
    week.sync(cid, ana)

    # Tuesday. They edit web in turn; a machine that is behind goes forward, and no more is asked of it.
    week.write(ben, "web")
    assert ben.publish("routing")["web"] == 2
    ana.rest()
    week.sync(ana, ben)
    week.write(ana, "web")
    assert ana.publish("firewall")["web"] == 3
    ben.rest()
    week.sync(cid, ana)
    result = week.run(ben, "fetch", f"{team}/web", "--to", ben.node.place)
    assert result.code == WOULD_DESTROY and "web:3" in result.error["what"]
    week.sync(ben, ana)

    # Wednesday. Ben and Cid change the same version: a fork, which nobody is rid of by accident.
    week.write(ben, "web")
    week.write(cid, "web")
    for replace in ((), ("--replace",)):
        result = week.run(cid, "fetch", f"{team}/web", "--to", cid.node.place, *replace)
        assert result.code in (
            DONE,
            WOULD_DESTROY,
        )  # nothing newer is there yet, or his work is not published
        week.look()
    assert ben.publish("ben's way")["web"] == 4
    assert cid.publish("cid's way")["web"] == 4
    ana.rest()
    result = week.run(ana, "fetch", f"{team}/web", "--to", ana.node.place, "--replace")
    assert result.code == USAGE and len(result.error["candidates"]) == 2
    result = week.run(ana, "sync", f"{team}/", "--to", ana.node.place)
    assert result.code == USAGE
    week.look()
    cid.rest()
    result = week.run(cid, "fetch", f"{team}/web", "--to", cid.node.place, "--replace")
    assert result.code == WOULD_DESTROY and "web:3" in result.error["why"]
    # Cid keeps his side under another name, takes Ben's, and publishes: his next version follows both.
    shutil.copyfile(cid.path("web"), cid.path("web-cid"))
    cid.blocks["web-cid"] = dict(cid.blocks["web"])
    result = week.run(cid, "fetch", f"{team}/web", "--to", cid.node.place, "--discard-changes")
    assert result.code == DONE, result.stderr
    cid.take("web", ben)
    week.look()
    published = cid.publish("settled")
    assert (published["web"], published["web-cid"]) == (5, 1)
    week.sync(ana, cid)
    ben.rest()
    week.sync(ben, cid)

    # Thursday. Ben's machine fails in the middle of his work on db; Cid's takes over, and Ben's comes back.
    week.write(ben, "db")
    ben.publish("before the failure")
    week.sync(cid, db=ben)
    ben.rest()
    week.write(cid, "db")
    cid.publish("after the failover")
    result = week.run(ben, "sync", f"{team}/db", "--to", ben.node.place)
    assert result.code == DONE
    ben.take("db", cid)
    week.look()

    # Ana's machine is lost with all that is on it. A new one gets everything from the team's code alone.
    ana.rest()
    for directory in (ana.node.home, ana.node.place):
        shutil.rmtree(directory)
    new = lab.node("ana2")
    code = cid.node.base / "code"
    shutil.copytree(cid.node.home / "teams", new.home / "teams")
    week.machines[0] = ana = Machine(new, team)
    assert not code.exists()
    week.sync(ana, cid)

    # Friday. The master is replaced under Ben's overlays, by a careless copy.
    kept = ben.path("debian").read_bytes()
    other = images.create(ben.node.base / "other.qcow2", BLOCKS * CHUNK)
    images.draw(other, "X" * BLOCKS)
    ben.path("debian").chmod(0o644)
    shutil.copyfile(other, ben.path("debian"))
    for words in (
        ("verify", ben.path("web")),
        ("promote", ben.path("web"), "--as", "p"),
        ("id", ben.path("db")),
    ):
        assert ben.node.fails(NO_BASE, *words)
    assert ben.node.run("share", "--team", team, ben.path("web")).code == NO_BASE
    repair = ["verify", ben.path("debian"), "--repair", "--peer", cid.sharing.peer if cid.sharing else ""]
    assert ben.node.run(*repair).code == WOULD_DESTROY  # somebody wrote to it, so it is asked about
    assert ben.node.run(*repair, "--yes").code == DONE
    assert images.content(ben.path("debian")) == bytes([MASTER]) * BLOCKS * CHUNK
    del kept
    week.look()
    week.write(ben, "web")
    ben.publish("after the repair")
    cid.rest()
    week.sync(cid, web=ben)
    week.sync(ana, web=ben)

    # Cid leaves: what the team publishes from now on is none of his business, and nothing of his is lost.
    cid.publish()
    cid.rest()
    cid.node.json("team", "leave", team, "--yes")
    assert cid.node.run("fetch", f"{team}/web", *week.peers(cid), "--wait", "2").code == NOT_FOUND
    week.look()
    week.machines.remove(cid)

    # The end of the week: the same heads everywhere, and all that was written is in them or in Cid's copy.
    ben.publish()
    ana.publish()
    assert heads(ana, week) == heads(ben, week)
    for (name, block), byte in week.written.items():
        kept_in = [blocks for machine in (*week.machines, cid) for blocks in machine.blocks.values()]
        assert any(blocks.get(block) == byte for blocks in kept_in), (name, block)
    assert ana.blocks["web"] == ben.blocks["web"] and ana.blocks["db"] == ben.blocks["db"]
