"""Verify: every flipped bit is found and named by guest offset; what is whole is not accused."""

from __future__ import annotations

import os
import random
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlaysync.errors import NotFoundError
from overlaysync.formats.chain import Chain
from overlaysync.formats.image import Format
from overlaysync.model.digest import ZERO, Kind
from overlaysync.model.pages import PageList, PageListBuilder
from overlaysync.ops.verify import Damage, differences, verify
from overlaysync.units import CHUNK, MIB, PAGE_UNITS
from tests.images import Op, apply, convert, create, draw, format_of, patch
from tests.ops.world import NOW, World

qemu = pytest.mark.qemu

SIZE = MIB + 1536


def damage_of(world: World, path: Path) -> list[tuple[int, int]]:
    verdict = verify(world.library, str(path), now=NOW)
    return [(one.offset, one.length) for one in verdict.damage]


def chunk_of(offset: int, size: int = SIZE) -> tuple[int, int]:
    start = offset // CHUNK * CHUNK
    return start, min(CHUNK, size - start)


def stored(path: Path) -> list[tuple[int, int]]:
    """(guest offset, file offset) of some stored bytes of the image itself, in every data extent."""
    with Chain.open(str(path), Format(format_of(path))) as chain:
        top = chain.top
        return [
            (extent.offset + at, extent.host + at)
            for extent in top.extents(0, top.virtual_size)
            if extent.kind == Kind.DATA
            for at in (0, extent.length // 2, extent.length - 1)
        ]


def flip(path: Path, offset: int, bit: int) -> None:
    """As a disk would: without the file system noticing."""
    status = path.stat()
    patch(path, offset, bytes([path.read_bytes()[offset] ^ 1 << bit]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.fixture
def master(world: World) -> Path:
    path = create(world.images / "master.raw", SIZE)
    draw(path, "AB-oC---D")
    apply(path, [Op("write", 10 * CHUNK + 512, 5000, 3), Op("write", SIZE - 512, 512, 7)])
    return path


# -- bits --------------------------------------------------------------------------------------------


@qemu
@pytest.mark.parametrize("suffix", ["raw", "qcow2", "qed"])
def test_every_flipped_bit_of_a_master(world: World, master: Path, suffix: str) -> None:
    path = master if suffix == "raw" else convert(master, world.images / f"copy.{suffix}", cluster_size=4096)
    world.known(path)
    assert damage_of(world, path) == []
    chance = random.Random(7)
    places = stored(path)
    assert len(places) >= 12
    for guest, host in places:
        bit = chance.randrange(8)
        flip(path, host, bit)
        assert damage_of(world, path) == [chunk_of(guest)]
        flip(path, host, bit)
    assert damage_of(world, path) == []


@qemu
@pytest.mark.parametrize("suffix", ["qcow2", "qed"])
@pytest.mark.parametrize("cluster_size", [4096, 65536])
def test_every_flipped_bit_of_an_overlay(world: World, master: Path, suffix: str, cluster_size: int) -> None:
    path = create(world.images / f"vm.{suffix}", backing=master, cluster_size=cluster_size)
    apply(
        path,
        [Op("write", 512, 512, 1), Op("write", 5 * CHUNK, 3 * CHUNK, 2), Op("write", SIZE - 512, 512, 3)],
    )
    world.known(path)
    for guest, host in stored(path):
        flip(path, host, 3)
        assert damage_of(world, path) == [chunk_of(guest)]
        flip(path, host, 3)
    # And below it: what shows through is named, and so is what the overlay hides.
    for guest in (4 * CHUNK + 5, CHUNK + 9, 100, 5 * CHUNK):
        flip(master, guest, 0)
        assert damage_of(world, path) == [chunk_of(guest)]
        flip(master, guest, 0)
    assert damage_of(world, path) == []


@qemu
def test_neighbours_are_named_together(world: World, master: Path) -> None:
    world.known(master)
    for at in (3, 4, 8, 16):
        flip(master, at * CHUNK if at < 16 else SIZE - 1, 1)
    expected = [(3 * CHUNK, 2 * CHUNK), (8 * CHUNK, CHUNK), (16 * CHUNK, 1536)]
    assert damage_of(world, master) == expected
    assert damage_of(world, master) == expected, "verifying must not forget what the image should be"


# -- what else can have happened ---------------------------------------------------------------------


@qemu
def test_rot_and_use_are_told_apart(world: World, master: Path) -> None:
    world.known(master)
    assert not verify(world.library, str(master), now=NOW).touched
    patch(master, 0, b"new")
    verdict = verify(world.library, str(master), now=NOW)
    assert verdict.touched and verdict.damage == (Damage(0, CHUNK),)


@qemu
def test_use_of_the_master_is_not_use_of_the_overlay(world: World, master: Path) -> None:
    path = create(world.images / "vm.qcow2", backing=master)
    apply(path, [Op("write", CHUNK, 512, 7)])
    world.known(path)
    patch(master, 4 * CHUNK, b"new")
    verdict = verify(world.library, str(path), now=NOW)
    assert (verdict.touched, verdict.below) == (False, True) and verdict.damage


@qemu
def test_a_touched_file_that_is_whole_is_known_again(world: World, master: Path) -> None:
    before = world.known(master)
    os.utime(master, (1, 1))
    assert world.library.known(master) is None
    verdict = verify(world.library, str(master), now=NOW + 5)
    assert verdict.touched and not verdict.damage
    row = world.library.known(master)
    assert row is not None and (row.disk, row.verified_at) == (before.disk.id, NOW + 5)


@qemu
@pytest.mark.parametrize("size", [SIZE + 512, SIZE + 3 * MIB, SIZE - 512, CHUNK])
def test_another_size_is_damage_even_if_it_is_zeros(world: World, master: Path, size: int) -> None:
    with open(master, "r+b") as file:
        file.truncate(SIZE - MIB)
        file.truncate(SIZE)
    world.known(master)
    os.truncate(master, size)
    found = damage_of(world, master)
    low, high = sorted((size, SIZE))
    covered = [(start, start + length) for start, length in found]
    assert covered and covered[-1][1] == high
    assert all(one[1] < other[0] for one, other in pairwise(covered))
    assert covered[-1][0] <= low


@qemu
def test_a_layer_that_says_the_same_in_another_way_is_told(world: World, master: Path) -> None:
    """Its guest sees no difference, but it is not the layer that was published."""
    path = create(world.images / "vm.qcow2", backing=master, cluster_size=65536)
    world.known(path)
    assert damage_of(world, path) == []
    draw(path, "-" * 5 + "0")
    assert damage_of(world, path) == [(5 * CHUNK, CHUNK)]


@qemu
def test_an_overlay_put_on_another_master_is_told(world: World, master: Path) -> None:
    path = create(world.images / "vm.qcow2", backing=master)
    draw(path, "Z")
    world.known(path)
    other = convert(master, world.images / "other.raw")
    patch(other, 10, b"hidden by the overlay")
    master.unlink()
    other.rename(master)
    assert damage_of(world, path) == [(0, CHUNK)]


@qemu
def test_nothing_known_nothing_compared(world: World, master: Path) -> None:
    with pytest.raises(NotFoundError):
        verify(world.library, str(master), now=NOW)


# -- the comparison itself ---------------------------------------------------------------------------


def page_list(rows: dict[int, bytes], count: int, last: int) -> tuple[PageList, dict[bytes, bytes]]:
    kept: dict[bytes, bytes] = {}
    size = (count - 1) * CHUNK + last
    builder = PageListBuilder(virtual_size=size, unit=CHUNK, parent=None, keep=kept.__setitem__)
    for first in range(0, count, PAGE_UNITS):
        units = range(first, min(count, first + PAGE_UNITS))
        builder.add(first // PAGE_UNITS, b"".join(rows.get(unit, ZERO) for unit in units))
    return builder.build(), kept


CHUNKS = st.integers(0, 6) | st.integers(PAGE_UNITS - 3, PAGE_UNITS + 3)
ROWS = st.dictionaries(CHUNKS, st.sampled_from([b"a" * 32, b"b" * 32]), max_size=6)
COUNTS = st.sampled_from([1, 2, 5, PAGE_UNITS - 1, PAGE_UNITS, PAGE_UNITS + 1, PAGE_UNITS + 4])
LASTS = st.sampled_from([512, CHUNK - 512, CHUNK])


@settings(max_examples=60)
@given(ROWS, ROWS, COUNTS, COUNTS, LASTS, LASTS)
def test_differences(
    left: dict[int, bytes], right: dict[int, bytes], count: int, other: int, last: int, other_last: int
) -> None:
    a, kept = page_list(left, count, last)
    b, more = page_list(right, other, other_last)
    found = [*differences(a, b, (kept | more).__getitem__)]
    ends = [(one.offset, one.offset + one.length) for one in found]
    assert all(start < end for start, end in ends)
    assert all(one[1] < two[0] for one, two in pairwise(ends)), "runs are joined"
    low, high = sorted((a.virtual_size, b.virtual_size))
    expected = set()
    for unit in range(max(count, other)):
        if unit * CHUNK < low and left.get(unit, ZERO) != right.get(unit, ZERO):
            expected |= set(range(unit * CHUNK, min((unit + 1) * CHUNK, high), 512))
    expected |= set(range(low, high, 512))
    assert {at for start, end in ends for at in range(start, end, 512)} == expected
    assert bool(found) == (a.id != b.id)
