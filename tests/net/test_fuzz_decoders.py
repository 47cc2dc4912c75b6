"""Damaged messages are decoded or refused: never a crash, a hang, or much memory: fuzzing_decoders.py."""

from __future__ import annotations

import pytest

from tests.counts import record_counts
from tests.effort import EFFORT, SEEDS
from tests.fuzz_runs import damaged


def assert_sensible(outcomes: dict[str, dict[str, int]], cases: int) -> None:
    assert sum(sum(counts.values()) for counts in outcomes.values()) == cases
    for name, counts in outcomes.items():
        assert counts.get("refused", 0) > sum(counts.values()) // 10, (name, counts)
        assert counts.get("decoded", 0) > 0, (name, counts)


@pytest.mark.slow
def test_six_thousand_damaged_messages() -> None:
    assert_sensible(damaged("tests.net.fuzzing_decoders", cases=6000, seed=0), 6000)


@pytest.mark.fuzz
@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_many_damaged_messages(seed: int) -> None:
    cases = 30_000 * EFFORT
    outcomes = damaged("tests.net.fuzzing_decoders", cases=cases, seed=seed)
    assert_sensible(outcomes, cases)
    record_counts(f"fuzz-decoders-{seed}", executions=cases, outcomes=outcomes)
