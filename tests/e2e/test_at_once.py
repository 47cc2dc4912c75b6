"""Several commands for one target at once: one writes, the others are told so, and nothing is damaged."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from overlaysync.ops.recovery.lock import only_writer
from overlaysync.units import CHUNK, MIB
from tests import images
from tests.counts import record_counts
from tests.e2e import disks
from tests.e2e.nodes import DONE, IN_USE, INTERRUPTED, NOT_FOUND, WOULD_DESTROY, Lab, Node, Process, until

pytestmark = pytest.mark.qemu


@pytest.mark.holds("R8")
@pytest.mark.red_without("R8", "the part file is not locked (the second command reported it only at the end)")
@pytest.mark.parametrize(
    ("homes", "count"),
    [("one home", 2), ("a home each", 2), pytest.param("a home each", 8, marks=pytest.mark.slow)],
)
def test_one_writes_and_the_others_are_told_so(lab: Lab, homes: str, count: int) -> None:
    teacher, student = lab.node("teacher"), lab.node("student")
    name = lab.name("vm")
    master = disks.make_master(teacher.place / f"{lab.name('master')}.qcow2", size=8 * MIB)
    overlay = disks.make_overlay(teacher.place / f"{name}.qcow2", master, (MIB, 2 * MIB))
    share = teacher.share(overlay)
    nodes = [student if homes == "one home" else lab.node(f"student{at}") for at in range(count)]
    command = ("fetch", name, "--to", student.place, "--peer", share.peer, "--limit-rate", "16M", "--json")

    results = [fetch.wait() for fetch in [node.start(*command) for node in nodes]]

    codes = [result.code for result in results]
    assert set(codes) <= {DONE, IN_USE}, [result.stderr for result in results]
    assert DONE in codes
    for result in results:
        if result.code == IN_USE:
            assert "Another overlaysync" in result.error["what"]
    assert student.files() == {master.name, overlay.name}
    assert disks.identical(overlay, student.place / overlay.name)
    assert student.fetch(*command[1:-1])[0]["already_here"]


@pytest.mark.holds("R8")
@pytest.mark.red_without("R8", "the second command waits")
@pytest.mark.parametrize("homes", ["one home", "a home each"])
def test_who_comes_while_another_writes_is_told_so_at_once(lab: Lab, homes: str) -> None:
    teacher, student = lab.node("teacher"), lab.node("student")
    master = disks.make_master(teacher.place / f"{lab.name('master')}.raw", size=64 * MIB)
    share = teacher.share(master)
    command = ("fetch", master.stem, "--to", student.place, "--peer", share.peer, "--limit-rate", "1M")
    first = student.start(*command)
    until(lambda: [*student.home.glob("journals/*.journal")], what="the first one's writing")
    other = student if homes == "one home" else lab.node("other")

    assert "Another overlaysync" in other.fails(IN_USE, *command)["what"]

    assert first.running, "nobody had to wait for its end"
    first.interrupt()
    assert first.wait().code == INTERRUPTED


EIGHT = 8


def make_images(node: Node) -> tuple[Path, Path]:
    """An overlay on a master, and another master much like that."""
    master = disks.make_master(node.place / "master.qcow2", size=8 * MIB)
    other = node.place / "other.qcow2"
    other.write_bytes(master.read_bytes())
    disks.write(other, 5 * MIB, disks.noise("other", CHUNK))
    overlay = disks.make_overlay(node.place / "vm.qcow2", master, (MIB, 2 * MIB))
    for path in (master, other):
        path.chmod(0o444)
    return overlay, other


@pytest.mark.red_without("R8", "the part file is not locked (the second command reported it only at the end)")
@pytest.mark.slow
@pytest.mark.parametrize("homes", ["one home", "a home each"])
@pytest.mark.parametrize(
    ("words", "made"),
    [
        (("promote", "vm.qcow2", "--as", "kept"), "kept.qcow2"),
        (("rebase", "vm.qcow2", "--onto", "other.qcow2", "--as", "moved"), "moved.qcow2"),
        (("rebase", "vm.qcow2", "--onto", "other.qcow2", "--replace"), "vm.qcow2"),
        (("new", "fresh.qcow2", "--master", "master.qcow2"), "fresh.qcow2"),
    ],
    ids=["promote", "rebase", "rebase-replace", "new"],
)
def test_eight_make_one_image(lab: Lab, homes: str, words: tuple[str, ...], made: str) -> None:
    first = lab.node("student0")
    overlay, _ = make_images(first)
    guest = images.content(overlay if words[0] != "new" else first.place / "master.qcow2")
    before = {path.name: path.read_bytes() for path in first.place.iterdir()}
    nodes = [first if homes == "one home" else lab.node(f"student{at}") for at in range(EIGHT)]
    inside = [str(first.place / word) if word.endswith(".qcow2") else word for word in words]
    more = ["--to", str(first.place)] if "--as" in words else []

    results = [command.wait() for command in [node.start(*inside, *more, "--json") for node in nodes]]

    codes = Counter(result.code for result in results)
    assert set(codes) <= {DONE, IN_USE, WOULD_DESTROY}, [result.stderr for result in results]
    assert codes[DONE] >= 1
    assert first.files() == {*before, made}
    assert images.check(first.place / made) == 0
    assert images.content(first.place / made) == guest
    for name in set(before) - {made}:
        assert (first.place / name).read_bytes() == before[name], f"{name} was changed"
    record_counts(
        f"at-once-{words[0]}-{made.partition('.')[0]}-{homes.replace(' ', '-')}", **name_codes(codes)
    )


@pytest.mark.holds("R8")
@pytest.mark.slow
def test_eight_want_one_name_for_different_things(lab: Lab) -> None:
    teacher, student = lab.node("teacher"), lab.node("student")
    overlay, other = make_images(student)
    name = lab.name("wanted")
    lesson = disks.make_master(teacher.place / f"{name}.qcow2", size=8 * MIB)
    share = teacher.share(lesson)
    before = {path.name: path.read_bytes() for path in student.place.iterdir()}
    fetch = ("fetch", name, "--peer", share.peer)
    commands = [
        fetch,
        ("promote", overlay, "--as", name),
        ("rebase", overlay, "--onto", other, "--as", name),
        ("new", f"{name}.qcow2", "--master", other),
    ] * 2

    results = [command.wait() for command in [student.start(*words, "--json") for words in commands]]

    codes = Counter(result.code for result in results)
    assert set(codes) <= {DONE, IN_USE, WOULD_DESTROY, NOT_FOUND}, [result.stderr for result in results]
    assert codes[DONE] >= 1
    target = student.place / f"{name}.qcow2"
    assert images.check(target) == 0
    possible = [images.content(path) for path in (lesson, overlay, other)]
    assert images.content(target) in possible
    winners = {words[0] for words, result in zip(commands, results, strict=True) if result.code == DONE}
    assert len(winners - {"rebase", "promote"}) <= 1
    assert {path.name: path.read_bytes() for path in student.place.iterdir() if path.name in before} == before
    student.run("verify", target)
    record_counts("at-once-mixed", **name_codes(codes))


def name_codes(codes: Counter[int]) -> dict[str, int]:
    words = {DONE: "done", IN_USE: "busy", WOULD_DESTROY: "exists", NOT_FOUND: "nobody"}
    return {words[code]: count for code, count in codes.items()}


def _waits(process: Process) -> bool:
    return "waiting for it to finish" in process.stderr


def test_commands_wait_for_the_vault(lab: Lab) -> None:
    alice = lab.node("alice")
    team = lab.team("red", alice)
    disks.make_master(alice.place / "web.qcow2", size=1 << 20)
    alice.json("save")
    disks.make_overlay(alice.place / "db.qcow2", alice.place / "web.qcow2")
    commands = (["save"], ["forget", team, "--keep-last", "1"], ["vault", "gc"], ["keep", team, "--once"])
    with only_writer(alice.home / "vault"):
        waiting = [alice.start(*words) for words in commands]
        for process in waiting:
            until(partial(_waits, process))
            assert process.running
    for process in waiting:
        assert process.wait().code == DONE, process.stderr
