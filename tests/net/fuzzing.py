"""Feeds damaged frames to the decoder: ``python -m tests.net.fuzzing --cases N --seed S``.

Structure-aware: takes frames of several kinds, flips bits, sets header bytes to values that hurt, cuts, joins
and repeats. Every one must be unpacked to the promised length or be refused with a PeerError; in bounded
memory (RLIMIT_AS) and time (an alarm). Run in a process of its own, for those limits.
"""

from __future__ import annotations

import random
import sys

from overlaysync.errors import PeerError
from overlaysync.net.bounds import MAX_COMPRESSED_BODY
from overlaysync.net.compression import compress, decompress
from overlaysync.units import KIB, MIB
from tests.fuzzing import limit_memory, run_cases
from tests.net import frames

MEMORY = 3 * MAX_COMPRESSED_BODY + 4 * MIB
"""What the decoder may allocate on top of what the process has."""

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


def run(case: int, random_: random.Random) -> str:
    """One case; returns what came of it."""
    frame, size = SEEDS[case % len(SEEDS)]
    return use(damage(random_, frame), size)


def main() -> int:
    """Run the cases; the exit code is 0 when every one was unpacked or refused."""
    limit_memory(MEMORY)
    for seed in SEEDS:
        assert use(*seed) == "unpacked"
    return run_cases(run)


if __name__ == "__main__":
    sys.exit(main())
