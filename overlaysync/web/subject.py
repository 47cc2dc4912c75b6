"""What the page shows: a node that shares, and all that belongs to it while it runs."""

from __future__ import annotations

from dataclasses import dataclass

from overlaysync.net.rate import RateLimit
from overlaysync.node.network import Network
from overlaysync.node.node import Node
from overlaysync.node.reach import Reach
from overlaysync.node.sharing import Share


@dataclass(frozen=True, slots=True)
class Subject:
    """A running share.

    Attributes:
        share: what is shared.
        reach: who is within reach.
        port: where the node answers other nodes.
        where: the interfaces on which it is announced; "" for none.
        limit: the rate of all that it gives.
        network: as the command was told to use it.
    """

    share: Share
    reach: Reach
    port: int
    where: str
    limit: RateLimit
    network: Network

    @property
    def node(self) -> Node:
        return self.share.node
