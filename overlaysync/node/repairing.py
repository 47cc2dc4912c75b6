"""Repair: rebuild a damaged image from its own good bytes, other images here, and peers."""

from __future__ import annotations

import os
from collections.abc import Iterable

from overlaysync.errors import BaseImageError, NotFoundError, OverlaysyncError
from overlaysync.formats.image import Format
from overlaysync.model.manifest import Header
from overlaysync.net.client import Client
from overlaysync.net.messages import Address
from overlaysync.node.fetching import Fetch, Options
from overlaysync.node.node import Node, now
from overlaysync.node.observer import Observer
from overlaysync.node.passing import Passing
from overlaysync.node.reach import Reach
from overlaysync.ops.library import Known, is_read_only
from overlaysync.ops.plan import Step
from overlaysync.ops.replacement import Verdict
from overlaysync.ops.resolve import Listing
from overlaysync.ops.verify import Verdict as Finding
from overlaysync.ops.verify import verify as verify_image
from overlaysync.ops.versions import Standing, State, hold_again
from overlaysync.store.catalog import ImageRow
from overlaysync.swarm.link import Compression
from overlaysync.trust.envelope import open_envelope


async def repair(
    node: Node,
    observer: Observer,
    verdict: Finding,
    peers: Iterable[Address],
    *,
    compression: Compression = Compression.AUTO,
) -> Finding:
    """Put a whole image in the place of the damaged one, and verify that.

    The new file is written beside the old one, which stays until the new one is complete.

    Raises:
        NotFoundError: no manifest describes the image.
        BaseImageError: the image it stands on is not what it was.
        NetworkError, VerificationError: nobody has the bytes that are missing.
    """
    content = verdict.layer or verdict.disk
    rows = node.catalog.manifests(content=content)
    if not rows:
        raise NotFoundError(
            f"Nobody has published {verdict.path}, so nobody can heal it", hint="restore it from a copy"
        )
    row = node.catalog.image_at(verdict.path)
    assert row is not None, "what was verified is known"
    format = Format(row.format)
    manifests = [open_envelope(row.envelope) for row in rows]
    manifest = next((one for one in manifests if one.belongs(node.teams)), manifests[0])
    listing = Listing(manifest)
    options = Options(to=os.path.dirname(verdict.path))
    async with (
        Client(compression=compression, teams=node.teams) as client,
        Reach.open(node, client, observer, peers=peers) as reach,
    ):
        await reach.until(lambda: bool(reach.sources(content, manifest.header.team)), wait_s=options.wait_s)
        fetch = Fetch(node, client, reach, observer, options, Passing(node, reach))
        header = listing.manifest.header
        base = (_own_base(node, row, header) or fetch.base_of(header)) if verdict.layer else None
        if verdict.layer and base is None:
            raise BaseImageError(
                f"Cannot heal {verdict.path}",
                why="the image it stands on is damaged, changed, or may be written",
                hint="heal that one first",
            )
        step = Step(
            listing,
            verdict.path,
            format,
            base.path if base else None,
            base_here=base is not None,
            brought=is_read_only(verdict.path),
        )
        healed = await fetch.make(step, Verdict(standing=Standing(State.UNKNOWN)))
        hold_again(node.catalog, healed.known)
    return verify_image(node.library, verdict.path, now=now())


def _own_base(node: Node, row: ImageRow, header: Header) -> Known | None:
    """What the overlay stands on, read again; None if that is not what it was, or cannot be found."""
    try:
        with node.library.open(row.path, Format(row.format)) as chain:
            path = chain.images[1].path
        base = node.library.examine(path, now=now(), fresh=True)
    except (OverlaysyncError, OSError, IndexError):
        return None
    fits = base.disk.id == header.parent_id and (base.layer is None or is_read_only(base.path))
    return base if fits else None
