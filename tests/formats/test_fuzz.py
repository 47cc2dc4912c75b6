"""Damaged images are mapped or refused: never a crash, a hang, or much memory. See ``fuzzing.py``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.counts import record_counts
from tests.effort import EFFORT, SEEDS

ROOT = Path(__file__).parents[2]


def fuzz(*, cases: int, seed: int) -> dict[str, int]:
    """How many damaged images were mapped, and how many refused."""
    command = [sys.executable, "-m", "tests.formats.fuzzing", "--cases", str(cases), "--seed", str(seed)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=280 * EFFORT, check=False
    )
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    outcomes = {name: int(count) for name, count in zip(words[::2], words[1::2], strict=True)}
    record_counts(f"fuzz-images-{seed}", **outcomes)
    return outcomes


def assert_sensible(outcomes: dict[str, int], cases: int) -> None:
    assert sum(outcomes.values()) == cases
    assert outcomes["mapped"] > cases // 10
    assert outcomes["refused"] > cases // 10


@pytest.mark.slow
def test_two_thousand_damaged_images() -> None:
    assert_sensible(fuzz(cases=2000, seed=0), 2000)


@pytest.mark.holds("F1")
@pytest.mark.fuzz
@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_many_damaged_images(seed: int) -> None:
    cases = 20_000 * EFFORT
    assert_sensible(fuzz(cases=cases, seed=seed), cases)
