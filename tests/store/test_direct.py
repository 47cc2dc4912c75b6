"""Direct writes: what they write, what they leave to the usual way, and file systems that refuse them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from overlaysync.store.direct import ALIGNMENT, LEAST, DirectFile, aligned_buffer

ZEROS = bytes(LEAST)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "part", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


@pytest.fixture
def writer(file: int) -> Iterator[DirectFile]:
    writer = DirectFile(file)
    yield writer
    writer.close()


def test_a_large_aligned_piece_is_written_and_read_back_the_usual_way(file: int, writer: DirectFile) -> None:
    piece = aligned_buffer(2 * LEAST)
    piece[:] = os.urandom(len(piece))
    done = writer.write(piece, 3 * ALIGNMENT)
    assert done == len(piece)
    assert os.pread(file, done, 3 * ALIGNMENT) == bytes(piece)


def test_what_was_written_the_usual_way_before_is_seen_through(file: int, writer: DirectFile) -> None:
    os.pwrite(file, b"x" * 3 * LEAST, 0)
    assert writer.write(aligned_buffer(LEAST), LEAST) == LEAST
    assert os.pread(file, 3 * LEAST, 0) == b"x" * LEAST + ZEROS + b"x" * LEAST


@pytest.mark.parametrize(
    ("start", "length", "offset"),
    [(0, LEAST - ALIGNMENT, 0), (512, LEAST, 0), (0, LEAST + 512, 0), (0, LEAST, 512)],
    ids=["small", "address", "length", "offset"],
)
def test_small_and_unaligned_pieces_are_left_alone(
    file: int, writer: DirectFile, start: int, length: int, offset: int
) -> None:
    piece = aligned_buffer(2 * LEAST)[start : start + length]
    assert writer.write(piece, offset) == 0
    assert os.fstat(file).st_size == 0


def test_a_file_that_cannot_be_written_directly_is_left_to_the_usual_way() -> None:
    fd = os.memfd_create("part")
    writer = DirectFile(fd)
    try:
        piece = aligned_buffer(LEAST)
        assert writer.write(piece, 0) in (0, LEAST)  # newer kernels let tmpfs pretend
    finally:
        writer.close()
        os.close(fd)


def test_a_closed_writer_writes_nothing(file: int) -> None:
    writer = DirectFile(file)
    writer.close()
    assert writer.write(aligned_buffer(LEAST), 0) == 0
    assert os.fstat(file).st_size == 0


def test_large_aligned_pieces_are_read(file: int, writer: DirectFile) -> None:
    data = os.urandom(3 * LEAST)
    os.pwrite(file, data, 0)  # only in the page cache yet
    piece = aligned_buffer(2 * LEAST)
    done = writer.read(piece, LEAST)
    assert done in (0, len(piece)) and piece[:done] == data[LEAST:][:done]
    assert writer.read(piece[: LEAST - ALIGNMENT], 0) == 0
