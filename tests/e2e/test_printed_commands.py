"""What fetch and sync print after ``try:`` can be typed: it does that, for the one thing named."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from overlaysync.units import MIB
from tests.e2e import disks
from tests.e2e.nodes import USAGE, WOULD_DESTROY, Lab, Node
from tests.e2e.versions import edit, publish, shared


def printed(hint: str, option: str = "") -> list[str]:
    """The arguments of the only printed command with ``option``."""
    (command,) = [text for text in re.findall(r"overlaysync ([^;,]+)", hint) if option in text]
    return shlex.split(command)


def everything(node: Node) -> set[str]:
    """All files in and below the directory where the commands run."""
    return {str(path.relative_to(node.place)) for path in node.place.rglob("[!.]*") if path.is_file()}


def test_a_printed_command_goes_to_the_same_places_and_replaces_only_what_it_names(lab: Lab) -> None:
    ann, ben = lab.node("ann"), lab.node("ben")
    team = lab.team("red", ann, ben)
    web = disks.make_master(ann.place / "web.raw", size=MIB)
    db = disks.make_master(ann.place / "db.raw", size=MIB)
    places = ("--to", "some where", "--masters", "masters")

    with shared(ann, "--team", team, web, db) as share:
        ben.fetch(f"{team}/", *places, "--peer", share.peer)
    assert everything(ben) == {"masters/web.raw", "masters/db.raw"}, "masters go where masters go"
    edit(web, "second")
    with shared(ann, "--team", team, web) as share:
        counted = ben.run(
            "fetch", f"{team}/web", "absent", "--to", "x", "--dry-run", "--peer", share.peer, "--wait", "1"
        )
        assert "1 of 2 could not be fetched" in counted.stderr
        newer = ben.fails(WOULD_DESTROY, "fetch", f"{team}/web", *places, "--peer", share.peer)
        ben.json(*printed(newer["hint"], "--replace"))
    mine = ben.place / "masters" / "web.raw"
    assert mine.read_bytes() == web.read_bytes()

    edit(mine, "work")
    edit(db, "second")
    edit(web, "third")
    with shared(ann, "--team", team, web, db) as share:
        result = ben.run("sync", f"{team}/", *places, "--peer", share.peer, "--json")
        (work,) = result.document["failed"]
        both = printed(work["hint"], "--as")
        ben.json(*(word if word != "NAME" else "theirs" for word in both))
        assert mine.read_bytes() != web.read_bytes() == (mine.parent / "theirs.raw").read_bytes()
        edit(ben.place / "masters" / "db.raw", "more work")
        before = (ben.place / "masters" / "db.raw").read_bytes()
        ben.json(*printed(work["hint"], "--discard-changes"))
    assert mine.read_bytes() == web.read_bytes()
    assert (ben.place / "masters" / "db.raw").read_bytes() == before
    assert everything(ben) == {"masters/web.raw", "masters/db.raw", "masters/theirs.raw"}


def test_each_side_of_a_fork_has_a_command(lab: Lab) -> None:
    ann, ben, cleo = (lab.node(name) for name in ("ann", "ben", "cleo"))
    team = lab.team("red", ann, ben, cleo)
    web = disks.make_master(ann.place / "web.raw", size=MIB)
    with shared(ann, "--team", team, web) as share:
        ben.fetch(f"{team}/web", "--peer", share.peer)
    sides: list[Path] = [web, ben.place / "web.raw"]
    for node, path in zip((ann, ben), sides, strict=True):
        edit(path, node.base.name)
    publish(ann, web, "--team", team)
    with shared(ann, "--team", team, web) as left, shared(ben, "--team", team, sides[1]) as right:
        peers = ("--peer", left.peer, "--peer", right.peer)
        words = ("fetch", f"{team}/web", "--to", "vm", *peers)
        fork = cleo.fails(USAGE, *words)
        commands = [shlex.split(text) for text in re.findall(r"overlaysync ([^;,]+)", fork["hint"])]
        assert len(commands) == 2
        for number, command in enumerate(commands):
            cleo.json(*command, "--as", f"side{number}")
        taken = {(cleo.place / "vm" / f"side{number}.raw").read_bytes() for number in range(2)}
        assert taken == {path.read_bytes() for path in sides}
        assert "vm" in cleo.files() and "web.raw" not in cleo.files()
        assert fork["hint"] in cleo.run("sync", *words[1:]).stderr
