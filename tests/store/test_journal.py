"""The journal: torn, flipped and full ones."""

import os
import random
import stat
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlaysync.store import journal as journal_module
from overlaysync.store.journal import Journal, JournalHeader, merge_runs

KEY = bytes(range(32))
HEADER = JournalHeader(KEY, inode=2**64 - 1, target=b"/images/caf\xe9.qcow2")
RUNS = [(0, 3), (10, 1), (2**40, 2**33), (7, 2)]
"""One record each: appended one by one, they do not touch."""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "t.journal"


@pytest.fixture
def whole(path):
    """The bytes of a journal with RUNS."""
    journal = Journal.create(path, HEADER)
    for run in RUNS:
        journal.append([run])
    journal.close()
    return path.read_bytes()


def resume(path, key=KEY, inode=HEADER.inode):
    """The claims, or None when the journal is not taken."""
    found = Journal.resume(path, key=key, inode=inode)
    if found is None:
        return None
    found[0].close()
    return found[1]


def test_claims_come_back_rising_and_joined(path, whole):
    assert resume(path) == merge_runs(RUNS)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert JournalHeader.decode(path.read_bytes()) == HEADER


def test_a_journal_about_something_else_is_not_taken(path, whole):
    assert resume(path, key=bytes(32)) is None
    assert resume(path, inode=5) is None
    assert resume(path.with_name("none")) is None


@pytest.mark.slow
def test_torn_at_every_byte_it_claims_what_was_complete(path, whole):
    start = len(HEADER.encode())
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        claims = resume(path)
        if length < start:
            assert claims is None
        else:
            complete = (length - start) // 20
            assert claims == merge_runs(RUNS[:complete])
            assert path.stat().st_size == start + complete * 20


def test_a_torn_tail_does_not_hide_what_is_appended_later(path, whole):
    path.write_bytes(whole[:-7])
    found = Journal.resume(path, key=KEY, inode=HEADER.inode)
    assert found is not None
    found[0].append([(500, 1)])
    found[0].close()
    assert resume(path) == merge_runs([*RUNS[:3], (500, 1)])


@pytest.mark.slow
def test_every_flipped_bit_ends_the_claims_there(path, whole):
    start = len(HEADER.encode())
    for offset in range(len(whole)):
        damaged = bytearray(whole)
        damaged[offset] ^= 1 << random.Random(offset).randrange(8)
        path.write_bytes(damaged)
        expected = None if offset < start else merge_runs(RUNS[: (offset - start) // 20])
        assert resume(path) == expected


@pytest.mark.parametrize("tail", [bytes(4096), b"\xff" * 100, b"x"])
def test_a_tail_of_anything_claims_nothing(path, whole, tail):
    path.write_bytes(whole + tail)
    assert resume(path) == merge_runs(RUNS)
    assert path.stat().st_size == len(whole)


def test_records_of_another_journal_do_not_check(path, whole):
    other = JournalHeader(bytes(32), 5, b"/other").encode()
    path.write_bytes(other + whole[len(HEADER.encode()) :])
    assert resume(path, key=bytes(32), inode=5) == []


@given(data=st.binary(max_size=400))
def test_any_bytes_are_a_header_or_none(data):
    assert JournalHeader.decode(data) is None
    assert JournalHeader.decode(HEADER.encode() + data) == HEADER


def test_a_fifo_is_not_waited_for(path):
    os.mkfifo(path)
    assert resume(path) is None
    Journal.create(path, HEADER).close()
    assert resume(path) == []


def test_a_symlink_is_not_followed(path, whole):
    link = path.with_name("link.journal")
    link.symlink_to(path)
    with pytest.raises(OSError):
        Journal.resume(link, key=KEY, inode=HEADER.inode)
    Journal.create(link, HEADER).close()
    assert path.read_bytes() == whole


@pytest.mark.slow
def test_a_full_journal_is_rewritten_shorter(path, monkeypatch):
    monkeypatch.setattr(journal_module, "MAX_JOURNAL", 1000)
    journal = Journal.create(path, HEADER)
    for slot in range(500):
        journal.append([(slot, 1)])
        assert path.stat().st_size <= 1000
    journal.close()
    assert resume(path) == [(0, 500)]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_full_journal_of_scattered_slots_stops_claiming(path, monkeypatch):
    monkeypatch.setattr(journal_module, "MAX_JOURNAL", 1000)
    journal = Journal.create(path, HEADER)
    for slot in range(0, 1000, 2):
        journal.append([(slot, 1)])
    journal.close()
    claims = resume(path)
    assert path.stat().st_size <= 1000
    assert claims == [(slot, 1) for slot in range(0, 2 * len(claims), 2)]
    assert claims


def test_removing_takes_a_half_rewritten_one_along(path):
    journal = Journal.create(path, HEADER)
    path.with_suffix(".new").write_bytes(b"half")
    journal.remove()
    assert list(path.parent.iterdir()) == []


runs = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9)), max_size=12)


@given(runs=runs)
@pytest.mark.slow
def test_merged_runs_are_the_same_slots(runs):
    def slots(of):
        return {slot for first, count in of for slot in range(first, first + count)}

    merged = merge_runs(runs)
    assert slots(merged) == slots(runs)
    for (first, count), (after, _) in pairwise(merged):
        assert first + count < after
