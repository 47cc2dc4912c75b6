"""Several fetches of one target at once: one writes, the others are told so, and nothing is damaged."""

from __future__ import annotations

import pytest

from overlaysync.units import MIB
from tests.e2e import disks
from tests.e2e.nodes import DONE, IN_USE, Lab

pytestmark = pytest.mark.qemu


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
