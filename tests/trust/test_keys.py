"""The node key's file: private, whole, and one."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from overlaysync.errors import NoSpaceError, NotAllowedError
from overlaysync.trust.keys import load_or_make, verify

pytestmark = pytest.mark.holds("K1")

CONCURRENT = """
import sys
from pathlib import Path
from overlaysync.trust.keys import load_or_make

sys.stdin.read()
print(load_or_make(Path(sys.argv[1])).public.hex())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "node.key"


def test_made_once(path: Path) -> None:
    first = load_or_make(path)
    assert load_or_make(path).public == first.public
    assert path.read_bytes() != first.public and len(path.read_bytes()) == 32
    assert verify(first.public, load_or_make(path).sign(b"text"), b"text")
    assert not verify(first.public, first.sign(b"text"), b"other")


def test_every_node_has_a_key_of_its_own(tmp_path: Path) -> None:
    assert load_or_make(tmp_path / "a").public != load_or_make(tmp_path / "b").public


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o777])
def test_nobody_else_can_read_it_whatever_the_umask(path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        load_or_make(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


@pytest.mark.red_without("K1", "the permissions of the key file are not checked")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601, 0o610])
def test_a_key_that_others_could_read_is_refused(path: Path, mode: int) -> None:
    load_or_make(path)
    path.chmod(mode)
    with pytest.raises(NotAllowedError) as caught:
        load_or_make(path)
    assert "chmod 600" in caught.value.hint


@pytest.mark.parametrize("data", [b"", b"x" * 31, b"x" * 33, b"x" * 5000])
def test_another_file_is_refused_and_left_alone(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    path.chmod(0o600)
    with pytest.raises(NotAllowedError):
        load_or_make(path)
    assert path.read_bytes() == data


def test_symlinks_are_not_followed(path: Path, tmp_path: Path) -> None:
    load_or_make(tmp_path / "elsewhere")
    for target in (tmp_path / "elsewhere", tmp_path / "nowhere"):
        path.unlink(missing_ok=True)
        path.symlink_to(target)
        with pytest.raises(NotAllowedError):
            load_or_make(path)
    assert not (tmp_path / "nowhere").exists()


def test_what_is_no_file_is_refused(path: Path) -> None:
    os.mkfifo(path, 0o600)
    with pytest.raises(NotAllowedError):
        load_or_make(path)
    path.unlink()
    path.mkdir(0o700)
    with pytest.raises(NotAllowedError):
        load_or_make(path)


def test_nowhere_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(NotAllowedError):
        load_or_make(tmp_path / "missing" / "node.key")


def test_a_full_disk_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*paths: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched, pytest.raises(NoSpaceError):
        patched.setattr(os, "link", full)
        load_or_make(path)
    assert os.listdir(path.parent) == []
    assert load_or_make(path).public


def test_threads_that_start_together_get_one_key(path: Path) -> None:
    for turn in range(10):
        one = path.with_name(f"{turn}.key")
        with ThreadPoolExecutor(8) as pool:
            assert len(set(pool.map(lambda _, one=one: load_or_make(one).public, range(8)))) == 1
    assert len(os.listdir(path.parent)) == 10


@pytest.mark.slow
def test_processes_that_start_together_get_one_key(path: Path) -> None:
    command = [sys.executable, "-c", CONCURRENT, str(path)]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
    keys = set()
    for process in processes:
        assert process.stdout is not None
        keys.add(process.stdout.read().strip())
        process.stdout.close()
        assert process.wait() == 0
    assert keys == {load_or_make(path).public.hex()}
    assert os.listdir(path.parent) == ["node.key"]
