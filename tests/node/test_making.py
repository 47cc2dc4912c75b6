"""Making an image: what images here hold comes first, then what fillers hold, and peers give the rest."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from overlaysync.formats.image import Format
from overlaysync.net.client import Client
from overlaysync.node.fetch_types import Fetched, Options
from overlaysync.node.fetching import Fetch
from overlaysync.node.node import Node, now, timestamp
from overlaysync.node.reshare import PartialSeeder
from overlaysync.ops.assemble import Assembly
from overlaysync.ops.hashing import Progress
from overlaysync.ops.matching import Listing
from overlaysync.ops.offer import ImageOffer
from overlaysync.ops.plan import Step
from overlaysync.ops.replacement import Verdict
from overlaysync.trust.envelope import Manifest
from overlaysync.units import CHUNK
from tests.node.fetchers import Around
from tests.node.observers import Heard

CHUNKS = 8


@dataclass
class Holding:
    """A filler that holds some chunks of a raw image.

    Attributes:
        data: the image.
        slots: what it holds of it.
        found: what was already there each time that it was asked.
    """

    data: bytes
    slots: range
    found: list[list[tuple[int, int]]] = field(default_factory=list)

    def take(self, assembly: Assembly, progress: Progress) -> int:
        self.found.append(list(assembly.missing()))
        taken = 0
        for slot in self.slots:
            unit = self.data[slot * CHUNK : (slot + 1) * CHUNK]
            if slot not in assembly.have and not assembly.accept(slot, 1, memoryview(unit)):
                progress(len(unit))
                taken += len(unit)
        return taken


async def make(
    node: Node, manifest: Manifest, path: Path, fillers: Sequence[Holding], heard: Heard
) -> Fetched:
    """Make the image with nobody else within reach."""
    async with Client() as client:
        around = Around(node, client, cast(ImageOffer, None), [], observer=heard)
        around.sources = lambda content, team="": {}  # type: ignore[method-assign]
        async with PartialSeeder.open(node, cast(Any, around)) as seeder:
            options = Options(to=str(path.parent), fillers=tuple(fillers))
            fetch = Fetch(node, client, cast(Any, around), heard, options, seeder)
            return await fetch.make(Step(Listing(manifest, (), ()), str(path), Format.RAW), Verdict())


def published(node: Node, path: Path, data: bytes) -> Manifest:
    path.write_bytes(data)
    known = node.library.examine(str(path), now=now())
    return node.publisher.publish(known, team=None, created=timestamp())


@pytest.fixture
def data() -> bytes:
    return os.urandom(CHUNKS * CHUNK)


async def test_fillers_give_what_images_here_lack_one_after_the_other(
    node: Node, tmp_path: Path, data: bytes
) -> None:
    image = tmp_path / "theirs.raw"
    manifest = published(node, image, data)
    image.write_bytes(data[: 3 * CHUNK] + os.urandom((CHUNKS - 3) * CHUNK))
    first, second = Holding(data, range(2, 5)), Holding(data, range(4, CHUNKS))
    unasked = Holding(data, range(CHUNKS))
    (tmp_path / "to").mkdir()
    heard = Heard()
    made = await make(node, manifest, tmp_path / "to" / "ours.raw", [first, second, unasked], heard)
    assert (tmp_path / "to" / "ours.raw").read_bytes() == data
    assert first.found == [[(3, CHUNKS - 3)]]
    assert second.found == [[(5, CHUNKS - 5)]]
    assert unasked.found == [], "nothing was missing any more"
    assert made.transfer.local == len(data) == heard.advanced[""]


async def test_what_a_filler_holds_wrong_is_asked_of_the_next(
    node: Node, tmp_path: Path, data: bytes
) -> None:
    image = tmp_path / "theirs.raw"
    manifest = published(node, image, data)
    image.unlink()
    wrong = bytes([data[0] ^ 1]) + data[1:]
    fillers = [Holding(wrong, range(CHUNKS)), Holding(data, range(CHUNKS))]
    (tmp_path / "to").mkdir()
    await make(node, manifest, tmp_path / "to" / "ours.raw", fillers, Heard())
    assert (tmp_path / "to" / "ours.raw").read_bytes() == data
    assert fillers[1].found == [[(0, 1)]]
