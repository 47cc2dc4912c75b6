"""A fault at the system calls of every command: killed, disk full, disk broken. All: ``scripts/torture``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.counts import record_counts
from tests.e2e.nodes import Lab
from tests.torture.conftest import MakeRunner
from tests.torture.points import WHATS, Tally, Torturer
from tests.torture.scenes import CHECKPOINT, SCENES, SMALL, Stage

pytestmark = [pytest.mark.qemu, pytest.mark.strace, pytest.mark.slow]

STEP = {"verify-repair": 9, "fetch-master": 25, "fetch-overlay": 25, "fetch-replace": 25, "fetch-packed": 25}
"""One fault in so many is tried here; of the small commands every call is, with one of the three faults."""


@pytest.mark.parametrize("name", SCENES)
def test_a_fault_at_any_call_harms_nothing(
    tmp_path: Path, lab: Lab, make_runner: MakeRunner, seed: int, name: str
) -> None:
    stage = Stage(tmp_path / "stage", lab)
    torturer = Torturer(make_runner(checkpoint=CHECKPOINT), stage, stage.scene(name))
    faults = torturer.faults()
    # Every third fault is at another call each, and of another kind from day to day.
    step = len(WHATS) if name in SMALL else STEP[name]
    chosen = [fault for at, fault in enumerate(faults) if (at // 3 + at + seed) % step == 0]
    tally = Tally()
    for fault in chosen:
        tally.add(torturer.try_one(fault))
    record_counts(
        f"points-{name}", points=len(torturer.calls), faults=len(faults), seed=seed, tried=dict(tally.counts)
    )
    assert not tally.findings, f"seed {seed}\n" + "\n".join(tally.findings[:5])
    assert tally.counts["runs"] == len(chosen) > 0
    # In one thread nearly the same calls are made every time; what hangs on the clock or the network is not.
    assert tally.counts["not fired"] + tally.counts["elsewhere"] <= len(chosen) // 10
