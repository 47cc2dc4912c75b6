"""Of several copies of a master an overlay is put on the one that its user chose, and that stays."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from overlaysync.ops import bases
from overlaysync.ops.bases import Places, find_base
from overlaysync.units import MIB
from tests import images
from tests.ops.world import NOW, World

pytestmark = pytest.mark.holds("C2")

PLACES = ["present", "masters", "to", "named", "stick"]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World.make(tmp_path)


def copies(world: World, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Path], bytes]:
    """A copy of one master in each place, all known, the worst of them verified last; and their disk."""
    monkeypatch.setattr(bases, "may_go", lambda path, without: "/stick/" in path)
    master = images.create(world.images / "debian.qcow2", MIB)
    images.draw(master, "a")
    paths = {}
    for place in PLACES:
        directory = world.images / place
        directory.mkdir()
        paths[place] = Path(shutil.copy(master, directory / f"{place}.qcow2"))
        known = world.known(paths[place])
        if place in ("named", "stick"):
            world.catalog.images.mark_named(str(paths[place]))
    master.unlink()
    return paths, known.disk.id


@pytest.mark.qemu
def test_the_order_in_which_copies_count(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, disk = copies(world, monkeypatch)
    unknown = world.images / "masters" / "a.qcow2"
    present = paths["present"]

    def found(*, last_resort: bool = True) -> str:
        directories = [str(world.images / "masters"), str(world.images / "to")]
        where = Places(directories, "debian", str(present), last_resort)
        base = find_base(world.library, disk, where, now=NOW)
        return Path(base.path).stem if base else ""

    for place in PLACES:
        assert found() == place
        if place == "to":  # one that was never hashed counts as well, because of where it lies
            shutil.move(paths[place], unknown)
            world.catalog.forget_image(str(paths[place]))
            assert found() == "a"
            unknown.unlink()
        elif place == "stick":
            assert found(last_resort=False) == ""
        else:
            paths[place].unlink()
    paths["stick"].unlink()
    assert found() == ""


@pytest.mark.qemu
def test_what_the_overlay_stands_on_counts_only_with_the_right_content(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, disk = copies(world, monkeypatch)
    images.draw(paths["present"], "b")
    directories = [str(world.images / "to")]
    base = find_base(world.library, disk, Places(directories, "", str(paths["present"])), now=NOW)
    assert base is not None and base.path == str(paths["to"])
