"""Fetching beside others that write to the same place."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from overlaysync.errors import StoppedError, WouldDestroyError
from overlaysync.formats.image import Format
from overlaysync.node.download import TransferStats
from overlaysync.node.fetch_types import Fetched, Options
from overlaysync.node.fetching import Fetch
from overlaysync.node.holding import note_held
from overlaysync.node.node import Node, now, timestamp
from overlaysync.ops.choice import Choice, Reason
from overlaysync.ops.manifest_rows import keep_manifest
from overlaysync.ops.matching import Listing
from overlaysync.ops.plan import Step
from overlaysync.ops.replacement import Verdict
from overlaysync.ops.versions import Standing, State
from overlaysync.store.held import Held
from overlaysync.trust.envelope import Manifest, sign_header
from overlaysync.units import CHUNK, MIB
from tests.node.observers import Heard


@pytest.mark.parametrize("same", [True, False])
async def test_what_another_made_meanwhile_is_here(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same: bool
) -> None:
    image, target = tmp_path / "theirs.raw", tmp_path / "ours.raw"
    image.write_bytes(os.urandom(3 * CHUNK))
    manifest = node.publisher.publish(
        node.library.examine(str(image), now=now()), team=None, created=timestamp()
    )

    async def too_late(fetch: Fetch, step: Step, verdict: Verdict) -> Fetched:
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
    choice = Choice(step.listing, Reason.FIRST_USE)
    if same:
        (fetched,) = await fetch.run([step], choice)
        assert fetched.already
        assert fetched.known.path == str(target)
    else:
        with pytest.raises(WouldDestroyError):
            await fetch.run([step], choice)


@dataclass
class Cancelling(Heard):
    """Cancels the fetch when the first bytes are here, and lets the thread go on when it could know."""

    cancel: Any = None
    told: Any = None

    def advance(self, size: int, source: str = "") -> None:
        super().advance(size, source)
        if size and len(self.notes) == 0:
            self.note("cancelled")
            self.cancel()
            end = time.monotonic() + 2
            while not self.told() and time.monotonic() < end:
                time.sleep(0.001)


@pytest.mark.slow
async def test_who_is_stopped_stops_while_it_copies_and_while_it_looks_at_what_it_has(
    node: Node, tmp_path: Path
) -> None:
    image, target = tmp_path / "theirs.raw", tmp_path / "ours.raw"
    image.write_bytes(os.urandom(64 * MIB))
    known = node.library.examine(str(image), now=now())
    manifest = node.publisher.publish(known, team=None, created=timestamp())
    seeder = SimpleNamespace(withdraw=lambda offer: None)
    nothing = cast(Any, None)
    loop, observer = asyncio.get_running_loop(), Cancelling()
    fetch = Fetch(node, nothing, nothing, observer, Options(), cast(Any, seeder))
    step = Step(Listing(manifest, (), ()), str(target), Format.RAW)
    making = asyncio.create_task(fetch.make(step, Verdict()))
    observer.cancel = lambda: loop.call_soon_threadsafe(making.cancel)
    observer.told = lambda: fetch.maker.stop.wanted
    with pytest.raises(asyncio.CancelledError):
        await making
    assert 0 < observer.advanced[""] < 32 * MIB

    again = Heard()
    fetch = Fetch(node, nothing, nothing, again, Options(), cast(Any, seeder))
    fetch.maker.stop.wanted = True
    with pytest.raises(StoppedError):
        await fetch.make(step, Verdict())
    assert not again.advanced, "it ended before it could say how much is here"


# -- what a file holds afterwards --------------------------------------------------------------------


def version(node: Node, path: Path, *after: Manifest) -> Manifest:
    """A version of what is in the file, called ``web``, that comes after those; kept here."""
    known = node.library.examine(str(path), now=now())
    header = node.publisher.publish(known, team=None, created=timestamp()).header
    follows = tuple(sorted(one.id.hex() for one in after))
    number = 1 + max((one.header.version for one in after), default=0)
    made = sign_header(msgspec.structs.replace(header, name="web", version=number, follows=follows), node.key)
    keep_manifest(node.catalog, made)
    return made


@pytest.mark.parametrize("already", [False, True], ids=["replaced", "already here"])
def test_the_other_side_of_a_fork_stays_noted_until_something_follows_both(
    node: Node, tmp_path: Path, already: bool
) -> None:
    """A file that was settled once is fast-forwarded, before anybody has published what follows both."""
    image, target = tmp_path / "any.raw", tmp_path / "web.raw"
    image.write_bytes(os.urandom(CHUNK))
    mine, theirs = version(node, image), version(node, image)
    mine = version(node, image, mine)
    image.write_bytes(os.urandom(CHUNK))
    shutil.copy(image, target)
    later = version(node, image, theirs)
    merged = version(node, image, later, mine)
    known = node.library.examine(str(target), now=now())

    def hold(manifest: Manifest, *held: Manifest) -> tuple[bytes, ...]:
        ids = tuple(one.id for one in held)
        node.catalog.held.hold(Held(known.path, "", "web", ids, known.files[0]))
        standing = Standing(State.SAME if already else State.BEHIND)
        fetched = Fetched(
            manifest, known, already, TransferStats(), Verdict(known if already else None, standing)
        )
        note_held(node.catalog, fetched)
        noted = node.catalog.held.at(known.path)
        assert noted is not None and noted.file == known.files[0]
        return noted.manifests

    assert hold(later, theirs, mine) == (later.id, mine.id)
    assert hold(merged, later, mine) == (merged.id,)
    # An older version of the same content adds nothing; but it is what the file holds, if it was written.
    older = version(node, image)
    newer = version(node, image, older)
    assert hold(older, newer, mine) == ((newer.id, mine.id) if already else (older.id, newer.id, mine.id))
