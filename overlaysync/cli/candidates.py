"""What completion offers: everything known here and listed on the LAN."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress

from overlaysync.cli.common import open_node, parse_peers
from overlaysync.node.network import Network
from overlaysync.node.node import Node
from overlaysync.node.observer import Silent
from overlaysync.node.session import looking
from overlaysync.ops.matching import Listing
from overlaysync.trust.envelope import open_envelope
from overlaysync.units import format_size

_LOOK_S = 0.7


def find(most: int, safe: re.Pattern[str]) -> dict[str, str]:
    """Return references to everything known here and listed on the LAN, each with a few words on what it is.

    Args:
        most: how many.
        safe: only those are returned that it matches.
    """
    logging.disable(logging.CRITICAL)  # this process only completes
    with open_node(None) as node:
        listings = [Listing(open_envelope(row.envelope)) for row in node.catalog.manifests.matching()]
        with suppress(Exception):
            listings += asyncio.run(_look(node))
    found = {
        text: words for listing in listings for text, words in _references(listing) if safe.fullmatch(text)
    }
    return dict(sorted(found.items())[:most])


async def _look(node: Node) -> Iterable[Listing]:

    async with looking(node, Silent(), Network(parse_peers(None))) as reach:
        await reach.until(lambda: False, wait_s=_LOOK_S)
        return reach.directory.listings()


def _references(listing: Listing) -> Iterator[tuple[str, str]]:
    """Yield references and their descriptions, which have no words of a peer's: a shell is given them."""
    header = listing.manifest.header
    what = f"{'overlay' if header.is_layer else 'master'}, {format_size(header.data_size)}"
    if header.team:
        yield f"{header.team}/", "all of a team"
    for name in {header.name, header.full_name}:
        yield name, what
        yield f"{name}:{header.version}", what
        yield from ((f"{name}@{label}", what) for label in listing.labels)
