"""Damaged messages are decoded or refused: never a crash, a hang, or much memory: fuzzing_decoders.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.counts import record_counts
from tests.effort import EFFORT, SEEDS

ROOT = Path(__file__).parents[2]


def fuzz(*, cases: int, seed: int) -> dict[str, dict[str, int]]:
    """Decoder → how many damaged messages it decoded, and how many it refused."""
    words = ["-m", "tests.net.fuzzing_decoders", "--cases", str(cases), "--seed", str(seed)]
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
        assert counts.get("decoded", 0) > 0, (name, counts)


@pytest.mark.slow
def test_six_thousand_damaged_messages() -> None:
    assert_sensible(fuzz(cases=6000, seed=0), 6000)


@pytest.mark.fuzz
@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_many_damaged_messages(seed: int) -> None:
    cases = 30_000 * EFFORT
    outcomes = fuzz(cases=cases, seed=seed)
    assert_sensible(outcomes, cases)
    record_counts(f"fuzz-decoders-{seed}", executions=cases, outcomes=outcomes)
