"""Commands where files can share their blocks: a new image takes only the room of what is new in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from overlaysync.units import CHUNK, KIB, MIB
from tests import images
from tests.e2e import disks
from tests.e2e.nodes import Lab, Node
from tests.filesystems import REFLINKS, entered, mounted, shared, used

pytestmark = [pytest.mark.qemu, pytest.mark.reflink]

SIZE = 16 * MIB


@dataclass(frozen=True, slots=True)
class Disk:
    """The file system, mounted for this test and for a student's commands."""

    student: Node
    point: Path


@pytest.fixture(params=REFLINKS)
def disk(request: pytest.FixtureRequest, lab: Lab) -> Iterator[Disk]:
    lab.root.mkdir(exist_ok=True)
    with mounted(request.param, lab.root, within=lab.prefix) as (made, point), entered(made):
        yield Disk(lab.node("student", prefix=made.prefix), point)


@pytest.mark.parametrize("suffix", ["raw", "qcow2"])
def test_a_newer_version_shares_what_the_old_one_has(lab: Lab, disk: Disk, suffix: str) -> None:
    teacher = lab.node("teacher")
    path = disks.make_master(teacher.place / f"{lab.name('master')}.{suffix}", size=SIZE)
    share = teacher.share(path)
    disk.student.fetch(path.stem, "--to", disk.point, "--peer", share.peer)
    share.stop()
    disks.write(path, 3 * MIB, disks.noise("new", 160 * KIB))
    share = teacher.share(path)
    before = used(disk.point)

    (item,) = disk.student.fetch(path.stem, "--to", disk.point, "--as", "newer", "--peer", share.peer)

    newer = Path(item["path"])
    assert (item["wire"]["data"], item["local"]) == (3 * CHUNK, SIZE - 3 * CHUNK)
    assert shared(newer) == SIZE - 3 * CHUNK
    assert used(disk.point) < before + MIB
    assert disks.identical(path, newer)
    assert suffix == "raw" or images.check(newer) == 0


def test_a_promoted_master_shares_with_the_overlay_and_its_master(lab: Lab, disk: Disk) -> None:
    master = disks.make_master(disk.point / "master.qcow2", size=SIZE)
    overlay = disks.make_overlay(disk.point / "vm.qcow2", master, (2 * MIB, MIB), (9 * MIB + 512, 512))
    before = used(disk.point)

    promoted = Path(disk.student.json("promote", overlay, "--as", "new")["path"])

    assert shared(promoted) == SIZE
    assert used(disk.point) < before + MIB
    assert disks.identical(overlay, promoted) and images.check(promoted) == 0
    assert disk.student.json("verify", promoted)
