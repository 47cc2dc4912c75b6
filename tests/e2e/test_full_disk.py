"""A full disk: said in time, harmless, and the fetch goes on when there is room again."""

from __future__ import annotations

import sqlite3

import pytest

from overlaysync.units import MIB
from tests.e2e import disks
from tests.e2e.nodes import DONE, NO_SPACE, Lab, Node, until
from tests.e2e.small_disk import small_disk

pytestmark = pytest.mark.qemu


def pages_kept(node: Node) -> int:
    """How many pages of manifests are in its catalog."""
    with sqlite3.connect(node.home / "catalog.sqlite") as connection:
        (count,) = connection.execute("SELECT count(*) FROM pages").fetchone()
    return int(count)


@pytest.mark.holds("R4")
@pytest.mark.red_without("R4", "free space is not checked first")
def test_too_little_space_is_said_before_anything_is_fetched(lab: Lab) -> None:
    teacher = lab.node("teacher")
    master = disks.make_master(teacher.place / f"{lab.name('big')}.qcow2", size=32 * MIB)
    share = teacher.share(master)
    command = ("fetch", master.stem, "--to", lab.root / "small", "--peer", share.peer)
    with small_disk(lab, 40 * MIB) as disk:
        error = disk.student.fails(NO_SPACE, *command)
        assert "free" in error["why"] and "free" in error["hint"]
        assert list(disk.outside.iterdir()) == []
        assert pages_kept(disk.student) == 0

        disk.resize(200 * MIB)
        disk.student.fetch(*command[1:])
        assert disks.identical(master, disk.outside / master.name)


def test_a_disk_that_fills_up_on_the_way_harms_nothing(lab: Lab) -> None:
    teacher = lab.node("teacher")
    # Sparse, so that room for it cannot be reserved beforehand.
    master = disks.make_master(teacher.place / f"{lab.name('big')}.raw", size=64 * MIB, data=40 * MIB)
    share = teacher.share(master)
    command = ("fetch", master.stem, "--to", lab.root / "small", "--peer", share.peer, "--json")
    with small_disk(lab, 120 * MIB) as disk:
        fetch = disk.student.start(*command, "--limit-rate", "16M")
        part = disk.outside / f".{master.name}.part"
        until(lambda: part.exists() and part.stat().st_blocks * 512 > 10 * MIB, what="some transfer")
        disk.resize(24 * MIB)
        result = fetch.wait()
        assert result.code == NO_SPACE, result.stderr
        assert "free some space" in result.error["hint"]
        assert [path.name for path in disk.outside.iterdir()] == [part.name]

        disk.resize(200 * MIB)
        (item,) = disk.student.fetch(*command[1:-1])
        assert item["resumed"] + item["wire"]["data"] == 40 * MIB
        assert disks.identical(master, disk.outside / master.name)


def test_a_home_on_a_full_disk_is_said_and_works_again_later(lab: Lab) -> None:
    with small_disk(lab, 8 * MIB) as disk:
        node = disk.student
        home = {"OVERLAYSYNC_HOME": str(disk.point / "home")}
        first, second = (disks.make_master(node.place / f"{word}.raw", size=MIB) for word in ("one", "two"))
        node.json("id", first, **home)
        with pytest.raises(OSError, match="No space"):
            (disk.outside / "filler").write_bytes(bytes(8 * MIB))

        result = node.run("id", second, "--json", **home)
        assert result.code != DONE
        assert str(disk.point / "home") in result.error["what"]

        (disk.outside / "filler").unlink()
        assert node.json("id", second, **home)["disk"]
