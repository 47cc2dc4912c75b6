"""Any order of what a team does loses nothing. Longer ones, and more of them: ``scripts/torture``."""

from __future__ import annotations

import pytest

from tests.counts import record_counts
from tests.e2e.nodes import Lab
from tests.torture.conftest import MakeRunner
from tests.torture.orders import try_until
from tests.torture.team_machine import try_weeks

pytestmark = [pytest.mark.qemu, pytest.mark.slow]


@pytest.mark.holds("A1")
def test_any_order_of_what_a_team_does_loses_nothing(lab: Lab, make_runner: MakeRunner, seed: int) -> None:
    runner = make_runner(one_thread=False)
    counts = try_until(
        lambda counts: counts["publications"] and counts["fetch"] and counts["writes"],
        seed,
        lambda seed: try_weeks(lab, runner, seed=seed, examples=6, steps=18),
    )
    record_counts("teams", seed=seed, **counts)
    assert counts["publications"] and counts["fetch"] and counts["writes"]
