"""A small file that is there as a whole or not at all, and leaves nothing beside it for ever."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from overlaysync.store.files import put_file

pytestmark = pytest.mark.holds("D3")


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def test_it_is_made_and_replaced_only_when_told_so(directory: int, tmp_path: Path) -> None:
    put_file(directory, "notes", b"first", replaces=False)
    assert (tmp_path / "notes").stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        put_file(directory, "notes", b"other", replaces=False)
    assert (tmp_path / "notes").read_bytes() == b"first"
    put_file(directory, "notes", b"2nd", replaces=True)
    assert (tmp_path / "notes").read_bytes() == b"2nd"
    assert os.listdir(tmp_path) == ["notes"]


def test_what_a_killed_command_left_is_written_over(directory: int, tmp_path: Path) -> None:
    (tmp_path / ".notes.new").write_bytes(b"longer than what comes")
    put_file(directory, "notes", b"short", replaces=False)
    assert (tmp_path / "notes").read_bytes() == b"short"
    assert os.listdir(tmp_path) == ["notes"]


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_nothing_that_lies_in_its_way_is_followed(directory: int, tmp_path: Path, kind: str) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    trap = tmp_path / ".notes.new"
    if kind == "link":
        trap.symlink_to(victim)
    else:
        os.mkfifo(trap)
    with pytest.raises(OSError):
        put_file(directory, "notes", b"x", replaces=True)
    assert victim.read_bytes() == b"mine"


def test_of_many_at_once_each_writes_a_whole_file(directory: int, tmp_path: Path) -> None:
    texts = [bytes([number]) * (1000 * number + 1) for number in range(8)]

    def write(text: bytes) -> None:
        for _ in range(20):
            put_file(directory, "notes", text, replaces=True)

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if (tmp_path / "notes").exists():
            assert (tmp_path / "notes").read_bytes() in texts
    for thread in threads:
        thread.join()
    assert os.listdir(tmp_path) == ["notes"]
