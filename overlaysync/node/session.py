"""Sessions: the client and the search for peers, opened and closed together.

The modules of the network are imported when a session begins: they are slow to import, and a command that
finds here what was asked for needs none of them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from overlaysync.node.importing import importing
from overlaysync.node.network import Network
from overlaysync.node.node import Node
from overlaysync.node.observer import Observer

if TYPE_CHECKING:
    from overlaysync.net.faults import Faults
    from overlaysync.node.reach import Reach


@asynccontextmanager
async def looking(
    node: Node, observer: Observer, network: Network, faults: Faults | None = None
) -> AsyncIterator[Reach]:
    """Look for peers while the block runs.

    Args:
        node: looks.
        observer: is told what happens.
        network: whom to look for.
        faults: unexpected exceptions go there; None when nothing else of the command counts any.

    Raises:
        NetworkError: multicast does not work here, it is needed, and no peer is named.
    """
    with importing():
        from overlaysync.net.client import Client
        from overlaysync.net.rate import RateLimit
        from overlaysync.node.reach import Reach

    async with (
        Client(limit=RateLimit(network.rate), compression=network.compression, teams=node.teams) as client,
        Reach.open(node, client, observer, network, faults) as reach,
    ):
        yield reach
