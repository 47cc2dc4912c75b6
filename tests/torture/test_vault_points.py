"""A fault at the system calls of every command on the vault. All of them: ``scripts/torture``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from overlaysync.units import MIB
from tests.counts import record_counts
from tests.e2e.nodes import Lab
from tests.torture.conftest import MakeRunner
from tests.torture.points import Tally
from tests.torture.runner import KILLED, Call, Fault
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


@pytest.mark.holds("R3")
@pytest.mark.red_without("R3", "what a vault gives is claimed when the disk is whole, and not before")
def test_a_killed_restore_does_not_write_again_what_it_had_written(
    tmp_path: Path, lab: Lab, make_runner: MakeRunner
) -> None:
    """It is killed when the master has all its data, and lacks its name."""
    stage = VaultStage(tmp_path / "stage", lab)
    scene, place = stage.scene("restore"), stage.place
    runner = make_runner(checkpoint=CHECKPOINT)
    torturer = VaultTorturer(runner, stage, scene)
    ends = [call for call in torturer.calls if call.name == "fsync" and ".part>" in call.text]
    place.become(scene.template)
    fault = Fault("fsync", ends[0].nth, "kill")
    killed = runner.run(scene.words, directory=place.images, home=place.home, fault=fault)
    claimed = place.claimed() * scene.unit
    again = runner.run(scene.words, directory=place.images, home=place.home, trace=True)
    assert (killed.code, again.code) == (KILLED, 0) and claimed >= MIB
    assert sum(one["resumed"] for one in again.document["restored"]) == claimed
    assert _written(again.calls) == _written(torturer.calls) - claimed


def _written(calls: Iterable[Call]) -> int:
    """Bytes that were written to part files."""
    results = (re.search(r"= (\d+)$", call.text) for call in calls if call.name == "pwrite64")
    return sum(int(found[1]) for found in results if found and ".part>" in found.string)
