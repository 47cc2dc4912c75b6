"""A VM that has only a monitor for people is stopped for its copy, and goes on whatever happens."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from overlaysync.errors import InUseError
from overlaysync.live.capture import capture
from overlaysync.live.human import Pause
from overlaysync.live.running import Running
from tests.guest import Guest, counted, make_disks
from tests.live.vms import running, whole

pytestmark = [pytest.mark.qemu, pytest.mark.guest, pytest.mark.slow]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module", params=["unix:human", "tcp"])
def guest(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    directory = tmp_path_factory.mktemp("vm")
    place = request.param if request.param != "tcp" else f"tcp:127.0.0.1:{free_port()}"
    monitor = ("-monitor", f"{place},server=on,wait=off")
    with Guest.boot(directory, make_disks(directory, "a.qcow2", "b.qed"), *monitor) as made:
        made.ask("start", "start")
        yield made


def vm(guest: Guest) -> Running:
    found = running([guest.directory / "a.qcow2", guest.directory / "b.qed"])
    return found


def goes_on(guest: Guest) -> None:
    number = guest.counter()
    while guest.counter() <= number:
        pass


@pytest.mark.holds("D5")
def test_copies_show_one_moment(guest: Guest, tmp_path: Path) -> None:
    for _ in range(3):
        before = guest.counter()
        copies = capture([vm(guest)], tmp_path, lambda _: None)
        counts = []
        for path, copy in copies.files.items():
            file = guest.directory / f"copy{Path(path).suffix}"
            file.write_bytes(Path(f"/proc/self/fd/{copy.file}").read_bytes())
            os.close(copy.file)
            whole(file)
            counts.append(counted(file, tmp_path))
        assert counts[0] >= before and counts[1] in (counts[0] - 1, counts[0])
        goes_on(guest)


@pytest.mark.holds("D10")
def test_it_goes_on_when_the_tool_is_killed(guest: Guest, tmp_path: Path) -> None:
    def kill() -> None:
        os.killpg(os.getpgrp(), signal.SIGKILL)

    child = os.fork()
    if not child:
        os.setsid()
        capture([replace(vm(guest), at_once=kill)], tmp_path, lambda _: None)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    goes_on(guest)


def test_a_copy_that_takes_too_long_is_no_copy(
    guest: Guest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pause, "held_s", 0.0)
    with pytest.raises(InUseError, match="copying its disks takes longer than"):
        capture([vm(guest)], tmp_path, lambda _: None)
    goes_on(guest)
