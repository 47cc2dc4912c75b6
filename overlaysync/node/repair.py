"""Repair: rebuild a damaged image from its own good bytes, other images here, and peers."""

from __future__ import annotations

import os
from collections.abc import Iterable

from overlaysync.errors import BaseImageError, NotFoundError, OverlaysyncError
from overlaysync.formats.image import WRITTEN, Format, copied_as
from overlaysync.model.digest import short_id
from overlaysync.model.manifest import Header
from overlaysync.model.names import one_field
from overlaysync.net.messages import Address
from overlaysync.node.fetch_types import Options
from overlaysync.node.fetching import Fetch
from overlaysync.node.network import Network
from overlaysync.node.node import Node, now
from overlaysync.node.observer import Observer
from overlaysync.node.reshare import PartialSeeder
from overlaysync.node.session import looking
from overlaysync.ops.again import Again
from overlaysync.ops.bases import path_below
from overlaysync.ops.known import Known, is_read_only
from overlaysync.ops.matching import Listing
from overlaysync.ops.packing import packing_of
from overlaysync.ops.plan import Step
from overlaysync.ops.replacement import Verdict
from overlaysync.ops.verify import Verdict as Finding
from overlaysync.ops.verify import verify as verify_image
from overlaysync.ops.versions import Standing, State, hold_again
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
    content = verdict.expected.content
    rows = node.catalog.manifests.matching(content=content)
    if not rows:
        raise NotFoundError(
            f"Cannot heal {verdict.path}",
            why="its content was never published, so no peer has it",
            hint="restore it from a copy",
        )
    manifests = [open_envelope(row.envelope) for row in rows]
    manifest = next((one for one in manifests if one.belongs(node.teams)), manifests[0])
    listing = Listing(manifest)
    options = Options(to=os.path.dirname(verdict.path))
    network = Network(peers=tuple(peers), compression=compression)
    async with looking(node, observer, network) as reach:
        await reach.until(
            lambda: bool(reach.directory.sources(content, manifest.header.team)), wait_s=options.wait_s
        )
        fetch = Fetch(node, reach.client, reach, observer, options, PartialSeeder(node, reach))
        header = listing.manifest.header
        base = (
            (_own_base(node, verdict.path, header) or fetch.base_of(header, verdict.path))
            if header.is_layer
            else None
        )
        if header.is_layer and base is None:
            below = path_below(node.library, verdict.path)
            raise BaseImageError(
                f"Cannot heal {verdict.path}",
                why=f"its master {below or one_field(header.parent_name)} is missing, damaged, changed, "
                "or may be written",
                hint=f"heal that one first: overlaysync verify --repair '{below}'"
                if below
                else Again(
                    short_id(header.parent_id or b""), ("--to", os.path.dirname(verdict.path))
                ).fetch(),
            )
        format = _format(node, verdict.path, header)
        step = Step(
            listing,
            verdict.path,
            format,
            base.path if base else None,
            base_here=base is not None,
            brought=is_read_only(verdict.path),
            packing=packing_of(header, format),
        )
        file = verdict.known.files[0] if verdict.known else None
        healed = await fetch.make(
            step, Verdict(standing=Standing(State.UNKNOWN), file=file, entry=verdict.entry)
        )
        hold_again(node.catalog, healed.known)
    return verify_image(node.library, verdict.path, now=now())


def _format(node: Node, path: str, header: Header) -> Format:
    """Return the format that the file is named for; else the one that it had, or that it was published in."""
    ending = os.path.splitext(path)[1].lower().removeprefix(".")
    row = node.catalog.images.at(path)
    return copied_as(Format(ending if ending in WRITTEN else row.format if row else header.format))


def _own_base(node: Node, path: str, header: Header) -> Known | None:
    """Return what the overlay stands on, read again; None if that is not what it was, or cannot be found."""
    below = path_below(node.library, path)
    try:
        base = node.library.examine_anew(below, now=now()) if below else None
    except (OverlaysyncError, OSError):
        return None
    if base is None or base.disk.id != header.parent_id:
        return None
    return base if base.layer is None or is_read_only(base.path) else None
