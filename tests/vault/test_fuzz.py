"""Damaged objects of a vault are decoded or refused: never a crash, a hang, or much memory: fuzzing.py."""

from __future__ import annotations

import pytest

from tests.counts import record_counts
from tests.effort import EFFORT, SEEDS
from tests.fuzz_runs import damaged

UNTOUCHED_ONLY = {"state object", "head object", "pack"}
"""Of these, what is damaged is hardly ever decoded: only where the damage left it as it was."""


def assert_sensible(outcomes: dict[str, dict[str, int]], cases: int) -> None:
    assert sum(sum(counts.values()) for counts in outcomes.values()) == cases
    for name, counts in outcomes.items():
        assert counts.get("refused", 0) > sum(counts.values()) // 10, (name, counts)
        assert counts.get("decoded", 0) > 0 or name in UNTOUCHED_ONLY, (name, counts)


@pytest.mark.holds("F2")
@pytest.mark.slow
def test_six_thousand_damaged_objects() -> None:
    assert_sensible(damaged("tests.vault.fuzzing", cases=6000, seed=0), 6000)


@pytest.mark.fuzz
@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_many_damaged_objects(seed: int) -> None:
    cases = 30_000 * EFFORT
    outcomes = damaged("tests.vault.fuzzing", cases=cases, seed=seed)
    assert_sensible(outcomes, cases)
    record_counts(f"fuzz-vault-{seed}", executions=cases, outcomes=outcomes)
