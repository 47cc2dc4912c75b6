"""Overlays whose backing path is stale: from a USB stick, from a directory that was renamed."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from overlaysync.units import KIB, MIB
from tests import images
from tests.e2e import disks
from tests.e2e.nodes import DONE, NO_BASE, USAGE, WOULD_DESTROY, Lab, Node, Share
from tests.ops.world import sha

pytestmark = [pytest.mark.qemu, pytest.mark.holds("C2")]

NOW = ("--wait", "0")
"""Peers are not waited for."""


class Shared(NamedTuple):
    """What a teacher shares: a master, and an overlay on it."""

    share: Share
    master: Path
    overlay: Path


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, apart: tuple[str, ...]) -> Iterator[Shared]:
    with Lab(tmp_path_factory.mktemp("adopt"), prefix=apart) as lab:
        teacher = lab.node("teacher")
        yield share_pair(lab, teacher, 4 * KIB)


@pytest.fixture(scope="module")
def small_clusters(tmp_path_factory: pytest.TempPathFactory, apart: tuple[str, ...]) -> Iterator[Shared]:
    """An overlay whose granules are mixed with what is below."""
    with Lab(tmp_path_factory.mktemp("small"), prefix=apart) as lab:
        yield share_pair(lab, lab.node("teacher"), 512)


def share_pair(lab: Lab, teacher: Node, cluster_size: int) -> Shared:
    master = disks.make_master(teacher.place / f"{lab.name('base')}.qcow2", size=4 * MIB)
    overlay = disks.make_overlay(
        teacher.place / f"{lab.name('vm')}.qcow2", master, (MIB, 200 * KIB), (3 * MIB, 512),
        cluster_size=cluster_size,
    )  # fmt: skip
    return Shared(teacher.share(teacher.place), master, overlay)


@pytest.fixture
def student(lab: Lab) -> Node:
    return lab.node("student")


def on_stick(student: Node, overlay: Path) -> Path:
    """A copy of an overlay, whose header names a path that is not on this machine."""
    stick = student.base / "stick"
    stick.mkdir()
    path = Path(shutil.copy(overlay, stick))
    images.run("qemu-img", "rebase", "-u", "-F", "qcow2", "-b", "/nowhere/masters/base.qcow2", path)
    return path


@pytest.mark.parametrize("kind", ["shared", "small_clusters"])
def test_a_stick_brings_the_overlay_and_peers_the_master(
    student: Node, kind: str, request: pytest.FixtureRequest
) -> None:
    share, master, overlay = request.getfixturevalue(kind)
    stick = on_stick(student, overlay)
    old = sha(stick)
    assert f"overlaysync adopt '{stick}'" in student.fails(NO_BASE, "id", stick)["hint"]

    made = student.json("adopt", stick, "--to", "vm", "--masters", "masters", "--peer", share.peer)

    new, base = student.place / "vm" / f"{stick.stem}-on-{master.stem}.qcow2", student.place / "masters"
    assert (made["path"], made["adopted"], made["verified"]) == (str(new), str(stick), True)
    assert f"{overlay.stem}:1" in made["proof"]
    assert student.files(base) == {master.name}
    assert disks.identical(base / master.name, master) and disks.identical(new, overlay)
    assert images.check(new) == 0
    assert sha(stick) == old
    # History goes on: what is shared next follows what the teacher published.
    images.apply(new, [images.Op("write", 0, 512, 7)])
    (shown, _) = student.share(new).document()["shared"]
    assert (shown["name"], shown["version"]) == (overlay.stem, 2)


def test_the_master_is_brought_beside_the_overlay_where_no_other_place_is_named(
    student: Node, shared: Shared
) -> None:
    stick = on_stick(student, shared.overlay)
    student.json("adopt", stick, "--as", "mine", "--peer", shared.share.peer)
    assert student.files(stick.parent) == {stick.name, shared.master.name, "mine.qcow2"}
    # Both names are relative: the directory can move.
    moved = stick.parent.rename(student.base / "moved")
    assert disks.identical(moved / "mine.qcow2", shared.overlay)


def test_the_master_may_be_named_by_reference(student: Node, shared: Shared) -> None:
    stick = on_stick(student, shared.overlay)
    reference = shared.master.stem
    student.json("adopt", stick, "--master", reference, "--as", "mine", "--peer", shared.share.peer)
    assert disks.identical(stick.parent / "mine.qcow2", shared.overlay)


def test_without_proof_nothing_is_fetched(student: Node, shared: Shared) -> None:
    """What was written to on the way is not what anybody published."""
    stick = on_stick(student, shared.overlay)
    run_on(stick, shared.master)
    error = student.fails(NO_BASE, "adopt", stick, "--peer", shared.share.peer)
    assert "1 peer" in error["why"]
    assert "--unverified" in error["hint"]
    assert student.files(stick.parent) == {stick.name}
    named = ("--master", shared.master.stem)
    student.fails(NO_BASE, "adopt", stick, *named, "--peer", shared.share.peer)
    assert student.files(stick.parent) == {stick.name}


def run_on(overlay: Path, master: Path) -> None:
    """Let a guest write to an overlay whose master lies elsewhere."""
    base = f"backing.driver=qcow2,backing.file.filename={master},backing.read-only=on,backing.force-share=on"
    images.run("qemu-io", "-c", f"open -o driver=qcow2,{base} {overlay}", "-c", "write -P 7 0 512")


def test_only_the_user_takes_a_master_without_proof(student: Node, shared: Shared) -> None:
    stick = on_stick(student, shared.overlay)
    run_on(stick, shared.master)
    master = Path(shutil.copy(shared.master, student.place / "a.qcow2"))
    master.chmod(0o444)
    error = student.fails(NO_BASE, "adopt", stick, "--master", master, *NOW)
    assert f"--master '{master}' --unverified" in error["hint"]
    places = ("--to", "some where", "--masters", "m")
    for code, more in ((USAGE, ("--unverified",)), (NO_BASE, ())):
        way = shlex.split(student.fails(code, "adopt", stick, *more, *places, *NOW)["hint"])
        at = way.index("--to")
        assert tuple(way[at : at + 4]) == places, "what is printed puts it where this was to put it"
    assert student.fails(USAGE, "adopt", stick, "--master", "a", "--unverified", *NOW)["hint"]

    result = student.run("adopt", stick, "--master", master, "--unverified", "--as", "mine", *NOW)

    new = stick.parent / "mine.qcow2"
    assert result.code == DONE and "NOT VERIFIED" in result.stdout and "nothing proves" in result.stdout
    assert any("nothing proves" in note for note in student.json("show", new)["notes"])
    with repointed(stick, shared.master) as want:
        assert disks.identical(new, want)

    # Publishing it makes no proof of it, for this file or for another copy.
    student.share(new, master).stop()
    student.fails(NO_BASE, "adopt", stick, *NOW)
    student.fails(NO_BASE, "adopt", new, *NOW)
    for command in ("verify", "show"):
        said = student.run(command, new)
        assert said.code == DONE and "mine:1" in said.stdout and "nothing proves" in said.stdout
    made = student.run("rebase", new, "--onto", master, "--as", "again")
    assert made.code == DONE and "nothing proves" in made.stderr


def test_a_known_pair_whose_directories_were_renamed(student: Node, shared: Shared) -> None:
    """Nobody has to be asked, and the VM's work is kept."""
    student.fetch(shared.overlay.stem, "--to", "vm", "--masters", "masters", "--peer", shared.share.peer)
    student.run("id", f"vm/{shared.overlay.name}")
    (student.place / "masters").rename(student.place / "masters2")
    (student.place / "vm").rename(student.place / "vm2")
    work = student.place / "vm2" / shared.overlay.name
    run_on(work, student.place / "masters2" / shared.master.name)

    made = student.json("adopt", work, "--masters", "masters2", "--as", "mine", *NOW)

    assert "written to since" in made["proof"]
    new = student.place / "vm2" / "mine.qcow2"
    with repointed(work, student.place / "masters2" / shared.master.name) as want:
        assert disks.identical(new, want)
    # What the VM wrote is still work that a fetch does not throw away.
    again = ("fetch", shared.overlay.stem, "--to", "vm2", "--as", "mine", "--masters", "masters2")
    student.fails(WOULD_DESTROY, *again, "--replace", "--peer", shared.share.peer)


@contextmanager
def repointed(overlay: Path, master: Path) -> Iterator[Path]:
    """A copy of an overlay whose header names ``master``."""
    copy = Path(shutil.copy(overlay, overlay.with_name("copy.qcow2")))
    images.run("qemu-img", "rebase", "-u", "-F", "qcow2", "-b", master, copy)
    yield copy
    copy.unlink()


def test_rebase_moves_what_is_known_to_stand_elsewhere(student: Node, shared: Shared) -> None:
    student.fetch(shared.overlay.stem, "--to", "vm", "--masters", "masters", "--peer", shared.share.peer)
    (student.place / "masters").rename(student.place / "masters2")
    base = student.place / "masters2" / shared.master.name
    student.json("id", base)
    other = disks.make_master(student.place / "other.qcow2", size=4 * MIB)
    other.chmod(0o444)
    for onto in (base, other):
        made = student.json("rebase", f"vm/{shared.overlay.name}", "--onto", onto, "--as", f"on-{onto.stem}")
        assert disks.identical(Path(made["path"]), shared.overlay)


def test_an_overlay_on_its_master_is_left_as_it_is(student: Node, shared: Shared) -> None:
    student.fetch(shared.overlay.stem, "--peer", shared.share.peer)
    files = student.files()
    assert student.json("adopt", shared.overlay.name, *NOW)["adopted"] is None
    assert student.files() == files


def test_an_empty_overlay_goes_where_the_user_says(student: Node) -> None:
    base = disks.make_master(student.place / "base.qcow2", size=MIB)
    gone = disks.make_master(student.place / "gone.qcow2", size=MIB)
    base.chmod(0o444)
    empty = images.create(student.place / "vm.qcow2", backing=gone)
    gone.unlink()
    assert "--master" in student.fails(NO_BASE, "adopt", empty, *NOW)["hint"]
    made = student.json("adopt", empty, "--master", base, *NOW)
    assert "nothing was written" in made["proof"] and made["verified"]
    assert disks.identical(Path(made["path"]), base)


def test_an_existing_file_is_not_replaced(student: Node, shared: Shared) -> None:
    stick = on_stick(student, shared.overlay)
    (stick.parent / "mine.qcow2").write_bytes(b"mine")
    student.fails(WOULD_DESTROY, "adopt", stick, "--as", "mine", "--peer", shared.share.peer)
    assert (stick.parent / "mine.qcow2").read_bytes() == b"mine"
    assert student.files(stick.parent) == {stick.name, "mine.qcow2"}  # and no master was fetched for it
