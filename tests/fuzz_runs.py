"""Runs fuzzers of decoders, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.effort import EFFORT

ROOT = Path(__file__).parents[1]


def damaged(fuzzer: str, *, cases: int, seed: int) -> dict[str, dict[str, int]]:
    """Decoder → how many damaged inputs it decoded, and how many it refused.

    Args:
        fuzzer: the module, which prints these.
        cases: how many inputs.
        seed: of the damage.
    """
    words = ["-m", fuzzer, "--cases", str(cases), "--seed", str(seed)]
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
