"""A part file whose process is killed: at random moments, and at every system call that changes something."""

import random
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from overlaysync.store.partial import PartFile

SLOT = 16384
COUNT = 96
KEY = b"k" * 32

WRITER = f"""
import random, sys
from pathlib import Path
from overlaysync.store.partial import PartFile
target, journals, seed = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
SLOT, COUNT = {SLOT}, {COUNT}
part = PartFile.open(
    target, key={KEY!r}, size=SLOT * COUNT, data_bytes=SLOT * COUNT, journal_dir=journals, reserve=0
)
have = set()
for first, count in part.claimed:
    for slot in range(first, first + count):
        assert part.pread(slot * SLOT, SLOT) == bytes([slot]) * SLOT, "claimed and not there"
        have.add(slot)
todo = [slot for slot in range(COUNT) if slot not in have]
random.Random(seed).shuffle(todo)
for number, slot in enumerate(todo):
    part.pwrite(slot * SLOT, [bytes([slot]) * SLOT])
    part.note(slot, 1)
    if number % 5 == 4:
        part.checkpoint()
        print("checkpoint", flush=True)
    else:
        print("written", flush=True)
part.publish()
"""

WHOLE = b"".join(bytes([slot]) * SLOT for slot in range(COUNT))


@pytest.fixture
def places(tmp_path):
    target, journals = tmp_path / "images" / "vm.qcow2", tmp_path / "journals"
    target.parent.mkdir()
    journals.mkdir()
    return target, journals


def claimed_slots(target: Path, journals: Path) -> set[int]:
    """What the journal claims, after a look at the disk."""
    part = PartFile.open(
        target, key=KEY, size=SLOT * COUNT, data_bytes=SLOT * COUNT, journal_dir=journals, reserve=0
    )
    with closing(part):
        slots = {slot for first, count in part.claimed for slot in range(first, first + count)}
        for slot in slots:
            assert part.pread(slot * SLOT, SLOT) == bytes([slot]) * SLOT
    return slots


def check_whole(target: Path) -> None:
    assert target.read_bytes() == WHOLE
    assert [path.name for path in target.parent.iterdir()] == [target.name]


@pytest.mark.slow
def test_killed_at_random_it_keeps_what_it_claimed(places):
    target, journals = places
    chance = random.Random(1)
    kills = 0
    for seed in range(12):
        while not target.exists():
            writer = subprocess.Popen(
                [sys.executable, "-c", WRITER, str(target), str(journals), str(seed)],
                stdout=subprocess.PIPE,
                text=True,
            )
            assert writer.stdout is not None
            sure = 0
            for line in [
                line for line, _ in zip(writer.stdout, range(chance.randrange(1, 60)), strict=False)
            ]:
                sure += 5 if line == "checkpoint\n" else 0
            writer.kill()
            writer.stdout.close()
            assert writer.wait() in (0, -9)
            kills += writer.returncode == -9
            if not target.exists():
                assert len(claimed_slots(target, journals)) >= sure
        check_whole(target)
        target.unlink()
    assert kills > 12


# A system call that changes something, and how many of its calls are skipped between two kills.
CHANGING = {
    "openat": 1,
    "flock": 1,
    "fchmod": 1,
    "ftruncate": 1,
    "fallocate": 1,
    "/^pwritev": 9,
    "write": 11,
    "fdatasync": 6,
    "fsync": 4,
    "renameat2": 1,
    "unlink": 1,
}


@pytest.mark.holds("R1")
@pytest.mark.red_without(
    "R1", "slots are claimed without `fdatasync` first (the test misses the call at which it would kill)"
)
@pytest.mark.slow
@pytest.mark.strace
@pytest.mark.parametrize("call", CHANGING)
def test_killed_at_every_change_it_can_go_on(places, call):
    target, journals = places
    command = [sys.executable, "-c", WRITER, str(target), str(journals), "1"]
    # Of the many files that Python itself opens only the last ones are ours.
    first = 1 if call != "openat" else opens_before_ours(command, target)
    kills = 0
    for number in range(first, first + 400, CHANGING[call]):
        inject = f"inject={call}:signal=SIGKILL:when={number}"
        strace = ["strace", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", inject]
        result = subprocess.run([*strace, *command], capture_output=True, check=False)
        if result.returncode == 0:
            break
        assert result.returncode == -9, result.stderr
        kills += 1
        if not target.exists():
            claimed_slots(target, journals)
            subprocess.run(command, check=True, capture_output=True)
        check_whole(target)
        target.unlink()
    else:
        pytest.fail("it never ran to its end")
    assert kills > 0
    check_whole(target)


def opens_before_ours(command: list[str], target: Path) -> int:
    """How many files are opened before the first one of a part file; leaves no file behind."""
    result = subprocess.run(
        ["strace", "-qq", "-e", "trace=openat", *command], capture_output=True, text=True, check=True
    )
    target.unlink()
    lines = [line for line in result.stderr.splitlines() if line.startswith("openat(")]
    return next(number for number, line in enumerate(lines, 1) if str(target.parent) in line)
