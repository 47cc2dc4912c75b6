"""A disk that is full at every stage of a command: said, harmless, and over when there is room again."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.counts import record_counts
from tests.e2e.nodes import Lab
from tests.e2e.small_disk import small_disk
from tests.torture import full
from tests.torture.conftest import MakeRunner
from tests.torture.points import ImageTorturer
from tests.torture.runner import Runner
from tests.torture.scenes import Stage

pytestmark = [pytest.mark.qemu, pytest.mark.slow]

ROOMS = 12


@pytest.mark.holds("R4")
@pytest.mark.parametrize("name", full.SCENES)
def test_a_full_disk_harms_nothing_at_any_stage(
    tmp_path: Path, lab: Lab, make_runner: MakeRunner, name: str
) -> None:
    stage = Stage(tmp_path / "stage", lab)
    scene = ImageTorturer(make_runner(), stage.place, stage.scene(name)).scene
    with (
        small_disk(lab, full.DISK) as disk,
        Runner(tmp_path, one_thread=False, reserve=0, prefix=disk.student.prefix) as runner,
    ):
        tally = full.try_rooms(runner, disk.outside, scene, full.rooms(scene, ROOMS))
    record_counts(f"full-{name}", **tally.counts)
    assert not tally.findings, "\n".join(tally.findings[:5])
    assert tally.counts["full"] > 0 and tally.counts["enough"] > 0, tally.counts
