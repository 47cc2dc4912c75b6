"""The places where a team's states may lie: the vault of this node, archives, and peers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from overlaysync.errors import OverlaysyncError
from overlaysync.model.names import one_field
from overlaysync.node.node import Node
from overlaysync.node.peer_objects import PeerObjects
from overlaysync.ops.recovery.gathering import Gathered, gather
from overlaysync.ops.recovery.pulling import Place
from overlaysync.ops.recovery.vaults import TeamVault
from overlaysync.trust.teams import Team
from overlaysync.vault.directory import DirectoryObjects

if TYPE_CHECKING:  # see overlaysync.node.session
    from overlaysync.node.reach import Reach
    from overlaysync.node.views import PeerView

PEER, ARCHIVE = 1, 2
"""How near they are: an archive is asked for what no peer has."""


def vault_of(node: Node, team: Team) -> TeamVault:
    """Return what the vault of this node has of a team."""
    return TeamVault(DirectoryObjects(node.home.vault), team)


def gather_from(node: Node, vault: TeamVault, places: Sequence[Place]) -> Gathered:
    """Learn from the vault of this node and from places which states there are, and what is outdated.

    Raises:
        NoSpaceError, OverlaysyncError: the vault of this node fails.
    """
    return gather(vault, places, node.catalog.copies.newest(vault.space.tag))


async def peer_places(node: Node, reach: Reach, tag: str, *, wait_s: float) -> list[Place]:
    """Return the peers within reach that keep something of a space.

    Where the user names peers, nobody else is waited for once they have answered.

    Args:
        node: this one, which is no place to pull from.
        reach: looks for peers.
        tag: of the space.
        wait_s: how long to look.
    """
    await reach.until(lambda: _named_answered(reach), wait_s=wait_s)
    views = [view for view in reach.directory.nodes() if view.answered and view.public_key != node.key.public]
    kept = await asyncio.gather(*(_keeps(reach, view, tag) for view in views))
    return [_place(reach, view) for view, keeps in zip(views, kept, strict=True) if keeps]


def _place(reach: Reach, view: PeerView) -> Place:
    objects = PeerObjects(reach.client, view.address, asyncio.get_running_loop())
    return Place(one_field(view.label) or str(view.address), objects, PEER, objects.stop)


def _named_answered(reach: Reach) -> bool:
    named = list(filter(reach.directory.is_named, reach.directory.views.values()))
    return 0 < len(reach.directory.named) <= len(named) and all(
        view.answered or view.problem for view in named
    )


async def _keeps(reach: Reach, view: PeerView, tag: str) -> bool:
    try:
        return tag in (await reach.client.vault(view.address)).spaces
    except OverlaysyncError:
        return False
