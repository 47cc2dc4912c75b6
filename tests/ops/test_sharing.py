"""Units of images here that a new file shares instead of copying them: on real file systems, and verified."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from overlaysync.errors import NoSpaceError, OverlaysyncError
from overlaysync.formats.chain import Chain
from overlaysync.formats.image import Format
from overlaysync.model.datamap import DataMap
from overlaysync.model.pages import PageList
from overlaysync.ops import assemble, local
from overlaysync.ops.assemble import Assembly
from overlaysync.ops.known import Known
from overlaysync.ops.local import LocalCopier, LocalSource
from overlaysync.ops.part_files import target_for
from overlaysync.store.partial import PartFile
from overlaysync.units import CHUNK, KIB, MIB
from tests.filesystems import REFLINKS, entered, mounted, shared, used
from tests.images import Op, apply, content, convert, create, format_of, patch
from tests.ops.world import World, hidden_files, is_clean

pytestmark = [pytest.mark.qemu, pytest.mark.reflink]

COUNT = 40
SIZE = COUNT * CHUNK


@pytest.fixture(params=REFLINKS)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """A world on a file system that can share blocks."""
    with mounted(request.param, tmp_path) as (made, point), entered(made):
        world = World.make(point / "world")
        yield world
        world.catalog.close()


def distinct(seed: int, count: int = COUNT) -> bytes:
    """``count`` chunks, no two alike."""
    return b"".join((seed << 32 | number).to_bytes(8, "little") * (CHUNK // 8) for number in range(count))


def raw(world: World, name: str, data: bytes) -> Path:
    path = world.images / name
    path.write_bytes(data)
    return path


def start(
    world: World, pages: PageList, path: Path, *, cluster_size: int = CHUNK, **backing: object
) -> Assembly:
    format = Format(format_of(path))
    target = target_for(pages, format=format, cluster_size=cluster_size, **backing)  # type: ignore[arg-type]
    return Assembly.open(path, target, DataMap(pages, world.library.load_page), world.home.journals)


def take(
    world: World, wanted: Known, source: Path, known: Known, path: Path, *, cluster_size: int = CHUNK
) -> set[int]:
    """Write ``wanted`` to ``path`` from ``source``; what is missing. If nothing is, it is finished."""
    assembly = start(world, wanted.disk, path, cluster_size=cluster_size)
    try:
        with Chain.open(str(source)) as chain:
            done: list[int] = []
            size = LocalCopier(assembly, world.library.load_page, done.append).take(
                LocalSource(chain, known.disk)
            )
        assert size == assembly.written - assembly.resumed == sum(done)
        missing = {slot for first, count in assembly.missing() for slot in range(first, first + count)}
        if not missing:
            os.close(assembly.finish(mode=0o644))
    finally:
        assembly.close()
    return missing


def take_same(world: World, data: bytes, path: Path) -> set[int]:
    """Write ``data`` to ``path`` from a raw image of the same content."""
    source = raw(world, "source.raw", data)
    known = world.known(source)
    return take(world, known, source, known, path)


# -- what is shared ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "cluster_size"),
    [
        ("new.raw", CHUNK),
        ("new.qcow2", CHUNK),
        ("new.qcow2", 4 * KIB),
        ("new.qcow2", 256 * KIB),
        ("new.qed", CHUNK),
    ],
)
@pytest.mark.slow
def test_the_same_content_takes_no_room_in_any_format(disk: World, name: str, cluster_size: int) -> None:
    data = distinct(1)
    source = raw(disk, "source.raw", data)
    known, path = disk.known(source), disk.images / name
    before = used(disk.images)
    assert take(disk, known, source, known, path, cluster_size=cluster_size) == set()
    assert shared(path) == SIZE
    assert used(disk.images) < before + MIB
    assert content(path) == data and is_clean(path)
    assert hidden_files(disk.images) == []


def test_what_changed_is_missing_and_the_rest_shared(disk: World) -> None:
    old, new = distinct(1), bytearray(distinct(1))
    for chunk in (0, 7, 8, 39):
        new[chunk * CHUNK + 100] ^= 0xFF
    wanted, source = raw(disk, "wanted.raw", bytes(new)), raw(disk, "old.raw", old)
    path = disk.images / "new.raw"
    assert take(disk, disk.known(wanted), source, disk.known(source), path) == {0, 7, 8, 39}
    assert shared(path.with_name(".new.raw.part")) == SIZE - 4 * CHUNK


@pytest.mark.slow
def test_data_elsewhere_are_shared_too(disk: World) -> None:
    wanted = raw(disk, "wanted.raw", distinct(2, 3) + distinct(1))
    source, path = raw(disk, "old.raw", distinct(1)), disk.images / "new.qcow2"
    assert take(disk, disk.known(wanted), source, disk.known(source), path) == {0, 1, 2}
    assert shared(path.with_name(".new.qcow2.part")) == SIZE


def test_parts_of_a_chunk_are_copied(disk: World) -> None:
    data = distinct(1)[:-CHUNK] + b"end" * 512
    path = disk.images / "new.raw"
    assert take_same(disk, data, path) == set()
    assert shared(path) == SIZE - CHUNK
    assert path.read_bytes() == data


@pytest.mark.slow
def test_a_promoted_overlay_shares_with_itself_and_its_master(disk: World) -> None:
    master = raw(disk, "master.raw", distinct(1))
    overlay = create(disk.images / "vm.qcow2", backing=master, cluster_size=4096)
    apply(overlay, [Op("write", 4096, 4096, 9), Op("write", 8 * CHUNK, 4 * CHUNK, 8)])
    expected, path = content(overlay), disk.images / "new.qcow2"
    promoted = disk.promote(overlay, path)
    # Of the first chunk a part lies in each of both files.
    assert shared(path) == SIZE - CHUNK
    assert content(path) == expected and is_clean(path)
    assert disk.known(path, fresh=True).disk.id == promoted.disk.id


@pytest.mark.slow
def test_a_layer_is_shared_in_its_granules(disk: World) -> None:
    master = raw(disk, "base.raw", distinct(1))
    overlay = create(disk.images / "vm.qcow2", backing=master, cluster_size=4096)
    apply(overlay, [Op("write", 4096, 8192, 9), Op("write", 3 * CHUNK, CHUNK, 8)])
    layer, path = disk.known(overlay).layer, disk.images / "new.qcow2"
    assert layer is not None
    base = {"backing_name": b"base.raw", "backing_format": Format.RAW}
    assembly = start(disk, layer, path, cluster_size=4096, **base)
    try:
        with Chain.open(str(overlay)) as chain:
            LocalCopier(assembly, disk.library.load_page).take(LocalSource(chain, layer))
        os.close(assembly.finish(mode=0o644))
    finally:
        assembly.close()
    assert shared(path) == 8192 + CHUNK
    assert content(path) == content(overlay) and is_clean(path)


def test_compressed_clusters_and_holes_are_copied(disk: World) -> None:
    data = distinct(1, 8) + bytes(8 * CHUNK) + distinct(2, 8)
    wanted = raw(disk, "wanted.raw", data)
    source = convert(wanted, disk.images / "source.qcow2", compress=True)
    path = disk.images / "new.qcow2"
    assert take(disk, disk.known(wanted), source, disk.known(source), path) == set()
    assert shared(path) == 0
    assert content(path) == data and is_clean(path)


def test_ranges_grow_once_the_file_system_has_agreed(disk: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (assemble, local):
        monkeypatch.setattr(module, "BATCH", 2 * CHUNK)
    lengths: list[int] = []
    real = PartFile.clone

    def clone(part: PartFile, source: int, source_offset: int, length: int, offset: int) -> bool:
        lengths.append(length)
        return real(part, source, source_offset, length, offset)

    monkeypatch.setattr(PartFile, "clone", clone)
    monkeypatch.setattr(local, "_COPIERS", 1)
    assert take_same(disk, distinct(1), disk.images / "new.raw") == set()
    assert lengths[0] == 2 * CHUNK and max(lengths) > SIZE // 2
    assert sum(lengths) == SIZE


# -- sources that change -----------------------------------------------------------------------------


def around_clones(
    monkeypatch: pytest.MonkeyPatch, *, before: Callable[[], object] = int, after: Callable[[], object] = int
) -> None:
    """Do something before and after each clone."""
    real = PartFile.clone

    def clone(part: PartFile, source: int, source_offset: int, length: int, offset: int) -> bool:
        before()
        done = real(part, source, source_offset, length, offset)
        after()
        return done

    monkeypatch.setattr(PartFile, "clone", clone)


def test_a_source_that_changes_after_it_was_shared_changes_nothing(
    disk: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = disk.images / "new.raw"
    monkeypatch.setattr(local, "_COPIERS", 1)
    around_clones(monkeypatch, after=lambda: patch(disk.images / "source.raw", 3 * CHUNK, b"changed"))
    assert take_same(disk, distinct(1), path) == set()
    assert path.read_bytes() == distinct(1)
    assert (disk.images / "source.raw").read_bytes() != distinct(1)


@pytest.mark.red_without("R6", "blocks that are shared with a file being written are not verified")
@pytest.mark.slow
def test_of_a_source_that_is_being_written_only_what_is_right_is_kept(
    disk: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, path = distinct(1), disk.images / "new.raw"
    chunks = iter(range(0, COUNT, 3))

    def write() -> None:
        patch(disk.images / "source.raw", next(chunks, 0) * CHUNK + 4 * KIB, b"changed")

    monkeypatch.setattr(local, "_COPIERS", 1)
    for module in (assemble, local):
        monkeypatch.setattr(module, "BATCH", 2 * CHUNK)
    around_clones(monkeypatch, before=write, after=write)
    missing = take_same(disk, data, path)
    assert 0 in missing and len(missing) < COUNT
    part = path.with_name(".new.raw.part").read_bytes()
    for chunk in {*range(COUNT)} - missing:
        assert part[chunk * CHUNK :][:CHUNK] == data[chunk * CHUNK :][:CHUNK]


@pytest.mark.slow
def test_what_rotted_is_missing_and_what_comes_later_is_written_over_it(disk: World) -> None:
    data, path = distinct(1), disk.images / "new.qcow2"
    wanted = disk.known(raw(disk, "wanted.raw", data))
    source = raw(disk, "source.raw", data)
    known = disk.known(source)
    patch(source, 3 * CHUNK + 5, b"rot")
    assert take(disk, wanted, source, known, path) == {3}
    assert take(disk, wanted, disk.images / "wanted.raw", wanted, path) == set()
    assert content(path) == data and is_clean(path)


def test_a_source_that_shrank_is_shared_as_far_as_it_goes(disk: World) -> None:
    data = distinct(1)
    wanted = disk.known(raw(disk, "wanted.raw", data))
    source = raw(disk, "source.raw", data)
    known = disk.known(source)
    with Chain.open(str(source)) as chain:
        os.truncate(source, 16 * CHUNK + 512)
        assembly = start(disk, wanted.disk, disk.images / "new.raw")
        try:
            assert (
                LocalCopier(assembly, disk.library.load_page).take(LocalSource(chain, known.disk))
                == 16 * CHUNK
            )
        finally:
            assembly.close()


# -- file systems that do not do it ------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ext4", "tmpfs"])
def test_elsewhere_everything_is_copied(kind: str, tmp_path: Path) -> None:
    with mounted(kind, tmp_path) as (made, point), entered(made):
        world = World.make(point / "world")
        path = world.images / "new.raw"
        assert take_same(world, distinct(1), path) == set()
        assert path.read_bytes() == distinct(1)
        if kind == "ext4":
            assert shared(path) == 0
        world.catalog.close()


@pytest.mark.slow
def test_between_file_systems_everything_is_copied(disk: World, tmp_path: Path) -> None:
    source, path = tmp_path / "source.raw", disk.images / "new.raw"
    source.write_bytes(distinct(1))
    known = disk.known(source)
    assert take(disk, known, source, known, path) == set()
    assert shared(path) == 0
    assert path.read_bytes() == distinct(1)


def test_a_refusal_half_way_leaves_nothing_behind(disk: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(part: PartFile, source: int, source_offset: int, length: int, offset: int) -> bool:
        part.pwrite(offset, [b"?" * length])
        return False

    monkeypatch.setattr(PartFile, "clone", refuse)
    path = disk.images / "new.raw"
    assert take_same(disk, distinct(1), path) == set()
    assert path.read_bytes() == distinct(1)


def test_what_cannot_be_read_back_is_copied(disk: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OverlaysyncError("Cannot read it")

    monkeypatch.setattr(PartFile, "read_into", fail)
    path = disk.images / "new.raw"
    assert take_same(disk, distinct(1), path) == set()
    assert shared(path) == 0
    assert path.read_bytes() == distinct(1)


# -- stopping ----------------------------------------------------------------------------------------


def test_what_was_shared_is_kept_for_the_next_run(disk: World) -> None:
    source = raw(disk, "source.raw", distinct(1))
    known, path = disk.known(source), disk.images / "new.raw"
    assembly = start(disk, known.disk, path)
    with Chain.open(str(source)) as chain:
        LocalCopier(assembly, disk.library.load_page).take(LocalSource(chain, known.disk))
    assembly.close()
    source.unlink()
    again = start(disk, known.disk, path)
    assert again.resumed == SIZE
    os.close(again.finish(mode=0o644))
    assert path.read_bytes() == distinct(1)


def test_after_a_failed_write_nothing_is_shared_any_more(
    disk: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = raw(disk, "source.raw", distinct(1))
    known, path = disk.known(source), disk.images / "new.raw"
    assembly = start(disk, known.disk, path)

    def full(*_: object) -> int:
        raise OSError(28, "full")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwritev", full)
        with pytest.raises(NoSpaceError):
            assembly.accept(0, 1, memoryview(distinct(1)[:CHUNK]))
    with Chain.open(str(source)) as chain, pytest.raises(NoSpaceError):
        LocalCopier(assembly, disk.library.load_page).take(LocalSource(chain, known.disk))
    assembly.close()
    assert start(disk, known.disk, path).resumed == 0


def test_what_is_held_already_is_left_alone(disk: World) -> None:
    data = distinct(1)
    known = disk.known(raw(disk, "wanted.raw", data))
    other = raw(disk, "other.raw", distinct(2))
    assembly = start(disk, known.disk, disk.images / "new.raw")
    try:
        assert assembly.accept(3, 2, memoryview(data[3 * CHUNK : 5 * CHUNK])) == []
        with open(other, "rb") as file:
            assert assembly.share(0, COUNT, file.fileno(), 0, memoryview(bytearray(MIB))) == 0
        assert [*assembly.missing()] == [(0, 3), (5, COUNT - 5)]
        part = (disk.images / ".new.raw.part").read_bytes()
        assert part[3 * CHUNK : 5 * CHUNK] == data[3 * CHUNK : 5 * CHUNK]
        assert part[: 3 * CHUNK] == distinct(2)[: 3 * CHUNK]
    finally:
        assembly.close()
