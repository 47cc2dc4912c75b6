"""Ids against the reference and QEMU: whatever the format, the guest's bytes decide, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from overlaysync.formats.chain import Chain
from overlaysync.formats.image import Format
from overlaysync.model.pages import PageList
from overlaysync.ops import hashing
from overlaysync.ops.hashing import combine, hash_disk, hash_layer
from overlaysync.units import CHUNK, KIB, MIB
from tests import reference
from tests.effort import EFFORT
from tests.images import Op, apply, content, convert, create, draw, format_of
from tests.ops.chains import OVERLAYS, Spec, build, fresh_world, specs
from tests.ops.world import World, expected_layer, guest

pytestmark = pytest.mark.qemu

SIZE = 3 * MIB + 5 * CHUNK + 1536


def disk_of(path: Path) -> PageList:
    with Chain.open(str(path), Format(format_of(path))) as chain:
        return hash_disk(chain, lambda digest, body: None)


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, holes, stored zeros, odd edges; the last chunk is short."""
    path = create(tmp_path_factory.mktemp("master") / "master.raw", SIZE)
    draw(path, "AB-oC---D")
    apply(
        path,
        [
            Op("write", MIB + 512, 1024, 7),
            Op("write", 2 * MIB, 300 * KIB, 9),
            Op("write", SIZE - 512, 512, 5),
        ],
    )
    return path


@pytest.fixture(scope="module")
def expected(master: Path) -> reference.Listed:
    return reference.disk(content(master))


# -- the disk id -------------------------------------------------------------------------------------


@pytest.mark.parametrize("geometry", OVERLAYS, ids=str)
def test_one_content_has_one_id_in_every_format(
    master: Path, expected: reference.Listed, tmp_path: Path, geometry
) -> None:
    for name, preallocated in (("sparse", False), ("full", True)):
        copy = create(tmp_path / f"{name}.{geometry.format}", SIZE, **geometry.options)
        copy = convert(master, copy, **geometry.options)
        if preallocated:
            draw(copy, "-" * 6 + "o", unit=CHUNK)
        assert disk_of(copy).id == expected.id


@pytest.mark.parametrize("cluster_size", [512, 4 * KIB, 64 * KIB, 2 * MIB])
@pytest.mark.slow
def test_compressed(master: Path, expected: reference.Listed, tmp_path: Path, cluster_size: int) -> None:
    copy = convert(master, tmp_path / "copy.qcow2", compress=True, cluster_size=cluster_size)
    assert disk_of(copy).id == expected.id
    zstd = convert(
        master, tmp_path / "zstd.qcow2", compress=True, cluster_size=cluster_size, compression_type="zstd"
    )
    assert disk_of(zstd).id == expected.id


def test_raw_dense_or_sparse(master: Path, expected: reference.Listed, tmp_path: Path) -> None:
    dense = tmp_path / "dense.raw"
    dense.write_bytes(master.read_bytes())
    assert dense.stat().st_blocks > master.stat().st_blocks
    pages = disk_of(dense)
    assert pages == disk_of(master)
    assert (pages.encode(), pages.id) == (expected.page_list, expected.id)


@pytest.mark.parametrize("size", [1, 511, 512, 513, CHUNK - 1, CHUNK, CHUNK + 1])
def test_raw_sizes_are_rounded_up_as_qemu_does(tmp_path: Path, size: int) -> None:
    path = tmp_path / "odd.raw"
    path.write_bytes(b"z" * size)
    pages = disk_of(path)
    assert pages.virtual_size == -(-size // 512) * 512
    assert pages.id == reference.disk(content(path)).id == reference.disk(guest(path)).id


@pytest.mark.parametrize("suffix", ["raw", "qcow2", "qed"])
def test_a_disk_of_no_bytes(tmp_path: Path, suffix: str) -> None:
    assert disk_of(create(tmp_path / f"empty.{suffix}", 0)).id == reference.disk(b"").id


@pytest.mark.parametrize("at", [0, CHUNK - 1, CHUNK, 2 * MIB, SIZE - 1])
def test_every_byte_counts(master: Path, expected: reference.Listed, tmp_path: Path, at: int) -> None:
    other = tmp_path / "other.raw"
    data = bytearray(master.read_bytes())
    data[at] ^= 1
    other.write_bytes(data)
    assert disk_of(other).id != expected.id


def test_a_file_that_shrinks_under_the_hasher_reads_as_zeros(tmp_path: Path) -> None:
    path = tmp_path / "shrinks.raw"
    path.write_bytes(b"y" * (8 * MIB))
    with Chain.open(str(path), Format.RAW) as chain:
        hasher = hashing.RegionHasher(chain, CHUNK, False, None)
        full = hasher.page(0)
        os.truncate(path, 64 * KIB)
        assert hasher.page(0)[:32] == full[:32]


# -- chains ------------------------------------------------------------------------------------------


def check_chain(world: World, chain: tuple[Spec, ...]) -> None:
    """Every image of the chain: disk, layer and result as QEMU and the reference have them."""
    paths = build(world.images, chain)
    below: Path | None = None
    for path, spec in zip(paths, chain, strict=True):
        known = world.known(path)
        disk = reference.disk(content(path))
        assert (known.disk.id, known.disk.encode()) == (disk.id, disk.page_list)
        assert guest(path) == content(path)
        with Chain.open(str(path), Format(format_of(path))) as opened:
            assert hash_disk(opened, lambda digest, body: None) == known.disk
        if below is not None:
            assert known.layer is not None and known.parent is not None
            layer = expected_layer(path, below, spec.geometry.granule)
            assert known.layer.encode() == layer.page_list
            assert known.layer.id == layer.id
            assert known.layer.parent == known.parent.disk.id
        below = path


@settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow])
@given(specs())
@pytest.mark.slow
def test_chains(chain: tuple[Spec, ...]) -> None:
    with fresh_world() as world:
        check_chain(world, chain)


@pytest.mark.fuzz
@pytest.mark.slow
@settings(max_examples=30 * EFFORT, suppress_health_check=[HealthCheck.too_slow])
@given(specs())
def test_many_chains(chain: tuple[Spec, ...]) -> None:
    with fresh_world() as world:
        check_chain(world, chain)


@pytest.mark.parametrize("geometry", OVERLAYS, ids=str)
@pytest.mark.parametrize("size", [SIZE - CHUNK - 512, SIZE + 4 * CHUNK + 512])
@pytest.mark.slow
def test_overlays_whose_size_differs(master: Path, world: World, geometry, size: int) -> None:
    ops = (
        Op("write", 512, 512, 1),
        Op("zero", 2 * MIB, 100 * KIB),
        Op("write", size - 512, 512, 2),
    )
    spec = Spec(geometry, size, ops)
    base = convert(master, world.images / "base.raw")
    path = create(world.images / f"vm.{geometry.format}", size, backing=base, **geometry.options)
    apply(path, spec.ops)
    known = world.known(path)
    assert known.layer is not None
    assert known.disk.id == reference.disk(content(path)).id
    assert known.layer.id == expected_layer(path, base, geometry.granule).id


def test_a_chunk_of_which_only_zeros_are_left(world: World) -> None:
    base = create(world.images / "base.raw", MIB)
    apply(base, [Op("write", CHUNK + 4096, 4096, 7)])
    path = create(world.images / "vm.qcow2", backing=base, cluster_size=4096)
    apply(path, [Op("zero", CHUNK + 4096, 4096)])
    known = world.known(path)
    assert known.disk.id == reference.disk(bytes(MIB)).id
    assert known.layer is not None and known.layer.indices == (0,)


def test_only_partly_covered_chunks_are_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    base = create(world.images / "base.raw", 8 * MIB)
    draw(base, "A" * 128)
    path = create(world.images / "vm.qcow2", backing=base, cluster_size=4096)
    apply(
        path, [Op("write", MIB, CHUNK, 7), Op("zero", 2 * MIB, CHUNK), Op("write", 3 * MIB + 4096, 4096, 8)]
    )
    parent = world.known(base).disk
    read = []
    with Chain.open(str(path)) as chain:
        kept: dict[bytes, bytes] = {}
        layer = hash_layer(chain, parent.id, kept.__setitem__)

        def load(digest: bytes) -> bytes:
            return kept[digest] if digest in kept else world.library.load_page(digest)

        def note(offset: int, buffer: memoryview) -> None:
            read.append((offset, len(buffer)))
            Chain.read_into(chain, offset, buffer)

        monkeypatch.setattr(chain, "read_into", note)
        result = combine(parent, layer, load, chain, lambda digest, body, like: None)
    assert result.id == reference.disk(content(path)).id
    # The chunk wholly covered by granules of 4 KiB is read as well: its digest is not theirs.
    assert sorted(read) == [(MIB, CHUNK), (3 * MIB, CHUNK)]


def test_progress_counts_every_guest_byte_once(master: Path) -> None:
    done: list[int] = []
    with Chain.open(str(master), Format.RAW) as chain:
        hash_disk(chain, lambda digest, body: None, done.append)
    assert sum(done) == SIZE
