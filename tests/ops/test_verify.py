"""Verify: every flipped bit is found and named by guest offset; what is whole is not accused."""

from __future__ import annotations

import os
import random
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlaysync.errors import BaseImageError, NotFoundError
from overlaysync.formats.chain import Chain
from overlaysync.formats.image import Format
from overlaysync.model.digest import ZERO, Kind, format_id
from overlaysync.model.pages import PageList, PageListBuilder
from overlaysync.ops.expected import Basis
from overlaysync.ops.publish import Publisher
from overlaysync.ops.verify import Damage, differences, verify
from overlaysync.trust.envelope import Manifest
from overlaysync.trust.keys import load_or_make
from overlaysync.units import CHUNK, MIB, PAGE_UNITS
from tests.images import Op, apply, convert, create, draw, format_of, patch
from tests.ops.world import NOW, World
from tests.torture.rot import as_if_unseen

pytestmark = [pytest.mark.holds("R6"), pytest.mark.holds("C2")]

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


def flip(world: World, path: Path, offset: int, bit: int) -> None:
    """As a disk would: without the file system noticing."""
    patch(path, offset, bytes([path.read_bytes()[offset] ^ 1 << bit]))
    as_if_unseen(world.catalog, path)


@pytest.fixture
def master(world: World) -> Path:
    path = create(world.images / "master.raw", SIZE)
    draw(path, "AB-oC---D")
    apply(path, [Op("write", 10 * CHUNK + 512, 5000, 3), Op("write", SIZE - 512, 512, 7)])
    return path


# -- bits --------------------------------------------------------------------------------------------


@pytest.mark.red_without("R6", "`verify` compares no units (so it blames the whole image)")
@qemu
@pytest.mark.parametrize("suffix", ["raw", "qcow2", "qed"])
@pytest.mark.slow
def test_every_flipped_bit_of_a_master(world: World, master: Path, suffix: str) -> None:
    path = master if suffix == "raw" else convert(master, world.images / f"copy.{suffix}", cluster_size=4096)
    world.known(path)
    assert damage_of(world, path) == []
    chance = random.Random(7)
    places = stored(path)
    assert len(places) >= 12
    for guest, host in places:
        bit = chance.randrange(8)
        flip(world, path, host, bit)
        assert damage_of(world, path) == [chunk_of(guest)]
        flip(world, path, host, bit)
    assert damage_of(world, path) == []


@qemu
@pytest.mark.parametrize("suffix", ["qcow2", "qed"])
@pytest.mark.parametrize("cluster_size", [4096, 65536])
@pytest.mark.slow
def test_every_flipped_bit_of_an_overlay(world: World, master: Path, suffix: str, cluster_size: int) -> None:
    path = create(world.images / f"vm.{suffix}", backing=master, cluster_size=cluster_size)
    apply(
        path,
        [Op("write", 512, 512, 1), Op("write", 5 * CHUNK, 3 * CHUNK, 2), Op("write", SIZE - 512, 512, 3)],
    )
    world.known(path)
    for guest, host in stored(path):
        flip(world, path, host, 3)
        assert damage_of(world, path) == [chunk_of(guest)]
        flip(world, path, host, 3)
    # And below it: what shows through is named, and so is what the overlay hides.
    for guest in (4 * CHUNK + 5, CHUNK + 9, 100, 5 * CHUNK):
        flip(world, master, guest, 0)
        assert damage_of(world, path) == [chunk_of(guest)]
        flip(world, master, guest, 0)
    assert damage_of(world, path) == []


@qemu
def test_neighbours_are_named_together(world: World, master: Path) -> None:
    world.known(master)
    for at in (3, 4, 8, 16):
        flip(world, master, at * CHUNK if at < 16 else SIZE - 1, 1)
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
def test_a_master_that_was_written_to_is_another_master(world: World, master: Path) -> None:
    path = create(world.images / "vm.qcow2", backing=master)
    apply(path, [Op("write", CHUNK, 512, 7)])
    before = world.known(path)
    patch(master, 4 * CHUNK, b"new")
    with pytest.raises(BaseImageError) as caught:
        verify(world.library, str(path), now=NOW)
    assert before.parent is not None and format_id(before.parent.disk.id) in str(caught.value)
    accepted = verify(world.library, str(path), now=NOW, accept_master=True)
    assert (accepted.touched, accepted.below) == (False, True)
    assert accepted.damage == (Damage(4 * CHUNK, CHUNK),)
    with pytest.raises(BaseImageError):
        verify(world.library, str(path), now=NOW)


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
    with pytest.raises(BaseImageError):
        damage_of(world, path)
    verdict = verify(world.library, str(path), now=NOW, accept_master=True)
    assert verdict.damage == (Damage(0, CHUNK),)


# -- as what -----------------------------------------------------------------------------------------


def published(world: World, path: Path, name: str | None = None) -> Manifest:
    publisher = Publisher(world.library, load_or_make(world.home.node_key), "ann@lab-abc234")
    return publisher.publish(world.known(path), team=None, name=name, created="2025-01-31T12:00:00Z")


@qemu
def test_looking_at_a_damaged_master_does_not_make_the_damage_its_content(world: World, master: Path) -> None:
    published(world, master, "web")
    verdict = verify(world.library, str(master), now=NOW)
    assert (verdict.expected.words, verdict.damage) == ("as it was when published as web:1", ())
    patch(master, 0, b"new")
    world.known(master)
    for _ in range(2):
        verdict = verify(world.library, str(master), now=NOW)
        assert verdict.touched and verdict.damage == (Damage(0, CHUNK),)
        assert verdict.expected.words == "as it was when published as web:1"


@qemu
@pytest.mark.parametrize("how", ["stood on", "only read"])
def test_what_was_published_under_another_path_is_not_called_unpublished(
    world: World, master: Path, how: str
) -> None:
    published(world, master, "web")
    moved = master.rename(world.images / "moved.raw")
    if how == "stood on":
        world.new(world.images / "vm.qcow2", moved)
    world.known(moved)
    words = verify(world.library, str(moved), now=NOW).expected.words
    assert words.startswith("as it was published: web:1 by ann@lab-abc234 (")


@qemu
def test_a_new_version_is_what_counts_from_then_on(world: World, master: Path) -> None:
    published(world, master, "web")
    patch(master, 0, b"new")
    assert published(world, master).header.version == 2
    verdict = verify(world.library, str(master), now=NOW)
    assert (verdict.expected.words, verdict.damage, verdict.touched) == (
        "as it was when published as web:2",
        (),
        False,
    )


@qemu
def test_a_published_overlay_is_compared_with_its_layer(world: World, master: Path) -> None:
    path = create(world.images / "vm.qcow2", backing=master)
    apply(path, [Op("write", CHUNK, 512, 7)])
    published(world, path)
    assert damage_of(world, path) == []
    apply(path, [Op("write", 5 * CHUNK, 512, 8)])
    world.known(path)
    verdict = verify(world.library, str(path), now=NOW)
    assert verdict.touched and verdict.damage == (Damage(5 * CHUNK, CHUNK),)


@qemu
@pytest.mark.parametrize("how", ["in place", "another file"])
def test_a_master_is_compared_with_what_overlays_were_made_on(world: World, master: Path, how: str) -> None:
    """Never published: the overlays on it know what it was."""
    vm = create(world.images / "vm.qcow2", backing=master)
    world.known(vm)
    if how == "another file":
        other = convert(master, world.images / "other.raw")
        other.rename(master)
    patch(master, 0, b"new")
    world.known(master)
    verdict = verify(world.library, str(master), now=NOW)
    assert verdict.expected.basis is Basis.STOOD_ON and str(vm) in verdict.expected.words
    assert verdict.touched and verdict.damage == (Damage(0, CHUNK),)
    vm.unlink()
    assert verify(world.library, str(master), now=NOW).damage == (), "nothing stands on it any more"


@qemu
def test_a_master_with_overlays_of_two_times_is_right_as_either(world: World, master: Path) -> None:
    before = master.read_bytes()[:3]
    world.known(create(world.images / "old.qcow2", backing=master))
    patch(master, 0, b"new")
    world.library.examine(create(world.images / "new.qcow2", backing=master), now=NOW + 1)
    assert damage_of(world, master) == []
    patch(master, 0, before)
    assert damage_of(world, master) == []
    patch(master, 0, b"odd")
    assert damage_of(world, master) == [(0, CHUNK)]


@qemu
def test_a_master_made_here_must_stay_as_it_was_made(world: World, master: Path) -> None:
    vm = create(world.images / "vm.qcow2", backing=master)
    apply(vm, [Op("write", CHUNK, 512, 7)])
    made = world.images / "made.raw"
    world.promote(vm, made)
    made.chmod(0o644)
    patch(made, 0, b"new")
    world.known(made)
    verdict = verify(world.library, str(made), now=NOW)
    assert verdict.expected.basis is Basis.MADE and verdict.damage == (Damage(0, CHUNK),)


@qemu
@pytest.mark.slow
def test_what_a_path_held_before_says_nothing_of_what_is_made_there(world: World, master: Path) -> None:
    vm = create(world.images / "vm.qcow2", backing=master)
    apply(vm, [Op("write", CHUNK, 512, 7)])
    published(world, vm)
    other = convert(master, world.images / "other.raw")
    patch(other, 4 * CHUNK, b"other")
    other.chmod(0o444)
    world.rebase(vm, other, vm, replace=True)
    assert damage_of(world, vm) == []
    made = world.images / "made.raw"
    made.write_bytes(master.read_bytes())
    published(world, made)
    made.unlink()
    world.promote(vm, made)
    assert damage_of(world, made) == []
    assert published(world, made).header.version == 2, "it follows what was there"


@qemu
def test_reading_it_whole_tells_use_from_rot_again(world: World, master: Path) -> None:
    """A file whose times alone changed is unchanged; what differs later is rot."""
    published(world, master)
    os.utime(master, (1, 1))
    assert verify(world.library, str(master), now=NOW).touched
    assert not verify(world.library, str(master), now=NOW).touched


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
@pytest.mark.slow
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
