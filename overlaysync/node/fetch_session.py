"""Sessions that fetch: as others, and what is verified is passed on at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from overlaysync.net.rate import RateLimit
from overlaysync.node.fetch_types import Options
from overlaysync.node.fetching import Fetch
from overlaysync.node.network import Network
from overlaysync.node.node import Node
from overlaysync.node.observer import Observer
from overlaysync.node.reshare import PartialSeeder
from overlaysync.node.session import looking


@dataclass(frozen=True, slots=True)
class FetchSession:
    """What is open while a command fetches.

    Attributes:
        fetch: fetches one thing after the other.
        given: the rate of what is given to others, by all servers of the command together.
    """

    fetch: Fetch
    given: RateLimit


@asynccontextmanager
async def fetching(
    node: Node, observer: Observer, network: Network, options: Options
) -> AsyncIterator[FetchSession]:
    """Look for peers, and pass on what was fetched from them, while the block runs.

    Raises:
        NetworkError: as for :func:`~overlaysync.node.session.looking`.
    """
    given = RateLimit(network.rate)
    async with (
        looking(node, observer, network) as reach,
        PartialSeeder.open(node, reach, limit=given) as seeder,
    ):
        yield FetchSession(Fetch(node, reach.client, reach, observer, options, seeder), given)
