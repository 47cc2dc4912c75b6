"""Capture: one moment of a guest that writes all the time, which nothing of ours may harm."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from overlaysync.errors import InUseError, NoSpaceError
from overlaysync.live.capture import capture
from overlaysync.live.running import Copies, Running
from overlaysync.units import MIB
from tests.e2e.namespaces import namespace
from tests.guest import Guest, counted, make_disks
from tests.live.vms import QMP, Between, copied, running, whole
from tests.qmp import Qmp, left_in

pytestmark = [pytest.mark.qemu, pytest.mark.guest, pytest.mark.slow]


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    directory = tmp_path_factory.mktemp("vm")
    with Guest.boot(directory, make_disks(directory, "a.qcow2", "b.qed"), *QMP) as made:
        made.ask("start", "start")
        yield made


def disks_of(guest: Guest) -> list[Path]:
    return [guest.directory / "a.qcow2", guest.directory / "b.qed"]


def grown(guest: Guest, beyond: int) -> None:
    """Return as soon as the guest's number is beyond another."""
    while guest.counter() <= beyond:
        pass


def closed(copies: Copies, guest: Guest) -> list[int]:
    """What the copies show; they are closed."""
    counts = []
    for disk in disks_of(guest):
        path = copied(copies.files[str(disk)].file, guest.directory, disk)
        whole(path)
        counts.append(counted(path, guest.directory))
        path.unlink()
    for copy in copies.files.values():
        os.close(copy.file)
    return counts


@pytest.mark.holds("D5")
def test_copies_show_one_moment(guest: Guest, tmp_path: Path) -> None:
    for _ in range(5):
        before = guest.counter()
        copies = capture([running(disks_of(guest))], tmp_path, lambda _: None)
        after = guest.counter()
        first, second = closed(copies, guest)
        assert before <= first <= after + 1
        assert second in (first - 1, first)
        assert left_in(guest.directory / "qmp") == []
    assert os.listdir(tmp_path) == []


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    point = tmp_path / "small"
    point.mkdir()
    with namespace("mount", script=f"mount -t tmpfs -o size={128 * MIB},mode=700 tmpfs '{point}'") as made:
        yield made.outside(point)


def fill(directory: Path) -> None:
    """Leave no byte free."""
    with open(directory / "ballast", "ab", buffering=0) as file:
        for size in (MIB, 4096):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass
    assert os.statvfs(directory).f_bavail == 0


def slow_on_a_full_disk(vm: Running, scratch: Path) -> Running:
    """The copy takes seconds, and from its first moment on there is no room on its disk."""

    async def connect() -> Between:
        def before(_number: int, command: str, arguments: Mapping[str, Any]) -> None:
            if command == "transaction":
                fill(scratch)
                for action in arguments["actions"]:
                    action["data"]["speed"] = 2 * MIB

        return Between(await vm.connect(), before=before)

    return replace(vm, connect=connect)


@pytest.mark.holds("D10")
@pytest.mark.red_without("D10", "no room is reserved for the copies")
def test_a_guest_writes_on_while_our_disk_is_full(guest: Guest, small: Path) -> None:
    grown(guest, 140)  # most clusters are there: before one is written to again, QEMU copies it
    vm = slow_on_a_full_disk(running(disks_of(guest)), small)
    before = guest.counter()
    copies = capture([vm], small, lambda _: None)
    during = guest.counter() - before
    first, second = closed(copies, guest)
    assert during > 3, "the guest went on while it was copied"
    assert second in (first - 1, first)
    assert b"FAILED" not in guest.serial.log


def test_no_room_is_said_before_the_guest_is_touched(guest: Guest, small: Path) -> None:
    fill(small)
    with pytest.raises(NoSpaceError, match="while its VM runs"):
        capture([running(disks_of(guest))], small, lambda _: None)
    assert left_in(guest.directory / "qmp") == []


def test_a_monitor_that_is_held_is_said_to_be(guest: Guest, tmp_path: Path) -> None:
    with Qmp(guest.directory / "qmp"), pytest.raises(InUseError, match="Another program holds the monitor"):
        capture([running(disks_of(guest))], tmp_path, lambda _: None)
