"""What a fetch can be asked for: another format, name or place, a plan only, a deep chain."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from overlaysync.units import KIB, MIB
from tests import images
from tests.e2e import disks
from tests.e2e.nodes import DONE, USAGE, Lab, Share

pytestmark = pytest.mark.qemu


class Shared(NamedTuple):
    """A master and an overlay that are being shared."""

    share: Share
    master: Path
    overlay: Path


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, apart: tuple[str, ...]) -> Iterator[dict[str, Shared]]:
    """A pair of each format, by its suffix."""
    with Lab(tmp_path_factory.mktemp("fetch"), prefix=apart) as lab:
        teacher = lab.node("teacher")
        pairs = {}
        for suffix in ("qcow2", "qed"):
            master = disks.make_master(
                teacher.place / f"{lab.name(f'{suffix}-master')}.{suffix}", size=4 * MIB
            )
            pairs[suffix] = (
                master,
                disks.make_overlay(
                    teacher.place / f"{lab.name(f'{suffix}-vm')}.{suffix}",
                    master,
                    (MIB, 200 * KIB),
                    (3 * MIB, 4 * KIB),
                    cluster_size=4096,
                ),
            )
        share = teacher.share(teacher.place)
        yield {suffix: Shared(share, *pair) for suffix, pair in pairs.items()}


def tree(directory: Path) -> set[Path]:
    """Everything below a directory."""
    return set(directory.rglob("*"))


@pytest.mark.parametrize(("theirs", "ours"), [("qed", "qcow2"), ("qcow2", "qed")])
def test_an_overlay_in_another_format(lab: Lab, shared: dict[str, Shared], theirs: str, ours: str) -> None:
    share, master, overlay = shared[theirs]
    student = lab.node("student")

    _, wanted = student.fetch(overlay.stem, "--format", ours, "--peer", share.peer)

    path = student.place / f"{overlay.stem}.{ours}"
    assert (wanted["path"], wanted["format"]) == (str(path), ours)
    assert disks.identical(overlay, path)
    assert images.check(path) == 0
    assert student.files() == {master.name, path.name}
    # The layer is the same, so it can be handed on as what it is.
    assert student.json("id", path)["layer"] == wanted["layer"]


@pytest.mark.parametrize("format", ["raw", "qed", "qcow2"])
def test_a_master_in_any_format(lab: Lab, shared: dict[str, Shared], format: str) -> None:
    share, master, _ = shared["qcow2"]
    student = lab.node("student")
    (item,) = student.fetch(master.stem, "--format", format, "--peer", share.peer)
    path = student.place / f"{master.stem}.{format}"
    assert item["path"] == str(path)
    assert disks.identical(master, path)
    assert path.stat().st_mode & 0o777 == 0o444
    assert format == "raw" or images.check(path) == 0


def test_an_overlay_cannot_be_raw_and_what_can_be_done_is_said(lab: Lab, shared: dict[str, Shared]) -> None:
    share, _, overlay = shared["qcow2"]
    student = lab.node("student")
    error = student.fails(USAGE, "fetch", overlay.stem, "--format", "raw", "--peer", share.peer)
    assert "promote" in error["hint"]
    assert student.files() == set()


def test_name_and_places_can_be_chosen(lab: Lab, shared: dict[str, Shared]) -> None:
    share, master, overlay = shared["qcow2"]
    student = lab.node("student")
    masters, machines = student.base / "masters", student.base / "machines"

    brought, wanted = student.fetch(
        overlay.stem, "--as", "router", "--to", machines, "--masters", masters, "--peer", share.peer
    )

    assert brought["path"] == str(masters / master.name)
    assert wanted["path"] == str(machines / "router.qcow2")
    assert disks.identical(overlay, machines / "router.qcow2")
    assert student.files() == set()
    # A second machine on the same master brings nothing but itself.
    (second,) = student.fetch(
        overlay.stem, "--as", "web", "--to", machines, "--masters", masters, "--peer", share.peer
    )
    assert second["wire"]["data"] == 0
    assert student.files(masters) == {master.name}
    assert student.files(machines) == {"router.qcow2", "web.qcow2"}


def test_a_dry_run_shows_the_plan_and_writes_nothing(lab: Lab, shared: dict[str, Shared]) -> None:
    share, master, overlay = shared["qcow2"]
    student = lab.node("student")
    target = student.place / "new"
    command = ("fetch", overlay.stem, "--dry-run", "--to", target, "--peer", share.peer)
    before = tree(student.place)

    first, second = student.json(*command)["plan"]

    assert (first["name"], first["path"]) == (master.stem, str(target / master.name))
    assert (second["name"], second["path"]) == (overlay.stem, str(target / overlay.name))
    assert second["base"] == first["path"]
    assert tree(student.place) == before
    assert not list((student.home / "journals").iterdir())
    assert str(target / overlay.name) in student.run(*command).stdout


@pytest.mark.parametrize("suffix", ["qed", "qcow2"])
def test_a_chain_is_fetched_whole(lab: Lab, suffix: str) -> None:
    teacher, student = lab.node("teacher"), lab.node("student")
    below = disks.make_master(teacher.place / f"{lab.name('master')}.{suffix}", size=4 * MIB)
    chain = [below]
    for level in range(1, 4):
        below = disks.make_overlay(
            teacher.place / f"{lab.name(f'level{level}')}.{suffix}", below, (level * MIB, 130 * KIB)
        )
        chain.append(below)
    share = teacher.share(chain[-1])

    fetched = student.fetch(chain[-1].stem, "--peer", share.peer)

    assert [item["name"] for item in fetched] == [path.stem for path in chain]
    assert student.files() == {path.name for path in chain}
    for path in chain:
        assert disks.identical(path, student.place / path.name)
    top = student.place / chain[-1].name
    assert len(student.json("show", top)["lineage"]) == 3
    # Everything below the one that was asked for can be worked with, too.
    assert student.run("fetch", chain[2].stem, "--peer", share.peer).code == DONE


def test_an_overlay_larger_and_one_smaller_than_its_master(lab: Lab) -> None:
    teacher, student = lab.node("teacher"), lab.node("student")
    master = disks.make_master(teacher.place / f"{lab.name('master')}.qcow2", size=2 * MIB + 512)
    paths = []
    for word, size in (("larger", 3 * MIB), ("smaller", MIB + 1536)):
        path = images.create(teacher.place / f"{lab.name(word)}.qcow2", size, backing=master)
        disks.write(path, 512 * KIB, disks.noise(word, 70 * KIB))
        paths.append(path)
    share = teacher.share(*paths)
    for path in paths:
        student.fetch(path.stem, "--peer", share.peer)
        assert disks.identical(path, student.place / path.name)


def test_an_empty_overlay_and_an_empty_disk(lab: Lab) -> None:
    teacher, student = lab.node("teacher"), lab.node("student")
    master = images.create(teacher.place / f"{lab.name('empty')}.qcow2", MIB)
    overlay = disks.make_overlay(teacher.place / f"{lab.name('vm')}.qcow2", master)
    share = teacher.share(overlay)
    for item in student.fetch(overlay.stem, "--peer", share.peer):
        assert item["wire"]["data"] == 0
    assert disks.identical(overlay, student.place / overlay.name)


def test_seeding_ends_after_its_time(lab: Lab, shared: dict[str, Shared]) -> None:
    share, master, _ = shared["qcow2"]
    result = lab.node("student").run("fetch", master.stem, "--seed", "0.2", "--peer", share.peer)
    assert result.code == DONE
    assert "sharing for 0.2 s" in result.stderr


def test_a_rate_is_neither_exceeded_nor_missed_by_far(lab: Lab) -> None:
    teacher, student = lab.node("teacher"), lab.node("student")
    name = lab.name("disk")
    share = teacher.share(disks.make_master(teacher.place / f"{name}.raw", size=16 * MIB))
    started = time.monotonic()
    student.fetch(name, "--peer", share.peer, "--limit-rate", "8M")
    assert 1.5 < time.monotonic() - started < 8
