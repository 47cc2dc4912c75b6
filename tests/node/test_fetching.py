"""Fetching beside others that write to the same place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from overlaysync.errors import WouldDestroyError
from overlaysync.formats.image import Format
from overlaysync.node.fetching import Fetch, Fetched, Options
from overlaysync.node.node import Node, now, timestamp
from overlaysync.ops.plan import Step
from overlaysync.ops.resolve import Listing
from overlaysync.units import CHUNK
from tests.node.observers import Heard


@pytest.fixture
def node(home: Path) -> Iterator[Node]:
    made = Node.open(os.environ)
    yield made
    made.close()


@pytest.mark.parametrize("same", [True, False])
async def test_what_another_made_meanwhile_is_here(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same: bool
) -> None:
    image, target = tmp_path / "theirs.raw", tmp_path / "ours.raw"
    image.write_bytes(os.urandom(3 * CHUNK))
    manifest = node.publisher.publish(
        node.library.examine(str(image), now=now()), team=None, created=timestamp()
    )

    async def too_late(fetch: Fetch, step: Step) -> Fetched:
        """The name is taken before the part file is opened."""
        if same:
            shutil.copy(image, target)
        else:
            target.write_bytes(b"something else".ljust(CHUNK))
        raise WouldDestroyError(f"{step.path} exists")

    monkeypatch.setattr(Fetch, "make", too_late)
    nothing = cast(Any, None)
    fetch = Fetch(node, nothing, nothing, Heard(), Options(), nothing)
    step = Step(Listing(manifest, (), ()), str(target), Format.RAW)
    if same:
        (fetched,) = await fetch.run([step])
        assert fetched.already
        assert fetched.known.path == str(target)
    else:
        with pytest.raises(WouldDestroyError):
            await fetch.run([step])
