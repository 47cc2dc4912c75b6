"""Offers: the pieces they give are exactly the bytes the manifest names, to the last one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from overlaysync.errors import NotFoundError
from overlaysync.formats.chain import Chain
from overlaysync.ops.offer import FileSegment, ImageOffer
from overlaysync.ops.publish import Publisher
from overlaysync.trust.keys import load_or_make
from tests.ops.world import World


def offer_of(world: World, path: Path) -> ImageOffer:
    known = world.known(path)
    publisher = Publisher(world.library, load_or_make(world.home.node_key), "pl@bob")
    manifest = publisher.publish(known, team=None, created="2026-01-01T00:00:00Z")
    chain = Chain.open(str(path))
    expected = chain.fingerprints()
    return ImageOffer(
        manifest, known.content, world.library.load_page, chain, lambda: chain.fingerprints() == expected
    )


def data_of(offer: ImageOffer, *runs: tuple[int, int]) -> bytes:
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


def test_an_image_that_has_changed_gives_nothing(tmp_path: Path) -> None:
    world = World.make(tmp_path)
    path = world.images / "image.raw"
    path.write_bytes(os.urandom(65536))
    offer = offer_of(world, path)
    with path.open("r+b") as file:
        file.write(b"x")
    with pytest.raises(NotFoundError):
        data_of(offer, (0, 1))
