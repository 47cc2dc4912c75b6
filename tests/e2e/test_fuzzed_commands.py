"""Whole commands beside damaged peers end well, and find what honest peers have: fuzzing_commands.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import overlaysync
from tests.e2e.fuzzing_commands import KINDS, NETWORK
from tests.e2e.namespaces import namespace
from tests.effort import EFFORT

CASES = 2 * EFFORT
_SOURCE = Path(overlaysync.__file__).parents[1]


@pytest.mark.fuzz
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_peer_ends_no_command_and_hides_nobody(kind: str) -> None:
    with namespace("net", "mount", script=NETWORK) as network:
        words = [sys.executable, "-m", "tests.e2e.fuzzing_commands", kind, "--cases", str(CASES)]
        done = subprocess.run(
            [*network.prefix, "env", f"--chdir={_SOURCE}", *words],
            check=False,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(done.stdout)
    assert outcomes["ls --json 0"] == CASES
    assert outcomes.get("ls red/ 3", 0) + outcomes.get("ls red/ 4", 0) == CASES, (
        "nothing of the team is there"
    )
    assert outcomes["fetch honest 0"] == CASES
