"""Masters in a directory that only root may write to, as it is linked from many home directories."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from overlaysync.units import KIB, MIB
from tests import images
from tests.e2e import disks
from tests.e2e.nodes import NOT_ALLOWED, Lab, Node, Share

pytestmark = pytest.mark.qemu


class Shared(NamedTuple):
    """What a teacher shares: a master, and an overlay on it."""

    share: Share
    master: Path
    overlay: Path


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, apart: tuple[str, ...]) -> Iterator[Shared]:
    with Lab(tmp_path_factory.mktemp("cache"), prefix=apart) as lab:
        teacher = lab.node("teacher")
        master = disks.make_master(teacher.place / f"{lab.name('base')}.qcow2", size=2 * MIB)
        overlay = disks.make_overlay(teacher.place / f"{lab.name('vm')}.qcow2", master, (MIB, 64 * KIB))
        yield Shared(teacher.share(teacher.place), master, overlay)


@pytest.fixture
def student(lab: Lab) -> Iterator[Node]:
    """A node that root runs without its rights, with ``masters`` linked to a directory it may only read."""
    drop = () if os.geteuid() else ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
    node = lab.node("student", prefix=(*lab.prefix, *drop) if lab.prefix or drop else None)
    cache = node.base / "cache"
    cache.mkdir()
    (node.place / "masters").symlink_to(cache)
    cache.chmod(0o555)
    yield node
    cache.chmod(0o755)


def put_master(student: Node, master: Path) -> Path:
    """The administrator puts a master into the directory."""
    cache = student.base / "cache"
    cache.chmod(0o755)
    path = Path(shutil.copy(master, cache / "other-name.qcow2"))
    path.chmod(0o444)
    cache.chmod(0o555)
    return path


def test_a_master_there_is_found_and_read(student: Node, shared: Shared) -> None:
    master = put_master(student, shared.master)
    (vm,) = student.fetch(shared.overlay.stem, "--masters", "masters", "--peer", shared.share.peer)
    assert disks.identical(Path(vm["path"]), shared.overlay)
    student.json("promote", vm["path"], "--as", "promoted")  # the directory was named, so its master is meant
    made = student.json("new", "mine.qcow2", "--master", f"masters/{master.name}")
    assert disks.identical(Path(made["path"]), shared.master)
    assert student.files() == {"masters", shared.overlay.name, "promoted.qcow2", "mine.qcow2"}
    images.apply(student.place / "mine.qcow2", [images.Op("write", 0, 4096, 5)])
    student.json("promote", "mine.qcow2", "--as", "better")
    student.json("verify", "mine.qcow2")


@pytest.mark.parametrize("plan", [(), ("--dry-run",)])
def test_a_missing_one_goes_to_the_first_that_can_be_written(
    student: Node, shared: Shared, plan: tuple[str, ...]
) -> None:
    places = ("--to", "vm", "--masters", "masters", "--masters", "spare", "--peer", shared.share.peer)
    result = student.run("fetch", shared.overlay.stem, *places, *plan)
    assert result.code == 0
    said = f"{student.place}/masters is not writable: the missing master goes to {student.place}/spare"
    assert said in " ".join(result.stderr.split())
    if not plan:
        assert student.files(student.place / "spare") == {shared.master.name}
        assert disks.identical(student.place / "vm" / shared.overlay.name, shared.overlay)


def test_without_such_a_place_it_goes_beside_the_overlay(student: Node, shared: Shared) -> None:
    result = student.run(
        "fetch", shared.overlay.stem, "--to", "vm", "--masters", "masters", "--peer", shared.share.peer
    )
    assert result.code == 0
    assert f"goes to {student.place}/vm, beside the overlay" in " ".join(result.stderr.split())
    assert student.files(student.place / "vm") == {shared.master.name, shared.overlay.name}


def test_nothing_is_said_where_no_master_is_missing(student: Node, shared: Shared) -> None:
    put_master(student, shared.master)
    result = student.run("fetch", shared.overlay.stem, "--masters", "masters", "--peer", shared.share.peer)
    assert result.code == 0 and "not writable" not in result.stderr


def test_an_overlay_from_elsewhere_is_adopted_on_a_master_there(student: Node, shared: Shared) -> None:
    stick = Path(shutil.copy(shared.overlay, student.place / "stick.qcow2"))
    images.run("qemu-img", "rebase", "-u", "-F", "qcow2", "-b", "/nowhere/base.qcow2", stick)
    made = student.json("adopt", stick, "--masters", "masters", "--peer", shared.share.peer)
    assert student.files() == {"masters", "stick.qcow2", shared.master.name, Path(made["path"]).name}
    assert disks.identical(Path(made["path"]), shared.overlay)


def test_a_target_that_cannot_be_written_is_named(student: Node, shared: Shared) -> None:
    master = put_master(student, shared.master)
    cache = student.base / "cache"
    student.fetch(shared.overlay.stem, "--masters", "masters", "--peer", shared.share.peer)
    overlay = student.place / shared.overlay.name
    for command in (
        ("fetch", shared.overlay.stem, "--to", "masters", "--peer", shared.share.peer),
        ("promote", overlay, "--as", "made", "--to", "masters"),
        ("rebase", overlay, "--onto", master, "--as", "made", "--to", "masters"),
        ("new", "masters/vm.qcow2", "--master", master),
        ("fetch", shared.master.stem, "--to", "masters/new", "--peer", shared.share.peer),
    ):
        error = student.fails(NOT_ALLOWED, *command)
        assert str(cache) in error["why"] or str(student.place / "masters") in error["why"], command
        assert "--to DIR" in error["hint"], command
    assert student.files(cache) == {master.name}
