"""A full disk: said in time, harmless, and the fetch goes on when there is room again.

The disk is a tmpfs in a mount namespace of its own, kept by a process that waits.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from overlaysync.units import MIB
from tests.e2e import disks
from tests.e2e.nodes import DONE, NO_SPACE, Lab, Node, until

pytestmark = pytest.mark.qemu


@dataclass(frozen=True, slots=True)
class SmallDisk:
    """A small file system that only some processes see.

    Attributes:
        point: where it is mounted, for processes with ``prefix``.
        prefix: words before a command that shall see it.
        outside: the same place for everybody else.
    """

    point: Path
    prefix: tuple[str, ...]
    outside: Path

    def resize(self, size: int) -> None:
        command = [*self.prefix, "mount", "-o", f"remount,size={size}", str(self.point)]
        subprocess.run(command, check=True, capture_output=True)


@contextmanager
def small_disk(point: Path, size: int) -> Iterator[SmallDisk]:
    """A tmpfs of ``size`` bytes at ``point``."""
    point.mkdir(parents=True)
    own = ["--user", "--map-root-user"] if os.geteuid() else []
    script = f"mount -t tmpfs -o size={size},mode=700 tmpfs '{point}' && echo mounted && exec cat"
    command = ["unshare", *own, "--mount", "sh", "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin and holder.stdout
        try:
            assert holder.stdout.readline() == b"mounted\n"
            enter = ["--user", "--preserve-credentials"] if own else []
            prefix = ("nsenter", "--target", str(holder.pid), *enter, "--mount", "--wdns=.")
            yield SmallDisk(point, prefix, Path(f"/proc/{holder.pid}/root{point}"))
        finally:
            holder.stdin.close()


@contextmanager
def student_with(lab: Lab, size: int) -> Iterator[tuple[Node, SmallDisk]]:
    """A node whose commands see a small disk."""
    with small_disk(lab.root / "small", size) as disk:
        yield lab.node("student", prefix=disk.prefix), disk


def test_too_little_space_is_said_before_anything_is_fetched(lab: Lab) -> None:
    teacher = lab.node("teacher")
    master = disks.make_master(teacher.place / f"{lab.name('big')}.qcow2", size=32 * MIB)
    share = teacher.share(master)
    command = ("fetch", master.stem, "--to", lab.root / "small", "--peer", share.peer)
    with student_with(lab, 40 * MIB) as (student, disk):
        error = student.fails(NO_SPACE, *command)
        assert "free" in error["why"] and "free" in error["hint"]
        assert list(disk.outside.iterdir()) == []

        disk.resize(200 * MIB)
        student.fetch(*command[1:])
        assert disks.identical(master, disk.outside / master.name)


def test_a_disk_that_fills_up_on_the_way_harms_nothing(lab: Lab) -> None:
    teacher = lab.node("teacher")
    # Sparse, so that room for it cannot be reserved beforehand.
    master = disks.make_master(teacher.place / f"{lab.name('big')}.raw", size=64 * MIB, data=40 * MIB)
    share = teacher.share(master)
    command = ("fetch", master.stem, "--to", lab.root / "small", "--peer", share.peer, "--json")
    with student_with(lab, 120 * MIB) as (student, disk):
        fetch = student.start(*command, "--limit-rate", "16M")
        part = disk.outside / f".{master.name}.part"
        until(lambda: part.exists() and part.stat().st_blocks * 512 > 10 * MIB, what="some transfer")
        disk.resize(24 * MIB)
        result = fetch.wait()
        assert result.code == NO_SPACE, result.stderr
        assert "free some space" in result.error["hint"]
        assert [path.name for path in disk.outside.iterdir()] == [part.name]

        disk.resize(200 * MIB)
        (item,) = student.fetch(*command[1:-1])
        assert item["resumed"] + item["wire"]["data"] == 40 * MIB
        assert disks.identical(master, disk.outside / master.name)


def test_a_home_on_a_full_disk_is_said_and_works_again_later(lab: Lab) -> None:
    with small_disk(lab.root / "small", 8 * MIB) as disk:
        node = lab.node("student", prefix=disk.prefix)
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
