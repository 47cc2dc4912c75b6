"""Hearing of forks: what a running share asks of others, to say when a name that it shares is forked.

A share needs nothing that others have, so it asks for little: members of the teams that it shares with, for
what they list to these, as no announcement says when that changes; and peers that announce another version of
a public name than is shared here. What comes is kept as headers, and only of names that are shared. What
follows from it is for the share.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import TypeAlias

from overlaysync.discovery.browser import Peer
from overlaysync.errors import OverlaysyncError
from overlaysync.model.addresses import is_told_port
from overlaysync.net.client import Client
from overlaysync.net.messages import CatalogMessage, Endpoint, PrivateAddress
from overlaysync.net.refusals import GoneError
from overlaysync.node.host_budget import AskBudget
from overlaysync.node.node import Node, timestamp
from overlaysync.node.views import Heard, PeerView
from overlaysync.ops.manifest_rows import manifest_row
from overlaysync.trust.envelope import Manifest

_HEAR_S = 5.0
"""How often a node is asked whether its catalog has changed."""

_NODES_OF_HOST = 2
"""Nodes of one host that are asked that often; of twice as many each half as often."""

_STRANGER_S = 60.0
"""A node that is not in a team is asked again after this time: it may have been started anew."""

_EARLY_S = 1.0
"""How much sooner it may be, as those who ask look from time to time."""

Names: TypeAlias = Mapping[tuple[str, str], frozenset[bytes]]
"""By team ("" for everybody) and name the contents that are shared under it."""

Learn: TypeAlias = Callable[[PeerView, Mapping[bytes, Manifest], Endpoint], Awaitable[None]]
"""Asks a peer for what came before these versions, where that is not known."""


@dataclass(frozen=True, slots=True)
class _Question:
    """What one peer is asked.

    Attributes:
        names: what is shared here.
        pause_s: how long it is not asked again.
        opened, learn, peer: as for :meth:`Hearing.ask`.
    """

    names: Names
    pause_s: float
    opened: Callable[[bytes], Manifest]
    learn: Learn
    peer: Peer | None


@dataclass(slots=True)
class Hearing:
    """Asks others for versions of what is shared here.

    Attributes:
        node, client: of the share.
        names: what this node has published of what is shared, at this moment.
        news: called when versions of such a name were seen that may be new here.
    """

    node: Node
    client: Client
    names: Callable[[], Names]
    news: Callable[[], None]
    _budget: AskBudget = field(default_factory=AskBudget)

    async def ask(
        self,
        view: PeerView,
        peer: Peer | None,
        *,
        beside: int,
        opened: Callable[[bytes], Manifest],
        learn: Learn,
    ) -> None:
        """Ask one peer for what it lists of the names that are shared here.

        Args:
            view: the peer, which has just answered.
            peer: what it announces; None when it does not.
            beside: how many nodes are on its host.
            opened: opens an envelope.
            learn: learns the past of what is found.

        Raises:
            OverlaysyncError: the peer is at fault.
        """
        names, pause_s = self.names(), _HEAR_S * max(1.0, beside / _NODES_OF_HOST)
        teams = {team for team, _ in names if team}
        question = _Question(names, pause_s, opened, learn, peer)
        if peer is None or _clashes(peer, names):
            await self._hear(view, "", view.address, question)
        tls = peer.tls if peer else view.tls
        if not is_told_port(tls):
            return
        for team in teams & self.node.teams.keys():
            lane = PrivateAddress(view.address.host, tls, team, b"")
            await self._hear(view, team, lane, question)

    async def _hear(self, view: PeerView, team: str, where: Endpoint, question: _Question) -> None:
        """Ask for the catalog of one audience, unless it is too early for that or nothing has changed."""
        names, peer = question.names, question.peer
        now = monotonic()
        heard = view.heard.get(team)
        if heard is None:
            if not self._budget.take(view.address.host, now):
                return
            heard = view.heard[team] = Heard()
        new_names = heard.etag != "" and not names.keys() <= heard.names
        same = peer is not None and not team and peer.revision == heard.revision
        if not new_names and (same or now < heard.again_at - _EARLY_S):
            return
        heard.etag, heard.again_at = "" if new_names else heard.etag, now + question.pause_s
        try:
            answer = await self.client.catalog(where, heard.etag)
        except GoneError:
            heard.etag, heard.again_at = "", now + _STRANGER_S
            return
        if answer.catalog is None:
            return
        if peer is None and not team:
            view.tls = answer.catalog.tls
        found = await asyncio.to_thread(self._keep, answer.catalog, team, names, question.opened)
        await question.learn(view, found, where)
        heard.etag, heard.names, heard.revision = answer.etag, frozenset(names), peer.revision if peer else ""
        if found:
            self.news()

    def _keep(
        self, catalog: CatalogMessage, team: str, names: Names, opened: Callable[[bytes], Manifest]
    ) -> dict[bytes, Manifest]:
        """Keep the headers of what counts: a team's versions by its members, and public ones by this node."""
        found = {}
        for envelope in (*catalog.envelopes, *(envelope for envelope, _ in catalog.in_use)):
            with suppress(OverlaysyncError):
                manifest = opened(envelope)
                header = manifest.header
                known = (header.team, header.name) in names and header.team == team
                mine = manifest.publisher == self.node.key.public
                if known and (mine or team) and manifest.belongs(self.node.teams):
                    found[manifest.id] = manifest
        rows = [manifest_row(manifest) for manifest in found.values()]
        self.node.catalog.manifests.note_seen(rows, at=timestamp())
        return found


def _clashes(peer: Peer, names: Names) -> bool:
    """Whether a peer announces another version of a public name than is shared here."""
    return any(
        (shared := names.get(("", item.name))) and not any(id.startswith(item.id) for id in shared)
        for item in peer.items
    )
