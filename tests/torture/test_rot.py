"""Bit rot: found, named, healed, and never passed on."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from overlaysync.units import KIB, MIB
from tests.counts import record_counts
from tests.e2e import disks
from tests.e2e.nodes import DONE, NETWORK, NOT_FOUND, NOT_VERIFIED, Lab
from tests.torture.conftest import MakeRunner
from tests.torture.decay import Decay
from tests.torture.kills import claimed
from tests.torture.rot import flip, memory_or, stored

pytestmark = [pytest.mark.qemu, pytest.mark.slow]

DATA, ANYWHERE = 8, 24


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory where bits can rot without the file system noticing, where there is one."""
    made = Path(tempfile.mkdtemp(prefix="overlaysync-rot-", dir=memory_or(tmp_path)))
    for name in ("images", "home"):
        (made / name).mkdir(mode=0o700)
    yield made
    shutil.rmtree(made)


@pytest.mark.holds("R6")
@pytest.mark.parametrize("suffix", ["raw", "qed", "qcow2"])
def test_every_bit_is_found_and_healed(lab: Lab, make_runner: MakeRunner, place: Path, suffix: str) -> None:
    teacher = lab.node("teacher")
    master = disks.make_master(teacher.place / f"base.{suffix}", size=3 * MIB, data=2 * MIB)
    kind = "qcow2" if suffix == "raw" else suffix
    overlay = disks.make_overlay(teacher.place / f"lesson.{kind}", master, (MIB, 512 * KIB), (0, 512))
    share = teacher.share(master, overlay)
    runner = make_runner(one_thread=False)
    decay = Decay(runner, place / "images", place / "home", share.peer, random.Random(suffix))
    assert decay.run("fetch", "lesson", "--peer", share.peer).code == DONE
    for name in (master.name, overlay.name):
        for bits in (1, 1, 2, 5, *[1] * (DATA - 4)):
            decay.rot_data(name, bits)
        for _ in range(ANYWHERE // 2):
            decay.rot_anywhere(name)
    record_counts(f"rot-{suffix}", **decay.counts)
    assert decay.counts["healed"] >= DATA


@pytest.mark.red_without("R3", "what the journal claims is not hashed again")
def test_what_rots_half_done_is_fetched_again(lab: Lab, make_runner: MakeRunner, place: Path) -> None:
    teacher = lab.node("teacher")
    master = disks.make_master(teacher.place / "base.qcow2", size=8 * MIB)
    share = teacher.share(master)
    runner, chance = make_runner(one_thread=False, checkpoint=MIB), random.Random(3)
    images, home = place / "images", place / "home"
    words = ("fetch", "base", "--peer", share.peer, "--json", "--quiet")
    bits = 0
    for turn in range(6):
        part = images / ".base.qcow2.part"
        runner.run(
            (*words, "--limit-rate", "16M"),
            directory=images,
            home=home,
            kill_when=lambda: len(claimed(home)) >= 16,
        )
        assert part.exists() and claimed(home)
        journal = next((home / "journals").glob("*.journal"))
        for file in (part, journal) if turn % 2 else (part,):
            for _ in range(20):
                flip(file, chance.randrange(file.stat().st_size), chance.randrange(8))
                bits += 1
        outcome = runner.run(words, directory=images, home=home)
        assert outcome.code == DONE, outcome
        assert disks.identical(master, images / "base.qcow2")
        assert disks.identical(master, images / "base.qcow2")
        (images / "base.qcow2").unlink()
    record_counts("rot-half-done", bits=bits, fetches=6, accepted=0)


@pytest.mark.holds("R6")
def test_nobody_accepts_what_has_rotted_at_the_sharer(lab: Lab, make_runner: MakeRunner, place: Path) -> None:
    bad, good = lab.node("bad"), lab.node("good")
    shared = disks.make_master(place / "disk.qcow2", size=4 * MIB)
    (good.place / shared.name).write_bytes(shared.read_bytes())
    rotten, healthy = bad.share(shared), good.share(good.place / shared.name)
    runner, chance = make_runner(one_thread=False), random.Random(4)
    silent = True
    for _ in range(5):
        _, length, host = chance.choice(stored(shared))
        silent &= flip(shared, host + chance.randrange(length), chance.randrange(8))
    words = ("fetch", "disk", "--wait", "1", "--json", "--quiet", "--peer", rotten.peer)
    images, home = place / "images", place / "home"

    outcome = runner.run(words, directory=images, home=home)
    assert outcome.code in ((NOT_VERIFIED,) if silent else (NOT_VERIFIED, NOT_FOUND, NETWORK)), outcome
    assert [path.name for path in images.iterdir()] == [".disk.qcow2.part"] or not silent

    outcome = runner.run((*words, "--peer", healthy.peer), directory=images, home=home)
    assert outcome.code == DONE, outcome
    assert disks.identical(good.place / shared.name, images / "disk.qcow2")
    record_counts("rot-at-the-sharer", bits=5, accepted=0, silent=silent)
