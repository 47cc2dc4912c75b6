"""A fault at the system calls of every command: killed, disk full, disk broken. All: ``scripts/torture``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.counts import record_counts
from tests.e2e.nodes import Lab
from tests.torture.conftest import MakeRunner
from tests.torture.points import ImageTorturer, Tally
from tests.torture.scenes import CHECKPOINT, SCENES, Stage

pytestmark = [pytest.mark.qemu, pytest.mark.strace, pytest.mark.slow]

STEP = {"verify-repair": 16, "fetch-master": 40, "fetch-overlay": 40, "fetch-replace": 40, "fetch-packed": 40}
"""One fault in so many is tried here, another each day. No multiple of three: all kinds have their turn."""

OF_SMALL = 7
"""The same for the commands that make few calls."""


@pytest.mark.holds("R1")
@pytest.mark.parametrize("name", SCENES)
def test_a_fault_at_any_call_harms_nothing(
    tmp_path: Path, lab: Lab, make_runner: MakeRunner, seed: int, name: str
) -> None:
    stage = Stage(tmp_path / "stage", lab)
    torturer = ImageTorturer(make_runner(checkpoint=CHECKPOINT), stage.place, stage.scene(name))
    faults = torturer.faults()
    step = STEP.get(name, OF_SMALL)
    chosen = [fault for at, fault in enumerate(faults) if (at + seed) % step == 0]
    tally = Tally()
    for fault in chosen:
        tally.add(torturer.try_one(fault))
    record_counts(
        f"points-{name}", points=len(torturer.calls), faults=len(faults), seed=seed, tried=dict(tally.counts)
    )
    assert not tally.findings, f"seed {seed}\n" + "\n".join(tally.findings[:5])
    assert tally.counts["runs"] == len(chosen) > 0
    # In one thread nearly the same calls are made every time; what hangs on the clock or the network is not.
    assert tally.counts["not fired"] + tally.counts["elsewhere"] <= max(2, len(chosen) // 10)
