"""What of keeping stays as it was said before."""

from __future__ import annotations

from overlaysync.cli.keep import _changed
from overlaysync.store.keeping import Keeping, KeptTeam
from overlaysync.units import GIB

KEEPING = Keeping({"red": KeptTeam(5, GIB), "blue": KeptTeam()}, 7)


def test_a_round_that_the_program_advises_changes_no_limit() -> None:
    assert _changed(KEEPING, "red", None, None, off=False) == KEEPING


def test_what_is_said_counts() -> None:
    assert _changed(KEEPING, "red", 2, 0, off=False).teams["red"] == KeptTeam(2, 0)
    assert _changed(KEEPING, "green", None, None, off=False).teams["green"] == KeptTeam(3, 0)
    assert _changed(KEEPING, "red", None, None, off=True).teams == {"blue": KeptTeam()}
    assert _changed(KEEPING, "", None, GIB, off=False) == Keeping(KEEPING.teams, GIB)
