"""Damaged objects of a vault are decoded or refused: never a crash, a hang, or much memory: fuzzing.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.counts import record_counts
from tests.effort import EFFORT, SEEDS

ROOT = Path(__file__).parents[2]
UNTOUCHED_ONLY = {"state object", "head object", "pack"}
"""Of these, what is damaged is hardly ever decoded: only where the damage left it as it was."""


def fuzz(*, cases: int, seed: int) -> dict[str, dict[str, int]]:
    """Decoder → how many damaged objects it decoded, and how many it refused."""
    words = ["-m", "tests.vault.fuzzing", "--cases", str(cases), "--seed", str(seed)]
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=280 * EFFORT, check=False
    )
    assert done.returncode == 0, done.stderr
    outcomes: dict[str, dict[str, int]] = {}
    for line in done.stdout.splitlines():
        name, _, rest = line.partition(": ")
        outcome, count = rest.split()
        outcomes.setdefault(name, {})[outcome] = int(count)
    return outcomes


def assert_sensible(outcomes: dict[str, dict[str, int]], cases: int) -> None:
    assert sum(sum(counts.values()) for counts in outcomes.values()) == cases
    for name, counts in outcomes.items():
        assert counts.get("refused", 0) > sum(counts.values()) // 10, (name, counts)
        assert counts.get("decoded", 0) > 0 or name in UNTOUCHED_ONLY, (name, counts)


@pytest.mark.holds("F2")
@pytest.mark.slow
def test_six_thousand_damaged_objects() -> None:
    assert_sensible(fuzz(cases=6000, seed=0), 6000)


@pytest.mark.fuzz
@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_many_damaged_objects(seed: int) -> None:
    cases = 30_000 * EFFORT
    outcomes = fuzz(cases=cases, seed=seed)
    assert_sensible(outcomes, cases)
    record_counts(f"fuzz-vault-{seed}", executions=cases, outcomes=outcomes)
