"""Feeds damaged frames to the decoder: ``python -m tests.net.fuzzing --cases N --seed S``.

Structure-aware: takes frames of several kinds, flips bits, sets header bytes to values that hurt, cuts, joins
and repeats. Every one must be unpacked to the promised length or be refused with a PeerError; in bounded
memory (RLIMIT_AS) and time (an alarm). Run in a process of its own, for those limits.
"""

from __future__ import annotations

import argparse
import random
import resource
import signal
import sys
from collections import Counter
from types import FrameType

from overlaysync.errors import PeerError
from overlaysync.net.bounds import MAX_COMPRESSED_BODY
from overlaysync.net.compression import compress, decompress
from overlaysync.units import KIB, MIB
from tests.net import frames

MEMORY = 3 * MAX_COMPRESSED_BODY + 4 * MIB
"""What the decoder may allocate on top of what the process has."""

SECONDS = 10
"""What one frame may take: far more than any does, even on a busy machine."""

TEXT = b"".join(b"%d %d\n" % (number, number * number) for number in range(20_000))

PLAINS = (
    TEXT[:100],
    TEXT[: 64 * KIB],
    bytes(64 * KIB),
    TEXT[: 3 * KIB] + random.Random(0).randbytes(2 * KIB) + bytes(3 * KIB),
    random.Random(1).randbytes(256),
)
LARGE = bytes(MAX_COMPRESSED_BODY)

SEEDS = (
    *((compress(plain), len(plain)) for plain in (*PLAINS, LARGE)),
    *((frames.with_checksum(plain), len(plain)) for plain in PLAINS),
    *((frames.header(size=len(plain), window_log=17) + frames.raw(plain), len(plain)) for plain in PLAINS),
    (frames.header(size=MIB) + frames.zeros(MIB), MIB),
)
OTHERS = (*frames.lies(TEXT[:1000]).values(), frames.MAGIC, frames.encode(b""), frames.skippable(b"x"))


class TimeIsUp(BaseException):
    """A frame took too long."""


def damage(random_: random.Random, frame: bytes) -> bytes:
    """A damaged copy."""
    data = bytearray(frame)
    if random_.random() < 0.5:  # what it says stays true, so that its blocks are read
        for _ in range(random_.choice((1, 1, 2, 5))):
            at = random_.randrange(9, max(10, min(len(data), random_.choice((40, 200, 1 << 22)))))
            data[at % len(data)] ^= random_.choice(
                (1 << random_.randrange(8), 0xFF, random_.randrange(1, 256))
            )
        return bytes(data)
    for _ in range(random_.choice((1, 1, 1, 2, 3, 8))):
        what = random_.randrange(12)
        # The header and the first tables decide most: damage is nearer to the beginning.
        at = random_.randrange(min(len(data), random_.choice((4, 8, 18, 64, 1 << 20))) or 1)
        if not data or what == 0:
            data += random_.choice(OTHERS)
        elif what < 4:
            data[at] ^= 1 << random_.randrange(8)
        elif what < 6:
            data[at] = random_.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF, random_.randrange(256)))
        elif what == 6:
            data[at : at + 8] = random_.choice((bytes(8), b"\xff" * 8, random_.randbytes(8)))
        elif what == 7:
            del data[at:]
        elif what == 8:
            del data[at : at + random_.randrange(1, 9)]
        elif what == 9:
            data[at:at] = random_.randbytes(random_.randrange(1, 9))
        elif what == 10:
            data[at:at] = random_.choice(OTHERS)
        else:
            start = random_.randrange(len(data))
            data[at:at] = data[start : start + random_.randrange(1, 64)]
    return bytes(data)


def use(frame: bytes, size: int) -> str:
    """Unpack a frame; return what came of it."""
    try:
        plain = decompress(frame, size)
    except PeerError as error:
        assert str(error)
        return "refused"
    assert len(plain) == size
    return "unpacked"


def limit_memory() -> None:
    """From here on, an allocation much over :data:`MEMORY` fails."""
    with open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def raise_time_is_up(number: int, frame: FrameType | None) -> None:
    raise TimeIsUp


def main() -> int:
    """Run the cases; the exit code is 0 when every one was unpacked or refused."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="run this case alone")
    options = parser.parse_args()
    signal.signal(signal.SIGALRM, raise_time_is_up)
    limit_memory()
    for seed in SEEDS:
        assert use(*seed) == "unpacked"
    outcomes: Counter[str] = Counter()
    cases = range(options.cases) if options.only is None else (options.only,)
    for case in cases:
        random_ = random.Random(f"{options.seed}/{case}")
        frame, size = SEEDS[case % len(SEEDS)]
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            outcomes[use(damage(random_, frame), size)] += 1
        except BaseException:
            print(f"case {case} of seed {options.seed}: --seed {options.seed} --only {case}", file=sys.stderr)
            raise
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    print(*(f"{name} {count}" for name, count in sorted(outcomes.items())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
