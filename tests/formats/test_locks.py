"""QEMU's locks: seen when QEMU writes, and felt by QEMU when we read."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from overlaysync.errors import InUseError
from overlaysync.formats import locks
from overlaysync.units import MIB
from tests import images


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "vm.raw"
    path.write_bytes(bytes(512))
    descriptor = os.open(path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


@contextmanager
def opened_by_qemu(path: Path, *, read_only: bool) -> Iterator[int]:
    """A QEMU process that holds the image open; its pid."""
    node = f"driver={images.format_of(path)},node-name=n,read-only={'on' if read_only else 'off'}"
    command = ["qemu-storage-daemon", "--blockdev", f"{node},file.driver=file,file.filename={path}"]
    if not read_only:
        # Without a user a node takes no permission to write.
        command += ["--nbd-server", f"addr.type=unix,addr.path={path}.sock"]
        command += ["--export", "nbd,id=e,node-name=n,writable=on"]
    # Options are obeyed in their order: once the monitor greets, the image is open.
    command += ["--chardev", "stdio,id=c", "--monitor", "c"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        assert b"QMP" in process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.terminate()


@pytest.fixture(params=["qed", "qcow2", "raw"])
def image(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return images.create(tmp_path / f"vm.{request.param}", MIB)


@contextmanager
def descriptor_of(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


@pytest.mark.qemu
def test_a_writer_is_seen_and_named(image: Path) -> None:
    with descriptor_of(image) as fd:
        assert not locks.in_use_for_writing(fd)
        with opened_by_qemu(image, read_only=False) as pid:
            assert locks.in_use_for_writing(fd)
            assert locks.writer_of(fd) == f"qemu-storage-da (pid {pid})"
            with pytest.raises(
                InUseError, match=f"open for writing: by qemu-storage-da \\(pid {pid}\\)"
            ) as caught:
                locks.hold_read_lock(fd, path=str(image))
            assert caught.value.exit_code == 7
        assert not locks.in_use_for_writing(fd)
        assert locks.writer_of(fd) == ""


@pytest.mark.qemu
def test_a_refused_lock_leaves_nothing_behind(image: Path) -> None:
    with descriptor_of(image) as fd:
        with opened_by_qemu(image, read_only=False), pytest.raises(InUseError):
            locks.hold_read_lock(fd)
        images.draw(image, "A")


@pytest.mark.qemu
def test_readers_do_not_disturb_each_other(image: Path) -> None:
    with descriptor_of(image) as fd, opened_by_qemu(image, read_only=True):
        assert not locks.in_use_for_writing(fd)
        assert locks.hold_read_lock(fd)
        assert images.content(image) == bytes(MIB)


@pytest.mark.qemu
def test_qemu_cannot_write_what_we_hold(image: Path) -> None:
    with descriptor_of(image) as fd:
        assert locks.hold_read_lock(fd)
        with pytest.raises(AssertionError, match=r'Failed to get "write" lock'):
            images.draw(image, "A")
        assert images.content(image) == bytes(MIB)
    images.draw(image, "A")


def test_two_of_us_can_hold_one_image(fd: int) -> None:
    with descriptor_of(Path(f"/proc/self/fd/{fd}")) as other:
        assert locks.hold_read_lock(fd)
        assert locks.hold_read_lock(other)
        assert not locks.in_use_for_writing(fd)


def test_release_gives_the_lock_up(fd: int, tmp_path: Path) -> None:
    with descriptor_of(tmp_path / "vm.raw") as other:
        locks.hold_read_lock(fd)
        assert locks.in_use(other)
        locks.release(fd)
        assert not locks.in_use(other)


def test_a_share_that_holds_an_image_is_named(fd: int, tmp_path: Path) -> None:
    program = tmp_path / "overlaysync"
    program.write_text(
        "import os, sys\n"
        "from overlaysync.formats.locks import hold_read_lock\n"
        "hold_read_lock(os.open(sys.argv[-1], os.O_RDONLY))\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    assert locks.user_of(fd) == "another program"
    command = [sys.executable, str(program), "--quiet", "share", str(tmp_path / "vm.raw")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"held\n"
        assert locks.in_use(fd) and not locks.in_use_for_writing(fd)
        assert locks.user_of(fd) == f"overlaysync share (pid {process.pid})"


def test_an_exclusive_lock_of_another_program_is_a_conflict(fd: int, tmp_path: Path) -> None:
    other = os.open(tmp_path / "vm.raw", os.O_RDWR)
    fcntl.fcntl(other, fcntl.F_OFD_SETLK, locks._flock(fcntl.F_WRLCK, 201))
    with pytest.raises(InUseError, match="another program"):
        locks.hold_read_lock(fd)
    os.close(other)


@pytest.mark.parametrize("answer", [errno.ENOLCK, errno.EINVAL, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_unknown(
    fd: int, monkeypatch: pytest.MonkeyPatch, answer: int
) -> None:
    def refuse(*_: object) -> bytes:
        raise OSError(answer, "no locks")

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    assert not locks.in_use_for_writing(fd)
    assert not locks.hold_read_lock(fd)
    locks.release(fd)


def test_other_errors_are_not_hidden(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(fcntl, "fcntl", fail)
    with pytest.raises(OSError, match="broken"):
        locks.in_use_for_writing(fd)


def test_processes_may_vanish_or_hide_while_they_are_looked_at() -> None:
    assert locks._list("/proc/0/fd") == []
    assert locks._read("/proc/0/fdinfo/1") == ""
