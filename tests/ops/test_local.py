"""Local sources: what an image here already holds is taken from it, wherever it lies, and verified."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from overlaysync.errors import StoppedError
from overlaysync.formats.chain import Chain
from overlaysync.formats.image import Format
from overlaysync.model.datamap import DataMap
from overlaysync.ops import local
from overlaysync.ops.assemble import Assembly
from overlaysync.ops.known import Known
from overlaysync.ops.local import LocalCopier, LocalSource
from overlaysync.ops.part_files import target_for
from overlaysync.units import CHUNK, MIB, PAGE_UNITS
from tests.images import Op, apply, content, convert, create, draw, patch
from tests.ops.world import World, hidden_files

pytestmark = pytest.mark.qemu


def distinct(seed: int, count: int) -> bytes:
    """``count`` chunks, no two alike."""
    return b"".join((seed << 32 | number).to_bytes(8, "little") * (CHUNK // 8) for number in range(count))


@contextmanager
def assembling(world: World, wanted: Known, path: Path, *, layer: bool = False) -> Iterator[Assembly]:
    """``wanted`` being written to ``path``."""
    pages = wanted.layer if layer and wanted.layer else wanted.disk
    backing = {"backing_name": b"base.raw", "backing_format": Format.RAW} if layer else {}
    target = target_for(pages, format=Format.QCOW2, cluster_size=4096, **backing)  # type: ignore[arg-type]
    assembly = Assembly.open(path, target, DataMap(pages, world.library.load_page), world.home.journals)
    try:
        yield assembly
    finally:
        assembly.close()


def taken(world: World, wanted: Known, source: Path, known: Known | None = None) -> tuple[int, set[int]]:
    """How many bytes ``source`` gave, and the slots that are still missing."""
    known = known or world.known(source)
    path = world.images / "target.qcow2"
    with assembling(world, wanted, path) as assembly, Chain.open(str(source)) as chain:
        done: list[int] = []
        size = LocalCopier(assembly, world.library.load_page, done.append).take(
            LocalSource(chain, known.disk)
        )
        missing = {slot for first, count in assembly.missing() for slot in range(first, first + count)}
        assert size == assembly.written == sum(done)
        assert assembly.data.count - len(missing) == len(assembly.have)
        if not missing:
            os.close(assembly.finish(mode=0o644))
    return size, missing


def raw(world: World, name: str, data: bytes) -> Path:
    path = world.images / name
    path.write_bytes(data)
    return path


def test_the_same_content_is_taken_whole(world: World) -> None:
    data = distinct(1, 40)[:-CHUNK] + b"end" * 512
    wanted = raw(world, "wanted.raw", data)
    source = convert(wanted, world.images / "source.qed")
    size, missing = taken(world, world.known(wanted), source)
    assert (size, missing) == (len(data), set())
    assert content(world.images / "target.qcow2") == data
    assert hidden_files(world.images) == []


def test_of_an_older_version_what_changed_is_missing(world: World) -> None:
    old = bytearray(distinct(1, 64))
    new = bytearray(old)
    for chunk in (0, 7, 8, 63):
        new[chunk * CHUNK + 100] ^= 0xFF
    size, missing = taken(
        world, world.known(raw(world, "new.raw", bytes(new))), raw(world, "old.raw", bytes(old))
    )
    assert (size, missing) == (60 * CHUNK, {0, 7, 8, 63})


def test_a_flat_copy_shares_what_the_guest_left_alone(world: World) -> None:
    master = raw(world, "master.raw", distinct(1, 32))
    copy = convert(master, world.images / "vm.qcow2")
    apply(copy, [Op("write", 5 * CHUNK, 512, 9), Op("zero", 9 * CHUNK, 2 * CHUNK)])
    size, missing = taken(world, world.known(copy), master)
    assert (size, missing) == (29 * CHUNK, {5})


def test_neighbours_at_the_same_offset_are_copied_together(world: World) -> None:
    data = distinct(1, 3) + bytes(CHUNK) + distinct(2, 70)
    wanted = world.known(raw(world, "wanted.raw", data))
    source = raw(world, "source.raw", data)
    with assembling(world, wanted, world.images / "target.qcow2") as assembly:
        found = [*LocalCopier(assembly, world.library.load_page).same_offset(wanted.disk)]
        assert [(one.first, one.count, one.offset // CHUNK) for one in found] == [
            (0, 3, 0),
            (3, 64, 4),
            (67, 6, 68),
        ]
        done: list[int] = []
        with Chain.open(str(source)) as chain:
            LocalCopier(assembly, world.library.load_page, done.append).take(LocalSource(chain, wanted.disk))
        assert [size for size in done if size] == [3 * CHUNK, 64 * CHUNK, 6 * CHUNK]


@pytest.mark.red_without(
    "F2", "planning, the local search for data, or the writing of tables does not check for an interrupt"
)
def test_planning_and_the_search_here_may_be_ended(world: World) -> None:
    """A list may name many pages, or one many times: a command that is interrupted leaves the rest."""
    wanted = world.known(raw(world, "wanted.raw", distinct(1, PAGE_UNITS) + distinct(2, PAGE_UNITS)))
    target = target_for(wanted.disk, format=Format.QCOW2, cluster_size=4096)
    path = world.images / "target.qcow2"

    def stop(size: int) -> None:
        raise StoppedError("stopped")

    with pytest.raises(StoppedError):
        Assembly.open(path, target, DataMap(wanted.disk, _no_page, progress=stop), world.home.journals)
    with assembling(world, wanted, path) as assembly, Chain.open(str(world.images / "wanted.raw")) as chain:
        copier = LocalCopier(assembly, _no_page, stop)
        for find in (copier.same_offset, copier.any_offset):
            with pytest.raises(StoppedError):
                next(find(wanted.disk))
        assert LocalCopier(assembly, world.library.load_page).take(LocalSource(chain, wanted.disk))
        with pytest.raises(StoppedError):
            assembly.finish(mode=0o644, progress=stop)


def _no_page(digest: bytes) -> bytes:
    raise AssertionError("it goes on")


def test_an_overlay_is_read_through_its_chain(world: World) -> None:
    master = raw(world, "base.raw", distinct(1, 16))
    overlay = create(world.images / "vm.qcow2", backing=master, cluster_size=4096)
    apply(overlay, [Op("write", 4096, 4096, 9)])
    wanted = raw(world, "wanted.raw", content(overlay))
    assert taken(world, world.known(wanted), overlay) == (16 * CHUNK, set())


def test_a_layer_from_an_overlay_on_another_master(world: World) -> None:
    master = raw(world, "base.raw", distinct(1, 16))
    other = raw(world, "other.raw", distinct(2, 16))
    ops = [Op("write", 4096, 8192, 9), Op("write", 3 * CHUNK, CHUNK, 8)]
    paths = []
    for name, base in (("vm", master), ("source", other)):
        path = create(world.images / f"{name}.qcow2", backing=base, cluster_size=4096)
        apply(path, ops)
        paths.append(path)
    wanted, source = (world.known(path) for path in paths)
    assert wanted.layer is not None and source.layer is not None and wanted.layer != source.layer
    with assembling(world, wanted, world.images / "target.qcow2", layer=True) as assembly:
        with Chain.open(str(paths[1])) as chain:
            size = LocalCopier(assembly, world.library.load_page).take(LocalSource(chain, source.layer))
            assert size == 8192 + CHUNK == assembly.data.size
            assert LocalCopier(assembly, world.library.load_page).take(LocalSource(chain, source.disk)) == 0
        os.close(assembly.finish(mode=0o644))
    assert content(world.images / "target.qcow2") == content(paths[0])


@pytest.mark.parametrize("shift", [1, 5, -3])
def test_the_same_data_elsewhere(world: World, shift: int) -> None:
    data = distinct(1, 24)
    moved = bytes(shift * CHUNK) + data if shift > 0 else data[-shift * CHUNK :]
    size, missing = taken(world, world.known(raw(world, "wanted.raw", moved)), raw(world, "source.raw", data))
    assert missing == set() and size == len(moved) - max(0, shift) * CHUNK


def test_one_chunk_here_many_times_there(world: World) -> None:
    once = distinct(3, 1)
    wanted = raw(world, "wanted.raw", once * 50)
    assert taken(world, world.known(wanted), raw(world, "source.raw", bytes(CHUNK) + once)) == (
        50 * CHUNK,
        set(),
    )


def test_repeats_on_both_sides_cost_their_sum(world: World) -> None:
    once = distinct(3, 1)
    wanted = world.known(raw(world, "wanted.raw", bytes(CHUNK * 200) + once * 200))
    source = world.known(raw(world, "source.raw", once * 200))
    with assembling(world, wanted, world.images / "target.qcow2") as assembly:
        copies = [*LocalCopier(assembly, world.library.load_page).any_offset(source.disk)]
    assert len(copies) == 200


def test_pages_of_the_source_are_read_once_however_scattered_what_is_missing(world: World) -> None:
    count = 200
    data = bytearray(distinct(1, count))
    for chunk in range(0, count, 2):
        data[chunk * CHUNK] ^= 0xFF
    wanted = world.known(raw(world, "wanted.raw", bytes(data)))
    source = world.known(raw(world, "source.raw", distinct(1, count)))
    loads: list[bytes] = []

    def load(digest: bytes) -> bytes:
        loads.append(digest)
        return world.library.load_page(digest)

    with assembling(world, wanted, world.images / "target.qcow2") as assembly:
        for first in range(1, count, 2):
            assembly.have.add(first)
        assert [*LocalCopier(assembly, load).any_offset(source.disk)] == []
    assert len(loads) == 1


def test_what_one_source_lacks_the_next_one_gives(world: World) -> None:
    """Both hold it elsewhere; the second is searched for what is missing still, and for nothing else."""
    data = distinct(1, 30)
    wanted = world.known(raw(world, "wanted.raw", data))
    taken: list[int] = []
    with assembling(world, wanted, world.images / "target.qcow2") as assembly:
        copier = LocalCopier(assembly, world.library.load_page)
        for first in (0, 10):
            path = raw(world, f"{first}.raw", bytes(CHUNK) + data[first * CHUNK : (first + 20) * CHUNK])
            known = world.known(path)
            with Chain.open(str(path)) as chain:
                taken.append(copier.take(LocalSource(chain, known.disk)))
        assert assembly.have.complete()
    assert taken == [20 * CHUNK, 10 * CHUNK]


def test_windows_cover_everything_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "WINDOW", 10)
    missing = [(0, 3), (5, 25), (40, 2), (50, 10)]
    windows = [*local.windows_of(missing)]
    assert [sum(count for _, count in window) for window in windows] == [10, 10, 10, 10]
    slots = [slot for window in windows for first, count in window for slot in range(first, first + count)]
    assert slots == [slot for first, count in missing for slot in range(first, first + count)]


# -- sources that are not what they were -------------------------------------------------------------


def test_bytes_that_rotted_are_not_taken(world: World) -> None:
    data = distinct(1, 16)
    wanted = world.known(raw(world, "wanted.raw", data))
    source = raw(world, "source.raw", data)
    known = world.known(source)
    patch(source, 3 * CHUNK + 5, b"rot")
    assert taken(world, wanted, source, known) == (15 * CHUNK, {3})


def test_a_source_that_shrank(world: World) -> None:
    data = distinct(1, 16)
    wanted = world.known(raw(world, "wanted.raw", data))
    source = raw(world, "source.raw", data)
    known = world.known(source)
    os.truncate(source, 512)
    assert taken(world, wanted, source, known)[1] >= set(range(1, 16))


@pytest.mark.slow
def test_a_source_whose_compressed_clusters_are_damaged(world: World) -> None:
    data = b"".join(bytes([number + 1]) * (MIB // 2) + distinct(number + 1, 8) for number in range(4))
    wanted = raw(world, "wanted.raw", data)
    source = convert(wanted, world.images / "source.qcow2", compress=True)
    known = world.known(source)
    with Chain.open(str(source)) as chain:
        extent = [one for one in chain.top.extents(0, len(data)) if one.stored][11]
    patch(source, extent.host, b"\xff" * 20)
    size, missing = taken(world, world.known(wanted), source, known)
    assert extent.offset // CHUNK in missing and 0 < size < len(data)


def test_an_image_of_another_unit_gives_nothing(world: World) -> None:
    master = raw(world, "base.raw", distinct(1, 8))
    overlay = create(world.images / "vm.qcow2", backing=master, cluster_size=4096)
    draw(overlay, "Z", unit=4096)
    layer = world.known(overlay).layer
    assert layer is not None
    wanted = world.known(master)
    with assembling(world, wanted, world.images / "target.qcow2") as assembly:
        with Chain.open(str(overlay)) as chain:
            assert LocalCopier(assembly, world.library.load_page).take(LocalSource(chain, layer)) == 0
