"""Sessions: the client, the search for peers, and what is passed on, opened and closed together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from overlaysync.net.client import Client
from overlaysync.net.rate import RateLimit
from overlaysync.node.network import Network
from overlaysync.node.node import Node
from overlaysync.node.observer import Observer
from overlaysync.node.reach import Reach


@asynccontextmanager
async def looking(node: Node, observer: Observer, network: Network) -> AsyncIterator[Reach]:
    """Look for peers while the block runs.

    Raises:
        NetworkError: multicast does not work here, it is needed, and no peer is named.
    """
    async with (
        Client(limit=RateLimit(network.rate), compression=network.compression, teams=node.teams) as client,
        Reach.open(node, client, observer, network) as reach,
    ):
        yield reach
