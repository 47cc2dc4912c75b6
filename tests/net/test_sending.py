from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlaysync.errors import NotFoundError
from overlaysync.net.sending import BATCH_MEMORY, BUFFER_SIZE, SENDFILE_MIN, PieceReader, gather
from overlaysync.ops.offer import FileSegment, Segment
from overlaysync.units import MIB

CONTENT = os.urandom(4 * MIB)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    path = tmp_path_factory.mktemp("sending") / "image"
    path.write_bytes(CONTENT)
    fd = os.open(path, os.O_RDONLY)
    yield fd
    os.close(fd)


def read(segment: FileSegment | bytes | bytearray) -> bytes:
    if isinstance(segment, FileSegment):
        return CONTENT[segment.offset : segment.offset + segment.length]
    return bytes(segment)


@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(0, 3 * MIB), st.integers(1, MIB))
        | st.binary(min_size=1, max_size=99),
        max_size=20,
    )
)
@pytest.mark.slow
def test_gathering_changes_no_byte(file: int, wanted: list[tuple[bool, int, int] | bytes]) -> None:
    segments: list[Segment] = []
    for one in wanted:
        if isinstance(one, bytes):
            segments.append(one)
        else:
            after, offset, length = one
            previous = segments[-1] if segments else None
            if after and isinstance(previous, FileSegment):
                offset = previous.offset + previous.length
            length = min(length, len(CONTENT) - offset)
            if length > 0:
                segments.append(FileSegment(file, offset, length))
    pieces = list(gather(segments))
    assert b"".join(map(read, pieces)) == b"".join(map(read, segments))
    assert all(not isinstance(piece, FileSegment) or piece.length >= SENDFILE_MIN for piece in pieces)
    assert all(isinstance(piece, FileSegment) or len(piece) < BUFFER_SIZE + SENDFILE_MIN for piece in pieces)


def test_neighbours_become_one_piece(file: int) -> None:
    segments = [FileSegment(file, at, 65536) for at in range(0, 2 * MIB, 65536)]
    assert list(gather(segments)) == [FileSegment(file, 0, 2 * MIB)]


def test_scattered_granules_become_one_buffer(file: int) -> None:
    segments = [FileSegment(file, at, 4096) for at in range(0, 2 * BUFFER_SIZE - 8192, 8192)]
    (piece,) = gather(segments)
    assert isinstance(piece, bytearray)


def test_a_file_that_is_too_short_is_noticed(file: int) -> None:
    with pytest.raises(NotFoundError):
        list(gather([FileSegment(file, len(CONTENT) - 10, 20)]))


@pytest.mark.slow
def test_batches_bound_what_is_held(file: int) -> None:
    reader = PieceReader(FileSegment(file, at % MIB, 1024) for at in range(0, 256 * MIB, 2048))
    batches = []
    while reader.more:
        batches.append(sum(len(piece) for piece in reader.read() if not isinstance(piece, FileSegment)))
    assert sum(batches) == 128 * MIB
    assert max(batches) <= BATCH_MEMORY + SENDFILE_MIN < MIB
