"""Discard: only overlays that nobody uses and nothing stands on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from overlaysync.errors import (
    ImageError,
    InUseError,
    NotAllowedError,
    NotFoundError,
    OverlaysyncError,
    WouldDestroyError,
)
from overlaysync.ops.discard import check_discardable, discard, standing_on
from overlaysync.units import MIB
from tests.images import convert, create, draw
from tests.ops.world import World, sha

pytestmark = [pytest.mark.qemu, pytest.mark.holds("R5")]


@pytest.fixture
def master(world: World) -> Path:
    path = create(world.images / "master.raw", MIB)
    draw(path, "AB")
    return path


@pytest.fixture
def overlay(world: World, master: Path) -> Path:
    return create(world.images / "vm.qcow2", backing=master)


def test_an_overlay_goes_and_nothing_else(world: World, master: Path, overlay: Path) -> None:
    other = create(world.images / "other.qcow2", backing=master)
    before = sha(master)
    world.known(overlay)
    discard(str(overlay), world.catalog, check_discardable(str(overlay), world.catalog))
    assert sorted(os.listdir(world.images)) == ["master.raw", "other.qcow2"]
    assert world.catalog.images.at(overlay) is None and world.catalog.images.at(master) is not None
    assert sha(master) == before and other.exists()


def refused(world: World, path: Path, error: type[Exception]) -> str:
    """The refusal; whatever is in the directory stays as it is."""
    before = sorted((entry.name, entry.stat().st_ino) for entry in os.scandir(world.images))
    with pytest.raises(error) as caught:
        discard(str(path), world.catalog, check_discardable(str(path), world.catalog))
    assert sorted((entry.name, entry.stat().st_ino) for entry in os.scandir(world.images)) == before
    return str(caught.value)


@pytest.mark.parametrize("suffix", ["raw", "qcow2", "qed"])
def test_a_master_stays(world: World, master: Path, suffix: str) -> None:
    path = master if suffix == "raw" else convert(master, world.images / f"m.{suffix}")
    refused(world, path, WouldDestroyError)


def test_what_others_stand_on_stays(world: World, overlay: Path) -> None:
    top = create(world.images / "top.qed", backing=overlay)
    assert str(top) in refused(world, overlay, WouldDestroyError)
    discard(str(top), world.catalog, check_discardable(str(top), world.catalog))
    discard(str(overlay), world.catalog, check_discardable(str(overlay), world.catalog))


def test_what_stands_on_it_two_layers_up_counts(world: World, overlay: Path) -> None:
    middle = create(world.images / "middle.qcow2", backing=overlay)
    top = create(world.images / "top.qcow2", backing=middle)
    told = refused(world, overlay, WouldDestroyError)
    assert str(middle) in told and str(top) in told


def test_an_overlay_whose_master_is_gone_goes_unless_something_stands_on_it(
    world: World, master: Path, overlay: Path
) -> None:
    top = create(world.images / "top.qcow2", backing=overlay)
    with opened_by_qemu(top, read_only=True):
        master.unlink()
        refused(world, top, InUseError)
    assert str(top) in refused(world, overlay, WouldDestroyError)
    discard(str(top), world.catalog, check_discardable(str(top), world.catalog))
    discard(str(overlay), world.catalog, check_discardable(str(overlay), world.catalog))
    assert not overlay.exists()


def test_what_stands_on_it_in_another_directory_counts_once_it_is_known(
    world: World, overlay: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    top = create(tmp_path / "elsewhere" / "top.qcow2", backing=overlay)
    world.known(top)
    assert str(top) in refused(world, overlay, WouldDestroyError)
    top.unlink()
    discard(str(overlay), world.catalog, check_discardable(str(overlay), world.catalog))


def test_other_names_of_the_file_do_not_help(world: World, master: Path, overlay: Path) -> None:
    os.link(overlay, world.images / "same.qcow2")
    create(world.images / "top.qcow2", backing=world.images / "same.qcow2")
    refused(world, overlay, WouldDestroyError)
    status = master.stat()
    found = standing_on(str(master), (status.st_dev, status.st_ino), world.catalog)
    assert [os.path.basename(path) for path in found] == ["same.qcow2", "top.qcow2", "vm.qcow2"]


@contextmanager
def opened_by_qemu(path: Path, *, read_only: bool) -> Iterator[None]:
    """The image open in another process, as a VM has it."""
    node = f"driver=qcow2,node-name=n,read-only={'on' if read_only else 'off'}"
    command = ["qemu-storage-daemon", "--blockdev", f"{node},file.driver=file,file.filename={path}"]
    command += ["--nbd-server", f"addr.type=unix,addr.path={path}.sock"]
    command += ["--export", f"nbd,id=e,node-name=n,writable={'off' if read_only else 'on'}"]
    # Options are obeyed in their order: once the monitor greets, the image is open.
    command += ["--chardev", "stdio,id=c", "--monitor", "c"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        assert b"QMP" in process.stdout.readline()
        try:
            yield
        finally:
            process.kill()


@pytest.mark.parametrize("read_only", [True, False])
def test_what_a_vm_has_open_stays(world: World, overlay: Path, read_only: bool) -> None:
    with opened_by_qemu(overlay, read_only=read_only):
        refused(world, overlay, InUseError)
        with pytest.raises(InUseError) as caught:
            check_discardable(str(overlay), world.catalog)
        assert "qemu" in caught.value.why
        assert ("shut the VM down" in caught.value.hint) != read_only, "what only reads may be no VM"
    discard(str(overlay), world.catalog, check_discardable(str(overlay), world.catalog))


def test_what_is_no_image_stays(world: World) -> None:
    (world.images / "text.qcow2").write_text("precious")
    refused(world, world.images / "text.qcow2", ImageError)
    refused(world, world.images, ImageError)
    refused(world, world.images / "missing.qcow2", NotFoundError)


@pytest.mark.red_without("R5", "an overlay is removed, whatever has taken its name by then")
def test_what_has_come_into_its_place_since_it_was_judged_stays(
    world: World, overlay: Path, tmp_path: Path
) -> None:
    """Whoever owns its directory may swap the file, or the whole directory, for a link to another's."""
    judged = check_discardable(str(overlay), world.catalog)
    precious = tmp_path / "theirs" / overlay.name
    precious.parent.mkdir()
    precious.write_bytes(overlay.read_bytes())
    moved = world.images.rename(tmp_path / "moved")
    world.images.symlink_to(precious.parent)
    with pytest.raises(OverlaysyncError):
        discard(str(overlay), world.catalog, judged)
    world.images.unlink()
    moved.rename(world.images)
    overlay.rename(overlay.with_name("aside.qcow2"))
    overlay.symlink_to(precious)
    with pytest.raises(OverlaysyncError):
        discard(str(overlay), world.catalog, judged)
    assert precious.exists() and overlay.is_symlink()


@pytest.mark.red_without("R5", "an overlay is removed, whatever has taken its name by then")
def test_what_was_written_to_since_it_was_judged_stays(world: World, overlay: Path) -> None:
    judged = check_discardable(str(overlay), world.catalog)
    draw(overlay, "B")
    with pytest.raises(WouldDestroyError, match="has changed since you agreed"):
        discard(str(overlay), world.catalog, judged)
    assert overlay.exists()


def test_a_symlink_and_what_it_leads_to_go_together(world: World, master: Path, overlay: Path) -> None:
    link = world.images / "link.qcow2"
    link.symlink_to(overlay.name)
    check_discardable(str(link), world.catalog)
    discard(str(link), world.catalog, check_discardable(str(link), world.catalog))
    assert os.listdir(world.images) == ["master.raw"]


def test_a_directory_that_is_not_writable(world: World, overlay: Path) -> None:
    with unwritable(world.images):
        refused(world, overlay, NotAllowedError)


@contextmanager
def unwritable(directory: Path) -> Iterator[None]:
    """Nobody may write to ``directory``; root may everywhere, but not to what is immutable."""
    root = os.geteuid() == 0
    closed, opened = (["chattr", "+i"], ["chattr", "-i"]) if root else (["chmod", "500"], ["chmod", "700"])
    subprocess.run([*closed, directory], check=True)
    try:
        yield
    finally:
        subprocess.run([*opened, directory], check=True)
