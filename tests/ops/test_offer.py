"""Offers: the pieces they give are exactly the bytes the manifest names, to the last one."""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from overlaysync.errors import NotFoundError
from overlaysync.formats.image import Format
from overlaysync.model.datamap import DataMap
from overlaysync.ops.assemble import Assembly
from overlaysync.ops.offer import FileSegment, ImageOffer, Offer, PartOffer
from overlaysync.ops.part_files import target_for
from overlaysync.ops.publish import Publisher
from overlaysync.trust.keys import load_or_make
from overlaysync.units import CHUNK, KIB, MIB
from tests.images import Op, apply, create
from tests.ops.world import World

pytestmark = pytest.mark.holds("N9")


def offer_of(world: World, path: Path) -> ImageOffer:
    known = world.known(path)
    publisher = Publisher(world.library, load_or_make(world.home.node_key), "pl@bob")
    manifest = publisher.publish(known, team=None, created="2026-01-01T00:00:00Z")
    chain = world.library.open(path)
    expected = chain.fingerprints()
    return ImageOffer(
        manifest, known.content, world.library.load_page, chain, lambda: chain.fingerprints() == expected
    )


def data_of(offer: Offer, *runs: tuple[int, int]) -> bytes:
    parts = []
    for piece in offer.segments(runs):
        if isinstance(piece, FileSegment):
            part = os.pread(piece.fd, piece.length, piece.offset)
            assert len(part) == piece.length, "a segment must lie inside its file"
            parts.append(part)
        else:
            parts.append(piece)
    return b"".join(parts)


@pytest.mark.parametrize("size", [1, 511, 512, 65_537, 3_000_000])
def test_a_raw_file_of_any_size_is_served_to_its_virtual_end(tmp_path: Path, size: int) -> None:
    world = World.make(tmp_path)
    path = world.images / "odd.raw"
    content = b"x" * size
    path.write_bytes(content)
    offer = offer_of(world, path)
    data = data_of(offer, (0, offer.data.count))
    assert data == content.ljust(offer.pages.virtual_size, b"\0")
    assert len(data) == offer.data.size


def test_runs_come_in_the_order_asked_for(tmp_path: Path) -> None:
    world = World.make(tmp_path)
    path = world.images / "image.raw"
    content = os.urandom(5 * 65536)
    path.write_bytes(content)
    offer = offer_of(world, path)
    assert data_of(offer, (3, 1), (0, 2)) == content[3 * 65536 : 4 * 65536] + content[: 2 * 65536]


@pytest.mark.red_without("N9", "a share does not check whether its file has changed")
def test_an_image_that_has_changed_gives_nothing(tmp_path: Path) -> None:
    world = World.make(tmp_path)
    path = world.images / "image.raw"
    path.write_bytes(os.urandom(65536))
    offer = offer_of(world, path)
    with path.open("r+b") as file:
        file.write(b"x")
    with pytest.raises(NotFoundError):
        data_of(offer, (0, 1))


# -- while it is being written -----------------------------------------------------------------------

SIZE = 3 * MIB + 200 * KIB + 512
TARGETS = [
    (Format.RAW, CHUNK),
    (Format.QCOW2, 4 * KIB),
    (Format.QCOW2, 64 * KIB),
    (Format.QCOW2, 2 * MIB),
    (Format.QED, 4 * KIB),
    (Format.QED, 1 * MIB),
]
each_target = pytest.mark.parametrize(("format", "cluster_size"), TARGETS)


def make_disk(world: World) -> Path:
    """A raw disk with data, zeros in between, and an end that is no whole chunk."""
    path = world.images / "disk.raw"
    with path.open("wb") as file:
        for at in (0, MIB, MIB + 300 * KIB, 3 * MIB):
            file.seek(at)
            file.write(os.urandom(min(280 * KIB, SIZE - at)))
        file.truncate(SIZE)
    return path


def start_copy(
    world: World, whole: ImageOffer, *, format: Format, cluster_size: int, backing: Path | None = None
) -> tuple[PartOffer, Assembly, Path]:
    """The offer of a copy of which nothing is here yet."""
    target = target_for(
        whole.pages,
        format=format,
        cluster_size=cluster_size,
        backing_name=os.fsencode(backing) if backing else None,
        backing_format=Format.RAW if backing else None,
    )
    path = world.images / f"copy.{format.value}"
    load = world.library.load_page
    assembly = Assembly.open(path, target, DataMap(whole.pages, load), world.home.journals)
    return PartOffer(whole.manifest, assembly, load), assembly, path


def take(assembly: Assembly, whole: ImageOffer, first: int, count: int) -> None:
    assert assembly.accept(first, count, memoryview(data_of(whole, (first, count)))) == []


def check_while_written(part: PartOffer, assembly: Assembly, whole: ImageOffer, path: Path) -> None:
    """Take the pieces in any order; each is given as soon as it is here, and all of them in the end."""
    order = list(range(part.pieces.count))
    random.Random(1).shuffle(order)
    for piece in order:
        span = part.pieces.span(piece)
        take(assembly, whole, *span)
        part.log.add(piece)
        assert data_of(part, span) == data_of(whole, span)
    everything = (0, whole.data.count)
    assert data_of(part, everything) == data_of(whole, everything)
    os.close(assembly.finish(mode=0o644))
    part.finished()
    assembly.close()
    assert path.exists()
    assert data_of(part, everything) == data_of(whole, everything)
    some = ((1, 1), (3, 2), (whole.data.count - 1, 1))
    assert data_of(part, *some) == data_of(whole, *some)


@each_target
def test_a_disk_that_is_being_written_gives_what_is_here(
    tmp_path: Path, format: Format, cluster_size: int
) -> None:
    world = World.make(tmp_path)
    whole = offer_of(world, make_disk(world))
    part, assembly, path = start_copy(world, whole, format=format, cluster_size=cluster_size)
    check_while_written(part, assembly, whole, path)


@pytest.mark.qemu
@pytest.mark.parametrize(("format", "cluster_size"), TARGETS[1:])
@pytest.mark.slow
def test_a_layer_that_is_being_written_gives_what_is_here(
    tmp_path: Path, format: Format, cluster_size: int
) -> None:
    world = World.make(tmp_path)
    disk = make_disk(world)
    overlay = create(world.images / f"vm.{format.value}", backing=disk, cluster_size=cluster_size)
    writes = (Op("write", at, 70 * KIB, at // KIB % 255 + 1) for at in range(0, SIZE - 512, 200 * KIB))
    apply(overlay, (*writes, Op("zero", 2 * MIB, 100 * KIB, 0)))
    whole = offer_of(world, overlay)
    assert whole.pages.is_layer
    part, assembly, path = start_copy(world, whole, format=format, cluster_size=cluster_size, backing=disk)
    check_while_written(part, assembly, whole, path)


def test_what_an_earlier_run_wrote_is_given(tmp_path: Path) -> None:
    world = World.make(tmp_path)
    whole = offer_of(world, make_disk(world))
    _, assembly, _ = start_copy(world, whole, format=Format.QCOW2, cluster_size=CHUNK)
    take(assembly, whole, 4, 4)
    assembly.close()
    part, assembly, _ = start_copy(world, whole, format=Format.QCOW2, cluster_size=CHUNK)
    assert 4 in assembly.have
    assert data_of(part, (4, 4)) == data_of(whole, (4, 4))
    assembly.close()


def flip(path: Path) -> None:
    with path.open("r+b") as file:
        first = file.read(1)[0]
        file.seek(0)
        file.write(bytes([first ^ 1]))


@each_target
@pytest.mark.parametrize("change", [flip, lambda path: os.truncate(path, 1000), os.unlink])
def test_a_copy_that_has_changed_gives_nothing(
    tmp_path: Path, format: Format, cluster_size: int, change: Callable[[Path], None]
) -> None:
    world = World.make(tmp_path)
    whole = offer_of(world, make_disk(world))
    part, assembly, path = start_copy(world, whole, format=format, cluster_size=cluster_size)
    take(assembly, whole, 0, whole.data.count)
    os.close(assembly.finish(mode=0o644))
    part.finished()
    assert data_of(part, (0, 1))
    change(path)
    with pytest.raises(NotFoundError):
        data_of(part, (0, 1))


def descriptors(path: Path) -> int:
    """How many of this process's descriptors are of that file."""
    found = 0
    status = path.stat()
    for name in os.listdir("/proc/self/fd"):
        try:
            found += os.path.samestat(os.stat(f"/proc/self/fd/{name}"), status)
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_a_descriptor_lives_as_long_as_its_offer(tmp_path: Path) -> None:
    world = World.make(tmp_path)
    whole = offer_of(world, make_disk(world))
    part, assembly, path = start_copy(world, whole, format=Format.RAW, cluster_size=CHUNK)
    take(assembly, whole, 0, whole.data.count)
    os.close(assembly.finish(mode=0o644))
    assembly.close()
    assert descriptors(path) == 1
    body = part.segments(((0, whole.data.count),))  # under way when the offer is withdrawn
    next(body)
    del part
    gc.collect()
    assert descriptors(path) == 1
    del body, assembly
    gc.collect()
    assert descriptors(path) == 0
