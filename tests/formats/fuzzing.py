"""Feeds damaged images to the readers: ``python -m tests.formats.fuzzing --cases N --seed S``.

Structure-aware: takes small images made by hand, sets header fields and table entries to values that hurt,
flips bits, cuts and stretches the file. Every one must be opened and mapped completely, or refused with an
ImageError; in bounded memory (RLIMIT_AS) and time (an alarm). Run in a process of its own, for those limits.
"""

from __future__ import annotations

import os
import random
import sys

from overlaysync.errors import ImageError
from overlaysync.formats.image import Image
from overlaysync.formats.qcow2 import Qcow2Image
from overlaysync.formats.qed import QedImage
from overlaysync.model.digest import Kind
from overlaysync.units import MIB
from tests.formats.handmade import ZSTD_COMPRESSION, Handmade, memory_file, qcow2, qed
from tests.fuzzing import limit_memory, run_cases

MEMORY = 64 * MIB
"""What a reader may allocate on top of what the process has."""

MAX_READS = 8
MAX_READ_BYTES = MIB

SEEDS = (
    qcow2("D-ZPDCCD", backing=b"base.raw", extensions=((0xE2792ACA, b"raw"),)),
    qcow2("D-DDCC--" * 10, version=2),
    qcow2("DZ-D" * 80, cluster_bits=9),
    qcow2("D-CC", cluster_bits=12, compression=ZSTD_COMPRESSION, extensions=((0x6803F857, bytes(96)),)),
    qcow2("DS-ZPCS", cluster_bits=14, extended_l2=True),
    qed("D-ZD", table_size=2, backing=b"base.raw"),
    qed("DDZ-D" + "-" * 505 + "DZ-DD", table_size=1),
)


def values_that_hurt(random_: random.Random, image: Handmade) -> int:
    """A value that fields and entries should not have, or should have elsewhere."""
    clusters = len(image.data) // image.cluster_size
    table = random_.choice([*image.tables])
    choice = random_.randrange(9)
    if choice == 0:
        return random_.choice((0, 1, 2, 3, 5, 9, 16, 21, 22, 63, 64, 511, 512, 4096, 65536))
    if choice == 1:
        return (1 << random_.randrange(64)) + random_.choice((-1, 0, 1))
    if choice == 2:
        return random_.getrandbits(random_.choice((8, 16, 32, 64)))
    if choice <= 5:
        # A cluster: of metadata, of data, or around the end.
        return (random_.randrange(clusters + 3) * image.cluster_size) | random_.choice(
            (0, 0, 0, 1, 1 << 63, 1 << 62)
        )
    if choice == 6:
        return len(image.data) + random_.choice((-513, -1, 0, 1, 512))
    return image.entry(table, random_.randrange(len(image.tables[table])))


def damage(random_: random.Random, seed: Handmade) -> tuple[bytes, int | None]:
    """(bytes, size to stretch or cut the file to) of a damaged copy."""
    image = Handmade(bytearray(seed.data), seed.fields, seed.order, seed.cluster_size, seed.tables)
    size = None
    for _ in range(random_.choice((1, 1, 1, 2, 2, 3, 5))):
        what = random_.randrange(10)
        if what < 4:
            name = random_.choice([*image.fields])
            value = (
                values_that_hurt(random_, image)
                if random_.random() < 0.7
                else image.get(name) ^ 1 << random_.randrange(8)
            )
            image.set(**{name: value % (1 << 8 * image.fields[name][1])})
        elif what < 7:
            table = random_.choice([*image.tables])
            at = random_.choice(image.tables[table]) + 8 * (random_.random() < 0.1)
            old = int.from_bytes(image.data[at : at + 8], "big")
            flip = random_.random() < 0.3
            image.set_word(
                at,
                (old ^ 1 << random_.randrange(64) if flip else values_that_hurt(random_, image)) % (1 << 64),
            )
        elif what < 8:
            image.data[random_.randrange(min(1024, len(image.data)))] = random_.randrange(256)
        elif what < 9:
            image.data[random_.randrange(len(image.data))] ^= 1 << random_.randrange(8)
        else:
            size = random_.choice(
                (random_.randrange(len(image.data) + 1), 1 << random_.randrange(20, 63), (1 << 63) - 1)
            )
    return bytes(image.data), size


def use(reader: type[Qcow2Image | QedImage], fd: int) -> str:
    """Open, map and partly read an image; return what came of it."""
    try:
        image: Image = reader.open("damaged", fd)
        offset = reads = 0
        for extent in image.extents(0, image.virtual_size):
            assert extent.offset == offset and extent.length > 0, extent
            offset += extent.length
            if extent.kind is Kind.DATA and reads < MAX_READS and extent.length <= MAX_READ_BYTES:
                reads += 1
                image.read_into(extent, memoryview(bytearray(extent.length)))
        assert offset == image.virtual_size
    except ImageError as error:
        assert str(error)
        return "refused"
    return "mapped"


def run(case: int, random_: random.Random) -> str:
    """One case; returns what came of it."""
    seed = SEEDS[case % len(SEEDS)]
    data, size = damage(random_, seed)
    fd = memory_file(data, size=size)
    try:
        return use(reader_of(seed), fd)
    finally:
        os.close(fd)


def reader_of(seed: Handmade) -> type[Qcow2Image | QedImage]:
    """What reads images like that one."""
    return Qcow2Image if seed.order == ">" else QedImage


def main() -> int:
    """Run the cases; the exit code is 0 when every one was mapped or refused."""
    for seed in SEEDS:
        fd = memory_file(seed.data)
        assert use(reader_of(seed), fd) == "mapped"
        os.close(fd)
    limit_memory(MEMORY)
    return run_cases(run)


if __name__ == "__main__":
    sys.exit(main())
