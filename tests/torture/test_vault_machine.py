"""Any order of what is done with a vault. Longer ones, and more of them: ``scripts/torture``."""

from __future__ import annotations

import pytest

from tests.counts import record_counts
from tests.e2e.nodes import Lab
from tests.torture.conftest import MakeRunner
from tests.torture.orders import try_until
from tests.torture.vault_machine import try_terms

pytestmark = [pytest.mark.qemu, pytest.mark.strace, pytest.mark.slow]


@pytest.mark.holds("D9")
@pytest.mark.red_without("D9", "what a state follows is known only by the states that it names")
def test_any_order_of_what_is_done_with_a_vault_loses_nothing(
    lab: Lab, make_runner: MakeRunner, seed: int
) -> None:
    runner = make_runner(one_thread=False)
    counts = try_until(
        lambda counts: counts["restores compared"] and counts["save"] and counts["kills"],
        seed,
        lambda seed: try_terms(lab, runner, seed=seed, examples=5, steps=15),
    )
    record_counts("vaults", seed=seed, **counts)
    assert counts["restores compared"] and counts["save"] and counts["kills"]
