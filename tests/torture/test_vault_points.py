"""A fault at the system calls of every command on the vault. All of them: ``scripts/torture``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.counts import record_counts
from tests.e2e.nodes import Lab
from tests.torture.conftest import MakeRunner
from tests.torture.points import Tally
from tests.torture.scenes import CHECKPOINT
from tests.torture.vault_points import VaultTorturer
from tests.torture.vault_scenes import THREADED, VAULT_SCENES, VaultStage

pytestmark = [pytest.mark.qemu, pytest.mark.strace, pytest.mark.slow]

SAMPLE = 12
"""So many faults of each scene are tried here, other ones each day."""


@pytest.mark.holds("D3")
@pytest.mark.parametrize("name", VAULT_SCENES)
def test_a_fault_at_any_call_leaves_a_vault_whole(
    tmp_path: Path, lab: Lab, make_runner: MakeRunner, seed: int, name: str
) -> None:
    stage = VaultStage(tmp_path / "stage", lab)
    runner = make_runner(checkpoint=CHECKPOINT, one_thread=name not in THREADED, one_pull=True)
    torturer = VaultTorturer(runner, stage, stage.scene(name))
    faults = torturer.faults()
    step = max(1, len(faults) // SAMPLE)
    step += step % 3 == 0  # no multiple of three: all kinds have their turn
    chosen = [fault for at, fault in enumerate(faults) if (at + seed) % step == 0]
    tally = Tally()
    for fault in chosen:
        tally.add(torturer.try_one(fault))
    record_counts(
        f"vault-{name}", points=len(torturer.calls), faults=len(faults), seed=seed, tried=dict(tally.counts)
    )
    assert not tally.findings, f"seed {seed}\n" + "\n".join(tally.findings[:5])
    assert tally.counts["half done"] > 0, tally.counts
