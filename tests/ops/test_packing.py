"""Packed masters: QEMU finds nothing wrong with them, and the same disk, whatever their clusters hold."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from overlaysync.errors import NoSpaceError, StoppedError, VerificationError
from overlaysync.formats.compressed import deflate
from overlaysync.formats.image import Compression, Format
from overlaysync.formats.layout import Target
from overlaysync.formats.qcow2_packed import PackedImage
from overlaysync.model.datamap import DataMap
from overlaysync.model.digest import Kind
from overlaysync.ops.assemble import Assembly
from overlaysync.ops.known import Known
from overlaysync.ops.local import LocalCopier, LocalSource
from overlaysync.ops.packing import Packing
from overlaysync.ops.part_files import target_for
from overlaysync.units import CHUNK, GIB, KIB, MIB
from tests.images import check, content, convert
from tests.ops.world import NOW, World, hidden_files

pytestmark = [pytest.mark.qemu, pytest.mark.holds("F4")]


def mixture(seed: int, size: int) -> bytes:
    """Text, noise and zeros in pieces of any size: clusters that shrink much, little, not at all."""
    chance = np.random.default_rng(seed)
    parts, done = [], 0
    while done < size:
        length = int(chance.choice([512, 5_000, 70_000, 300_000]))
        kind = chance.integers(4)
        if kind == 0:
            part = bytes(length)
        elif kind == 1:
            part = chance.bytes(length)
        else:
            part = (b"line %d of a log file\n" % done) * (length // 16 + 1)
        parts.append(part[:length])
        done += length
    return b"".join(parts)[:size]


def whole(world: World, known: Known, path: Path, cluster_size: int = CHUNK) -> Assembly:
    """The disk of ``known``, written to a part file beside ``path``."""
    target = target_for(known.disk, format=Format.QCOW2, cluster_size=cluster_size)
    assembly = Assembly.open(path, target, DataMap(known.disk, world.library.load_page), world.home.journals)
    with world.library.open_known(known) as chain:
        LocalCopier(assembly, world.library.load_page).take(LocalSource(chain, known.disk))
    return assembly


def packed(
    world: World, known: Known, path: Path, packing: Packing, cluster_size: int = CHUNK
) -> tuple[Known, list[int]]:
    """The image at ``path``, as fetch makes and remembers it, and the progress it told of."""
    told: list[int] = []
    assembly = whole(world, known, path, cluster_size)
    try:
        assembly.pack(packing, told.append)
        file = assembly.finish(mode=0o444)
    finally:
        assembly.close()
    made = world.library.remember(str(path), Format.QCOW2, known.disk, known.disk, file=file, now=NOW)
    return made, told


@pytest.mark.parametrize("compression", list(Compression))
@pytest.mark.parametrize("cluster_size", [512, 4 * KIB, 64 * KIB, 256 * KIB, 2 * MIB])
@pytest.mark.slow
def test_qemu_finds_nothing_wrong(tmp_path: Path, cluster_size: int, compression: Compression) -> None:
    world = World.make(tmp_path)
    source, path = world.images / "disk.raw", world.images / "packed.qcow2"
    # More than one L2 table of small clusters, and an end inside a cluster.
    source.write_bytes(mixture(cluster_size, 5 * MIB + 1536))
    known = world.known(source)

    made, told = packed(world, known, path, Packing(compression, 0), cluster_size)

    assert check(path) == 0
    assert content(path) == source.read_bytes()
    assert hidden_files(world.images) == [] and list(world.home.journals.iterdir()) == []
    assert path.stat().st_mode & 0o777 == 0o444
    assert sum(told) == DataMap(known.disk, world.library.load_page).size
    # What the reader makes of it, from the file itself.
    again = world.known(path, fresh=True)
    assert again.content.id == made.content.id == known.disk.id
    assert again.geometry.cluster_size == cluster_size
    assert again.geometry.compression is compression
    assert world.library.known(path) is not None, "what is noted of it is of the file that has the name"


@pytest.mark.parametrize("compression", list(Compression))
@pytest.mark.slow
def test_it_is_as_small_as_qemus(tmp_path: Path, compression: Compression) -> None:
    world = World.make(tmp_path)
    source = world.images / "disk.raw"
    source.write_bytes(mixture(1, 12 * MIB))
    theirs = convert(source, world.images / "theirs.qcow2", compress=True, compression_type=str(compression))
    known = world.known(theirs)
    assert known.geometry.compression is compression

    packed(world, known, world.images / "ours.qcow2", Packing(compression, 0))

    # A few clusters that hardly shrink are left as they are.
    assert (world.images / "ours.qcow2").stat().st_size <= 1.08 * theirs.stat().st_size
    assert world.known(world.images / "ours.qcow2", fresh=True).content.id == known.content.id


@pytest.mark.slow
def test_an_empty_disk_and_one_with_all_kinds_of_ends(tmp_path: Path) -> None:
    world = World.make(tmp_path)
    contents = {
        "empty": bytes(MIB),
        "first": b"x" * 512 + bytes(3 * MIB),
        "last": bytes(3 * MIB) + b"x" * 512,
        "noise": os.urandom(3 * CHUNK + 512),
    }
    for name, body in contents.items():
        source, path = world.images / f"{name}.raw", world.images / f"{name}.qcow2"
        source.write_bytes(body)
        packed(world, world.known(source), path, Packing(Compression.ZSTD, 0))
        assert check(path) == 0
        assert content(path) == body


def test_clusters_that_do_not_shrink_are_stored_as_they_are(tmp_path: Path) -> None:
    world = World.make(tmp_path)
    source, path = world.images / "disk.raw", world.images / "packed.qcow2"
    source.write_bytes(b"".join(os.urandom(CHUNK) + b"text" * (CHUNK // 4) for _ in range(16)))
    packed(world, world.known(source), path, Packing(Compression.ZLIB, 0))
    with world.library.open(path) as chain:
        extents = [extent for _, extent in chain.extents(0, chain.virtual_size)]
    assert [bool(extent.stored) for extent in extents] == [False, True] * 16
    # All that is compressed shares one cluster of the file; header, tables and refcounts take six.
    assert path.stat().st_size == (16 + 1 + 5) * CHUNK


def test_bytes_that_rotted_in_the_part_file_get_into_no_finished_file(tmp_path: Path) -> None:
    world = World.make(tmp_path)
    source, path = world.images / "disk.raw", world.images / "packed.qcow2"
    source.write_bytes(mixture(2, 4 * MIB))
    known = world.known(source)
    assembly = whole(world, known, path)
    part = path.with_name(f".{path.name}.part")
    offset, length = next(assembly.places(assembly.data.count // 2, 1))
    with open(part, "r+b") as file:
        file.seek(offset + length // 2)
        byte = file.read(1)[0]
        file.seek(offset + length // 2)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(VerificationError, match="is not what was written"):
        assembly.pack(Packing(Compression.ZSTD, 0))
    assembly.close()
    assert hidden_files(world.images) == [part.name]

    # The next run finds out which, and takes it anew.
    assembly = whole(world, known, path)
    assert 0 < assembly.resumed < assembly.data.size
    assembly.pack(Packing(Compression.ZSTD, 0))
    os.close(assembly.finish(mode=0o444))
    assembly.close()
    assert content(path) == source.read_bytes()


def test_packing_that_is_stopped_leaves_the_part_file_alone(tmp_path: Path) -> None:
    world = World.make(tmp_path)
    source, path = world.images / "disk.raw", world.images / "packed.qcow2"
    source.write_bytes(mixture(3, 9 * MIB))
    known = world.known(source)

    def stop(size: int) -> None:
        raise StoppedError("stopped")

    assembly = whole(world, known, path)
    with pytest.raises(StoppedError):
        assembly.pack(Packing(Compression.ZSTD, 0), stop)
    assembly.close()
    assert hidden_files(world.images) == [f".{path.name}.part"]
    assembly = whole(world, known, path)
    assert assembly.resumed == assembly.data.size
    # And it can be finished as it is.
    os.close(assembly.finish(mode=0o444))
    assembly.close()
    assert check(path) == 0 and content(path) == source.read_bytes()


def test_without_room_for_both_the_part_file_is_finished_as_it_is(tmp_path: Path) -> None:
    world = World.make(tmp_path)
    source, path = world.images / "disk.raw", world.images / "plain.qcow2"
    source.write_bytes(mixture(4, 3 * MIB))
    assembly = whole(world, world.known(source), path)
    with pytest.raises(NoSpaceError):
        assembly.pack(Packing(Compression.ZSTD, 1 << 60))
    os.close(assembly.finish(mode=0o444))
    assembly.close()
    assert hidden_files(world.images) == []
    assert check(path) == 0 and content(path) == source.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("cluster_size", [4 * KIB, 64 * KIB])
def test_tables_do_not_grow_with_the_image(cluster_size: int) -> None:
    target = Target(Format.QCOW2, cluster_size, 64 * GIB, CHUNK, Kind.ZERO)
    count = 64 * GIB // cluster_size // 64
    body = bytes(cluster_size // 3)
    image = PackedImage(target, Compression.ZSTD)
    tracemalloc.start()
    pieces = sum(1 for _ in image.add((number * 64, body) for number in range(count)))
    pieces += sum(1 for _ in image.end())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert pieces > count
    assert peak < 16 * MIB


@pytest.mark.parametrize("compression", list(Compression))
def test_what_hardly_shrinks_is_not_compressed(compression: Compression) -> None:
    noise = os.urandom(CHUNK)
    assert deflate(noise, compression) is None
    assert deflate(noise[: CHUNK - 2048] + bytes(2048), compression) is None
    packed = deflate(noise[: CHUNK - 8192] + bytes(8192), compression)
    assert packed is not None and len(packed) < CHUNK - 4096
