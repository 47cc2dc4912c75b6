"""The teams of a node as the page shows them, from what is really in its home."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from overlaysync.net.messages import Address
from overlaysync.node.node import Node
from overlaysync.ops.drill.history import record_drill
from overlaysync.ops.recovery.vaults import space_of
from overlaysync.store.keeping import Keeping, KeptTeam, save_keeping
from overlaysync.trust.team_files import keep_team
from overlaysync.trust.teams import new_team
from overlaysync.vault.directory import DirectoryObjects
from overlaysync.vault.drill import DrillRecord
from overlaysync.web.board import Board
from overlaysync.web.model import Kept
from overlaysync.web.teams import teams_of
from overlaysync.web.texts import ALL
from tests.web.test_view import lab


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    keep_team(home / "teams", new_team("red"))
    opened = Node.open({"OVERLAYSYNC_HOME": str(home)})
    yield opened
    opened.close()


def record(node: Node, started: str, verdict: str) -> None:
    """A drill as its command records it, signed."""
    made = DrillRecord(
        team="red",
        started=started,
        by="ana@bob\u202e",
        verdict=verdict,  # type: ignore[arg-type]
        vms=("web", "db"),
        ready=("web",),
        rto_s=62.0 if verdict == "passed" else None,
    )
    record_drill(DirectoryObjects(node.home.vault), space_of(node.teams["red"]), node.key, made)


def test_the_last_drill_and_the_last_that_passed_are_shown(node: Node) -> None:
    assert teams_of(node, ())[0].drill is None
    record(node, "2026-11-27T10:00:00Z", "passed")
    record(node, "2026-11-28T10:00:00Z", "partial")
    (team,) = teams_of(node, ())
    assert team.drill and (team.drill.verdict, team.drill.ready, team.drill.vms) == ("partial", 1, 2)
    assert team.passed and (team.passed.started, team.passed.rto_s) == ("2026-11-27T10:00:00Z", 62.0)
    assert "\u202e" not in team.drill.by
    board = Board(ALL["fr"])
    board.show(replace(lab(), teams=(team,)))
    assert "une partie des VM est revenue" in board.texts["teams"]


def test_how_a_team_is_kept_and_on_how_many_machines_it_can_be(node: Node) -> None:
    assert teams_of(node, ())[0].kept is None
    save_keeping(node.home.keeping, Keeping({"red": KeptTeam(3, 5 << 30)}))
    (team,) = teams_of(node, (Address("127.0.0.1", 29450),))
    assert (team.kept, team.machines, team.needed) == (Kept(3, 5 << 30), 1, 2)
    others = [Address(f"198.51.100.{number}", port) for number in (1, 2, 3) for port in (29450, 29451)]
    (team,) = teams_of(node, others)
    assert (team.machines, team.needed) == (4, 3)


def test_a_team_that_cannot_be_read_says_why(node: Node) -> None:
    node.home.keeping.write_text("{")
    (team,) = teams_of(node, ())
    assert team.name == "red" and "is damaged" in team.problems[0]
