"""Freezing the disks of VMs: one moment of all of them, while nobody writes; then they may run again."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from overlaysync.errors import BaseImageError, InUseError
from overlaysync.model.datamap import DataMap
from overlaysync.model.pages import PageList
from overlaysync.ops.recovery.freezing import FrozenDisk, Hooks, frozen
from overlaysync.units import CHUNK, MIB
from tests import images
from tests.formats.test_locks import opened_by_qemu
from tests.ops.world import NOW, World, expected_layer, hidden_files

pytestmark = [pytest.mark.qemu, pytest.mark.holds("D5")]


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    made = tmp_path / "scratch"
    made.mkdir()
    return made


def freezing(world: World, paths: Sequence[Path], scratch: Path, held: Callable[[], None] = lambda: None):
    return frozen(
        world.library, [str(path) for path in paths], scratch, now=NOW, hooks=Hooks(lambda _: None, held)
    )


def guest(world: World, disk: FrozenDisk) -> bytes:
    with disk.open(world.library) as chain:
        buffer = bytearray(chain.virtual_size)
        chain.read_into(0, memoryview(buffer))
        return bytes(buffer)


@pytest.fixture(params=["qcow2", "qed"])
def overlay(request: pytest.FixtureRequest, world: World) -> Path:
    master = images.create(world.images / "master.qcow2", MIB)
    images.draw(master, "AB0C")
    disk = images.create(world.images / f"vm.{request.param}", backing=master)
    images.draw(disk, "-X0")
    return disk


def test_a_vm_may_write_again_at_once(world: World, overlay: Path, scratch: Path) -> None:
    expected = expected_layer(overlay, world.images / "master.qcow2", CHUNK)
    content = images.content(overlay)
    with freezing(world, [overlay], scratch) as disks:
        disk = disks[str(overlay)]
        images.draw(overlay, "NNNN")  # QEMU takes its locks: nobody is in its way
        assert images.content(overlay) != content
        assert guest(world, disk) == content
        assert disk.known.content.id == expected.id
        assert disk.known.path == str(overlay)
        assert os.listdir(scratch) == []
    assert world.known(overlay).content.id != expected.id, "what was noted is not taken for what is there now"


def test_what_was_frozen_is_known_afterwards(world: World, overlay: Path, scratch: Path) -> None:
    with freezing(world, [overlay], scratch) as disks:
        known = disks[str(overlay)].known
    assert world.known(overlay).content.id == known.content.id
    with freezing(world, [overlay], scratch) as disks:
        assert disks[str(overlay)].known.content.id == known.content.id


def test_nobody_can_write_at_the_moment_that_is_kept(world: World, overlay: Path, scratch: Path) -> None:
    other = images.create(world.images / "data.raw", MIB)
    refused = []

    def held() -> None:
        for path in (overlay, other):
            with pytest.raises(AssertionError, match="lock"):
                images.draw(path, "Y")
            refused.append(path)

    with freezing(world, [overlay, other], scratch, held) as disks:
        assert set(disks) == {str(overlay), str(other)}
    assert refused == [overlay, other]


def test_what_the_vault_has_is_not_copied(
    world: World, overlay: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where blocks cannot be shared; what is new is all there."""
    monkeypatch.setattr("overlaysync.store.freezing.clone_whole", lambda source, target: False)
    with freezing(world, [overlay], scratch) as disks:
        before = disks[str(overlay)]
        whole = guest(world, before)
        pages = before.known.content
    old = {digest.tobytes() for digest in units(world, pages)}
    images.draw(overlay, "--N-")
    copied: list[int] = []
    with frozen(
        world.library,
        [str(overlay)],
        scratch,
        now=NOW,
        hooks=Hooks(copied.append, has=lambda digests: [digest.tobytes() in old for digest in digests]),
    ) as disks:
        disk = disks[str(overlay)]
        new = [digest.tobytes() in old for digest in units(world, disk.known.content)].index(False)
        held, now = guest(world, disk), images.content(overlay)
        assert now != whole
        unit = disk.known.content.unit
        at = next(run for run in DataMap(disk.known.content, world.library.load_page).runs(0, new + 1)).units[
            new
        ]
        assert held[int(at) * unit : int(at + 1) * unit] == now[int(at) * unit : int(at + 1) * unit]
        assert os.fstat(disk.file).st_blocks * 512 < overlay.stat().st_blocks * 512


def units(world: World, pages: PageList):
    data = DataMap(pages, world.library.load_page)
    return [digest for run in data.runs(0, data.count) for digest in run.digests]


@pytest.mark.red_without("D5", "the locks of QEMU are not looked at")
def test_a_vm_that_runs_is_refused(world: World, overlay: Path, scratch: Path) -> None:
    other = images.create(world.images / "data.raw", MIB)
    with opened_by_qemu(overlay, read_only=False):
        with pytest.raises(InUseError, match="open for writing"):
            with freezing(world, [other, overlay], scratch):
                pass
    with freezing(world, [other, overlay], scratch) as disks:
        assert len(disks) == 2, "and nothing holds it afterwards"


@pytest.mark.red_without("D5", "what was copied is not compared with what was locked")
@pytest.mark.parametrize("which", ["overlay", "master"])
def test_what_writes_without_a_lock_is_seen(world: World, overlay: Path, scratch: Path, which: str) -> None:
    """Not QEMU, which takes locks, but a script, or QEMU told to leave them."""
    path = overlay if which == "overlay" else world.images / "master.qcow2"
    real = world.library.cached

    def written(chain, parent, *more):
        if parent is not None:  # the disks are locked
            images.patch(path, path.stat().st_size - 1, path.read_bytes()[-1:])
        return real(chain, parent, *more)

    world.library.cached = written  # type: ignore[method-assign]
    with pytest.raises(InUseError, match="changed while"):
        with freezing(world, [overlay], scratch):
            pass
    assert os.listdir(scratch) == []


def test_an_overlay_whose_master_is_gone(world: World, overlay: Path, scratch: Path) -> None:
    (world.images / "master.qcow2").unlink()
    with pytest.raises(BaseImageError):
        with freezing(world, [overlay], scratch):
            pass
    assert hidden_files(world.images) == [] and os.listdir(scratch) == []


def test_nothing_is_left_open_when_it_fails(world: World, overlay: Path, scratch: Path) -> None:
    def held() -> None:
        raise InUseError("a companion is gone")

    with freezing(world, [overlay], scratch):
        pass
    count = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(InUseError):
            with freezing(world, [overlay], scratch, held):
                pass
    assert len(os.listdir("/proc/self/fd")) == count
