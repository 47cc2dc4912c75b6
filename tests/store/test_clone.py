"""Clones: what is shared, what is refused and when that is remembered; on real file systems."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from overlaysync.store.clone import Cloner, can_share
from overlaysync.units import KIB, MIB
from tests.filesystems import REFLINKS, entered, mounted, shared, used

BLOCK = 4 * KIB
DATA = b"".join(number.to_bytes(4, "little") * KIB for number in range(1024))
"""4 MiB; no two blocks are alike."""


@pytest.fixture(params=REFLINKS)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A directory on a file system that can share blocks."""
    with mounted(request.param, tmp_path) as (made, point), entered(made):
        yield point


@contextmanager
def files(directory: Path, data: bytes = DATA, *, source: Path | None = None) -> Iterator[tuple[int, int]]:
    """Descriptors of a source with ``data`` and of a new file as long."""
    path = (source or directory) / "source"
    path.write_bytes(data)
    with open(path, "rb") as old, open(directory / "new", "w+b") as new:
        os.ftruncate(new.fileno(), len(data))
        yield old.fileno(), new.fileno()


@pytest.mark.reflink
def test_what_is_shared_has_the_same_bytes_and_takes_no_room(disk: Path) -> None:
    with files(disk) as (source, new):
        before = used(disk)
        cloner = Cloner(new)
        assert cloner.clone(source, 0, len(DATA), 0)
        assert cloner.works
        assert os.pread(new, len(DATA), 0) == DATA
        assert shared(disk / "new") == len(DATA)
        assert used(disk) < before + MIB


@pytest.mark.reflink
def test_ranges_go_anywhere(disk: Path) -> None:
    with files(disk) as (source, new):
        assert Cloner(new).clone(source, 3 * BLOCK, 5 * BLOCK, 9 * BLOCK)
        expected = bytearray(len(DATA))
        expected[9 * BLOCK : 14 * BLOCK] = DATA[3 * BLOCK : 8 * BLOCK]
        assert os.pread(new, len(DATA), 0) == expected


@pytest.mark.reflink
def test_what_is_written_to_the_source_later_is_not_seen(disk: Path) -> None:
    with files(disk) as (source, new):
        assert Cloner(new).clone(source, 0, len(DATA), 0)
        (disk / "source").write_bytes(b"x" * len(DATA))
        assert os.pread(new, len(DATA), 0) == DATA


@pytest.mark.reflink
def test_what_the_new_file_had_in_the_page_cache_is_gone(disk: Path) -> None:
    with files(disk) as (source, new):
        os.pwrite(new, b"x" * len(DATA), 0)
        assert Cloner(new).clone(source, 0, len(DATA), 0)
        assert os.pread(new, len(DATA), 0) == DATA


@pytest.mark.reflink
@pytest.mark.parametrize(
    ("start", "length", "to"), [(512, BLOCK, 0), (0, 512, 0), (0, BLOCK, 512), (0, 0, 0)]
)
def test_parts_of_blocks_are_not_even_tried(disk: Path, start: int, length: int, to: int) -> None:
    with files(disk) as (source, new):
        cloner = Cloner(new)
        assert not cloner.clone(source, start, length, to)
        assert cloner.may(source) and cloner.clone(source, 0, BLOCK, 0)


@pytest.mark.reflink
def test_a_refusal_after_a_success_is_of_that_range_alone(disk: Path) -> None:
    with files(disk) as (source, new):
        cloner = Cloner(new)
        assert cloner.clone(source, 0, BLOCK, 0)
        assert not cloner.clone(source, len(DATA) + BLOCK, BLOCK, 0)
        assert cloner.clone(source, BLOCK, BLOCK, BLOCK)


@pytest.mark.reflink
def test_another_file_system_refuses_and_this_one_is_still_asked(disk: Path, tmp_path: Path) -> None:
    with files(disk, source=tmp_path) as (far, new), open(disk / "near", "w+b") as near:
        near.write(DATA)
        near.flush()
        cloner = Cloner(new)
        assert not cloner.clone(far, 0, BLOCK, 0)
        assert not cloner.may(far)
        assert cloner.clone(near.fileno(), 0, BLOCK, 0)


@pytest.mark.parametrize("kind", ["ext4", "tmpfs"])
def test_file_systems_that_cannot_are_asked_once(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mounted(kind, tmp_path) as (made, point), entered(made), files(point) as (source, new):
        cloner = Cloner(new)
        assert not cloner.clone(source, 0, BLOCK, 0)
        monkeypatch.setattr(fcntl, "ioctl", lambda *_: pytest.fail("asked again"))
        assert not cloner.clone(source, BLOCK, BLOCK, 0)
        assert not cloner.may(source) and not cloner.works


@pytest.mark.parametrize(
    "code", [errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.EPERM, errno.ENOSPC, errno.EIO]
)
def test_every_refusal_is_only_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "ioctl", refuse)
    with files(tmp_path) as (source, new):
        cloner = Cloner(new)
        assert not cloner.clone(source, 0, BLOCK, 0)
        assert not cloner.may(source)


@pytest.mark.reflink
def test_where_files_can_share_is_found_out_without_doing_it(disk: Path) -> None:
    with files(disk) as (_, new):
        os.pwrite(new, DATA, 0)
        assert can_share(new)
        assert os.pread(new, 2 * len(DATA), 0) == DATA
        assert shared(disk / "new") == 0


@pytest.mark.parametrize("kind", ["ext4", "tmpfs"])
def test_where_files_cannot_share_is_found_out_too(kind: str, tmp_path: Path) -> None:
    with mounted(kind, tmp_path) as (made, point), entered(made), files(point) as (_, new):
        assert not can_share(new)
