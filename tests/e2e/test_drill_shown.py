"""What a teacher sees of drills: several teams in a table, and a clock for the room."""

from __future__ import annotations

import pytest

from overlaysync.units import KIB, MIB
from tests.e2e import disks
from tests.e2e.nodes import NOT_FOUND, Lab, Node
from tests.e2e.terminals import Terminal
from tests.e2e.test_drill_ends import ALONE, scratch

pytestmark = [pytest.mark.qemu, pytest.mark.slow]

MISSED = 12


@pytest.fixture
def node(lab: Lab) -> Node:
    return lab.node("teacher")


def save_vm(node: Node, team: str, data: int = 64 * KIB) -> None:
    """Save a VM for a team; its overlay has so much data."""
    place = node.place / team
    place.mkdir()
    master = disks.make_master(place / f"base-{team}.qcow2", size=max(MIB, data), data=64 * KIB)
    disks.make_overlay(place / f"web-{team}.qcow2", master, (0, data))
    node.json("save", "--team", team, place)


def test_several_teams_are_shown_in_a_table_with_what_failed(lab: Lab, node: Node) -> None:
    red, blue, none = (lab.team(word, node) for word in ("red", "blue", "none"))
    save_vm(node, red)
    save_vm(node, blue)
    result = node.run("drill", red, none, blue, *ALONE)
    assert result.code == NOT_FOUND
    lines = result.stdout.splitlines()
    failed = next(number for number, line in enumerate(lines) if line.startswith(f"✗ {none}"))
    assert f"No state of team '{none}' is within reach" in lines[failed + 1]
    head, *rows = lines[-4:]
    assert head.split() == ["team", "verdict", "VMs", "back", "RTO", "RPO"]
    assert {row.split()[0] for row in rows[:2]} == {red, blue} and rows[2].startswith(none)
    assert "1 of 1" in rows[0] and "0 of 0" in rows[2]
    assert [line for line in result.stderr.splitlines() if line.startswith("team ")] == [
        f"team {team}" for team in (red, none, blue)
    ]


def test_a_clock_shows_how_the_drill_ended(lab: Lab, node: Node) -> None:
    team = lab.team("red", node)
    save_vm(node, team, data=128 * MIB)  # no machine reads, writes and verifies so much within the target
    with Terminal(node, "drill", team, *ALONE, "--watch", "--rto", "0.001") as terminal:
        assert terminal.end() == MISSED
    *_, last = terminal.shown.split("\x1b[2J")
    board, _, after = last.partition("\x1b[?25h")
    assert f"team {team}" in board and "RTO 0.1 s: exceeded by" in board
    assert f"web-{team}  passed after" in board
    assert "is more than the target" in after
    assert not scratch(node)
