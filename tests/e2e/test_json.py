"""What --json prints is what docs/schemas.json says. All tests hold it; here are commands they rarely run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from overlaysync.units import KIB, MIB
from tests import documents
from tests.e2e import disks
from tests.e2e.nodes import DONE, Lab, Node

pytestmark = pytest.mark.qemu


def held(node: Node, *words: object) -> None:
    """Run a command that may find something wrong, and hold what it prints all the same."""
    result = node.run(*words, "--json")
    documents.check_printed(words, result.document)


def test_states_vaults_and_archives(lab: Lab, tmp_path: Path) -> None:
    ana = lab.node("ana")
    team = lab.team("red", ana)
    master = disks.make_master(ana.place / "debian.qcow2", size=2 * MIB)
    overlay = disks.make_overlay(ana.place / "web.qcow2", master, (MIB, 64 * KIB))
    held(ana, "show", ana.place)
    ana.json("save", "--team", team, ana.place)
    disks.write(overlay, 0, disks.noise("more", 64 * KIB))
    ana.json("save", "--team", team, "-m", "more", ana.place)
    assert ana.json("diff", f"{team}:1", f"{team}:2")["vms"]
    assert ana.json("history", f"{team}/", "--local")["states"]
    held(ana, "status", team)
    (tmp_path / "disk").mkdir()
    ana.json("archive", "add", "lab", f"file://{tmp_path}/disk")
    assert ana.json("archive", "push", team)["states"] == 2
    assert ana.json("archive", "ls")["archives"]
    ana.json("archive", "check", "lab")
    ana.json("archive", "rm", "lab")
    assert ana.json("forget", f"{team}:1")["forgotten"]
    ana.json("vault", "check")
    ana.json("vault", "gc")
    ana.json("keep", team, "--copies", "2", "--off")
    keeper = ana.start_keep(team)
    assert keeper.document()["port"]
    assert ana.json("restore", team, "--dry-run", "--to", tmp_path / "back")["plan"]


def test_looking_around(lab: Lab) -> None:
    ana, ben = lab.node("ana"), lab.node("ben")
    master = disks.make_master(ana.place / f"{lab.name('base')}.qcow2", size=MIB)
    share = ana.share(master)
    if share.document()["page"]:
        assert ana.json("page", "--no-browser")["pages"]
    assert ben.json("peers", "--peer", share.peer)["peers"]
    assert ben.json("ls", "--peer", share.peer)["images"]
    held(ben, "show", master.stem, "--peer", share.peer)
    ben.fetch(master.stem, "--peer", share.peer)
    assert ben.json("tree")["tree"]
    assert ben.json("history", master.stem, "--local")["history"]
    ben.json("key", "show")
    ben.json("--version")
    held(ben, "doctor")


def test_the_service(lab: Lab) -> None:
    node = lab.node("ana")
    assert node.json("service", "status")["installed"] is False
    done = node.json("service", "install", node.place, "--no-start")
    assert all(os.path.exists(path) for path in done["written"])
    assert node.json("service", "status")["settings"]["share"] == [str(node.place)]
    assert node.json("service", "remove")["removed"] == [done["unit"]]
    assert node.run("service", "status").code == DONE
