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

_LOOK_S = 0.7


def find(most: int, safe: re.Pattern[str]) -> list[str]:
    """Return references to everything known here and listed on the LAN.

    Args:
        most: how many.
        safe: only those are returned that it matches.
    """
    logging.disable(logging.CRITICAL)  # this process only completes
    with open_node(None) as node:
        listings = [Listing(open_envelope(row.envelope)) for row in node.catalog.manifests.matching()]
        with suppress(Exception):
            listings += asyncio.run(_look(node))
    found = {text for listing in listings for text in _references(listing) if safe.fullmatch(text)}
    return sorted(found)[:most]


async def _look(node: Node) -> Iterable[Listing]:

    async with looking(node, Silent(), Network(parse_peers(None))) as reach:
        await reach.until(lambda: False, wait_s=_LOOK_S)
        return reach.directory.listings()


def _references(listing: Listing) -> Iterator[str]:
    header = listing.manifest.header
    if header.team:
        yield f"{header.team}/"
    for name in {header.name, header.full_name}:
        yield name
        yield f"{name}:{header.version}"
        yield from (f"{name}@{label}" for label in listing.labels)
