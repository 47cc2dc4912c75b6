"""The places where a team's states may lie besides the vault of this node: archives, and peers."""

from __future__ import annotations

from overlaysync.node.node import Node
from overlaysync.node.reach import Reach
from overlaysync.ops.recovery.pulling import Place


async def places_of(node: Node, reach: Reach, *, wait_s: float) -> list[Place]:
    """Return the places within reach."""
    return []
