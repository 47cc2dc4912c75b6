"""Frozen copies: what a file held, whatever is written to it later, and nothing left behind."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from overlaysync.errors import NoSpaceError, OverlaysyncError, StoppedError
from overlaysync.store.freezing import freeze
from overlaysync.units import KIB, MIB
from tests.filesystems import REFLINKS, entered, mounted, used

pytestmark = pytest.mark.holds("D5")
DATA = b"".join(number.to_bytes(4, "little") * KIB for number in range(1024))
"""4 MiB; no two blocks are alike."""


@contextmanager
def frozen(source: Path, directory: Path, progress: Callable[[int], None] = lambda _: None) -> Iterator[int]:
    """The descriptor of a frozen copy."""
    with open(source, "rb") as file:
        fd = freeze(file.fileno(), directory, progress)
    try:
        yield fd
    finally:
        os.close(fd)


def content(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size + 1, 0)


def sparse(path: Path, *, size: int = 40 * MIB) -> Path:
    """A file with data at its beginning and in the middle, and holes."""
    with open(path, "wb") as file:
        file.write(DATA)
        os.pwrite(file.fileno(), DATA, 20 * MIB)
        file.truncate(size)
    return path


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    made = tmp_path / "scratch"
    made.mkdir()
    return made


@pytest.mark.red_without("D5", "a frozen copy is the file itself, opened once more")
def test_it_shows_what_the_file_held(tmp_path: Path, scratch: Path) -> None:
    source = sparse(tmp_path / "image")
    before = source.read_bytes()
    advanced: list[int] = []
    with frozen(source, scratch, advanced.append) as fd:
        source.write_bytes(b"x" * 50 * MIB)
        assert content(fd) == before
        assert os.fstat(fd).st_blocks * 512 <= 9 * MIB, "holes stay holes"
        assert sum(advanced) in (0, 2 * len(DATA)), "nothing is copied where blocks are shared"
        assert os.listdir(scratch) == [] and os.fstat(fd).st_nlink == 0


def test_what_nobody_will_read_is_not_copied(tmp_path: Path, scratch: Path) -> None:
    source = tmp_path / "image"
    source.write_bytes(b"A" * MIB + b"B" * MIB + b"C" * MIB + b"D" * MIB)
    advanced: list[int] = []
    with open(source, "rb") as file:
        fd = freeze(file.fileno(), scratch, advanced.append, without=[(MIB, 2 * MIB), (3 * MIB, 4 * MIB)])
    try:
        held = content(fd)
        assert len(held) == 4 * MIB
        assert (held[:MIB], held[2 * MIB : 3 * MIB]) == (b"A" * MIB, b"C" * MIB)
        if advanced:  # where blocks are shared all of it is there
            assert sum(advanced) == 2 * MIB and held.count(0) == 2 * MIB
    finally:
        os.close(fd)


@pytest.mark.parametrize("size", [0, 1, 4097])
def test_small_files(tmp_path: Path, scratch: Path, size: int) -> None:
    source = tmp_path / "image"
    source.write_bytes(DATA[5 : 5 + size])
    with frozen(source, scratch) as fd:
        assert content(fd) == DATA[5 : 5 + size]


def test_only_holes(tmp_path: Path, scratch: Path) -> None:
    source = tmp_path / "image"
    with open(source, "wb") as file:
        file.truncate(MIB)
    with frozen(source, scratch) as fd:
        assert content(fd) == bytes(MIB) and os.fstat(fd).st_blocks == 0


@pytest.mark.red_without("D5", "what the kernel does not copy from one file system to another is not copied")
def test_from_one_file_system_to_another(tmp_path: Path) -> None:
    """As for images on a data disk, and a vault below the home."""
    with mounted("tmpfs", tmp_path) as (made, point), entered(made):
        inside = point / "scratch"
        inside.mkdir()
        for source, directory in ((sparse(tmp_path / "image"), inside), (sparse(point / "image"), tmp_path)):
            before = source.read_bytes()
            with frozen(source, directory) as fd:
                assert content(fd) == before
                assert os.fstat(fd).st_blocks * 512 <= 9 * MIB


@pytest.mark.reflink
@pytest.mark.parametrize("kind", REFLINKS)
def test_where_files_share_blocks_it_takes_no_room(tmp_path: Path, kind: str) -> None:
    with mounted(kind, tmp_path) as (made, point), entered(made):
        source = sparse(point / "image")
        before, room = source.read_bytes(), used(point)
        with frozen(source, point, lambda _: pytest.fail("it was copied")) as fd:
            assert used(point) < room + MIB
            with open(source, "r+b") as file:
                file.write(b"x" * len(DATA))
            assert content(fd) == before
        assert os.listdir(point) == ["image"]


def test_a_file_system_without_unnamed_files(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As NFS: the file loses its name at once."""
    real = os.open

    def no_unnamed(path: object, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "no O_TMPFILE")
        return real(path, flags, mode)  # type: ignore[arg-type]

    source = sparse(tmp_path / "image")
    monkeypatch.setattr("os.open", no_unnamed)
    with open(source, "rb") as file:
        fd = freeze(file.fileno(), scratch)
    monkeypatch.undo()
    assert content(fd) == source.read_bytes() and os.listdir(scratch) == []
    os.close(fd)


@pytest.mark.holds("R4")
def test_a_full_disk_is_said(tmp_path: Path) -> None:
    with mounted("tmpfs", tmp_path) as (made, point), entered(made):
        fill = os.statvfs(point)
        with open(point / "fill", "wb") as file:
            os.posix_fallocate(file.fileno(), 0, (fill.f_bavail - 500) * fill.f_frsize)
        source = sparse(tmp_path / "image")
        count = len(os.listdir("/proc/self/fd"))
        with pytest.raises(NoSpaceError), frozen(source, point):
            pass
        assert len(os.listdir("/proc/self/fd")) == count
        assert os.listdir(point) == ["fill"]


def test_it_can_be_broken_off(tmp_path: Path, scratch: Path) -> None:
    def stop(size: int) -> None:
        raise StoppedError

    source = sparse(tmp_path / "image")
    count = len(os.listdir("/proc/self/fd"))
    with pytest.raises(StoppedError), frozen(source, scratch, stop):
        pytest.skip("blocks are shared here")
    assert len(os.listdir("/proc/self/fd")) == count and os.listdir(scratch) == []


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    source = sparse(tmp_path / "image")
    with pytest.raises(OverlaysyncError), frozen(source, tmp_path / "missing"):
        pass


_KILLED = """
import os, signal, sys
from pathlib import Path
from overlaysync.store.freezing import freeze
freeze(os.open(sys.argv[1], os.O_RDONLY), Path(sys.argv[2]))
print(os.listdir(sys.argv[2]), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.red_without("D5", "a frozen copy keeps a name in the vault")
def test_nothing_is_left_of_it_when_its_process_is_killed(tmp_path: Path, scratch: Path) -> None:
    source = sparse(tmp_path / "image")
    command = [sys.executable, "-c", _KILLED, str(source), str(scratch)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (-9, "[]\n"), done.stderr
    assert os.listdir(scratch) == []
