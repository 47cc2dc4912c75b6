"""Takes in what peers list: it is verified, kept as headers with their past, and noted as theirs.

Leaves out whom to ask, and when: that is :mod:`.reach`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import lru_cache, partial
from time import monotonic

from overlaysync.errors import DecodeError, OverlaysyncError
from overlaysync.model.manifest import manifest_id
from overlaysync.net.bounds import MAX_MANIFEST_SIZE
from overlaysync.net.client import Client
from overlaysync.net.faults import Faults
from overlaysync.net.messages import CatalogMessage, Endpoint
from overlaysync.net.refusals import GoneError
from overlaysync.node.host_budget import AskBudget
from overlaysync.node.listed import LISTED_SIZE
from overlaysync.node.node import Node, timestamp
from overlaysync.node.views import PeerView
from overlaysync.ops.manifest_rows import manifest_row
from overlaysync.ops.versions import left_behind
from overlaysync.store.members import Member
from overlaysync.trust.envelope import Manifest, open_envelope

NOTED_S = 60.0
"""What a peer was noted to have is not noted again within this time."""

HISTORIES = 64
"""Histories asked for of one peer, each time it is looked at."""

_OPENED = LISTED_SIZE // MAX_MANIFEST_SIZE
"""Envelopes remembered to be right: in a room many list the same, and each signature takes its time."""


class Intake:
    """Takes in what peers list.

    Args:
        node: keeps it.
        client: asks peers for earlier versions.
        faults: unexpected exceptions go there.

    Attributes:
        opened: opens an envelope, and remembers the last ones.
    """

    def __init__(self, node: Node, client: Client, faults: Faults) -> None:
        self._node = node
        self._client = client
        self._faults = faults
        self._histories = AskBudget()
        self._noting = asyncio.Lock()
        self.opened: Callable[[bytes], Manifest] = lru_cache(_OPENED)(open_envelope)

    def keep_listed(self, catalog: CatalogMessage, team: str, view: PeerView) -> dict[bytes, Manifest]:
        """Verify envelopes and keep their headers; a wrong one is left out, its neighbours are not.

        So is one that no member of the team it was listed to has published. That the peer has what it lists
        is noted, of what is or was here; what a VM uses there is known, and nothing that it has.
        """
        manifests = {}
        items = (*((envelope, "") for envelope in catalog.envelopes), *catalog.in_use)
        for envelope, since in items:
            with suppress(OverlaysyncError):
                manifest = self.opened(envelope)
                if manifest.header.team == team and manifest.belongs(self._node.teams):
                    if since and manifest.id not in manifests:
                        view.in_use[manifest.id] = since
                    manifests[manifest.id] = manifest
        rows = [manifest_row(manifest) for manifest in manifests.values()]
        self._node.catalog.manifests.note_seen(rows, at=timestamp())
        if view.public_key != self._node.key.public:
            contents = {row.content for row in rows if row.id not in view.in_use}
            lately = timestamp(ago_s=NOTED_S)
            self._node.catalog.holders.note_all(
                view.public_key, view.label, contents, at=timestamp(), fresh=lately
            )
            gone = left_behind(self._node.catalog, view.public_key, view.label, rows)
            self._node.catalog.holders.forget(view.public_key, view.label, gone)
        return manifests

    async def learn_history(
        self, view: PeerView, manifests: Mapping[bytes, Manifest], where: Endpoint | None = None
    ) -> None:
        """Ask the peer for headers of earlier versions, where what it lists follows unknown ones.

        A wrong answer is the last one for a while: it is paid for with all that its host may still be asked.

        Args:
            view: the peer.
            manifests: what of it is looked at.
            where: where to ask it; None for where it serves them.
        """
        unasked = [manifest for id, manifest in manifests.items() if id not in view.pasts]
        unknown = await asyncio.to_thread(self.without_past, unasked)
        host = view.address.host
        for manifest in unknown[:HISTORIES]:
            if not self._histories.take(host, monotonic()):
                return
            endpoint = where or view.endpoint(manifest.header.team)
            try:
                envelopes = await self._client.history(endpoint, manifest.id)
                view.pasts.add(manifest.id)
                await asyncio.to_thread(self.keep_past, manifest, envelopes)
            except GoneError:
                view.pasts.add(manifest.id)
            except Exception as error:
                self._faults.contain(error, "asking a peer for earlier versions")
                self._histories.spend(host, monotonic())
                return

    def without_past(self, manifests: list[Manifest]) -> list[Manifest]:
        """Those with versions before them that are not known here, the highest of each name first."""
        find = self._node.catalog.manifests.find
        unknown = [
            manifest for manifest in manifests if any(find(id) is None for id in manifest.header.followed)
        ]
        return sorted(unknown, key=lambda manifest: -manifest.header.version)

    def keep_past(self, manifest: Manifest, envelopes: tuple[bytes, ...]) -> None:
        """Keep the headers of versions that ``manifest`` really follows, of the same name and team.

        Its ids say which envelopes these are, and theirs say which come before: what nobody follows is
        dropped without a look at its signature, which takes fifty times as long as its id.

        Raises:
            DecodeError: one of them is wrong, or none is what was asked for; those found before are kept.
        """
        given = {manifest_id(envelope): envelope for envelope in envelopes}
        if given and given.keys().isdisjoint(manifest.header.followed):
            raise DecodeError("the history of a manifest has nothing that it follows")
        rows, follows = [], list(manifest.header.followed)
        try:
            while follows:
                envelope = given.pop(follows.pop(), None)
                if envelope is None:
                    continue
                earlier = open_envelope(envelope)
                same = earlier.header.full_name == manifest.header.full_name
                if same and earlier.belongs(self._node.teams):
                    rows.append(manifest_row(earlier))
                    follows += earlier.header.followed
        finally:
            self._node.catalog.manifests.note_seen(rows, at=timestamp())

    async def note_member(
        self, node: bytes, label: str, team: str, views: Callable[[], Collection[PeerView]]
    ) -> None:
        """Note a member, which has proven to be one, and what all its processes have of the team.

        Args:
            node: its key.
            label: its label.
            team: which one it is in.
            views: gives all peers.
        """
        async with self._noting:  # one after the other: the last of them has seen what all processes have
            same = [view for view in views() if view.public_key == node]
            things = {thing for view in same for thing in view.things.get(team, ())}
            member = Member(node, label, timestamp(), tuple(sorted(things)))
            note = partial(self._node.catalog.members.note, fresh=timestamp(ago_s=NOTED_S))
            await asyncio.to_thread(note, self._node.teams[team].id, member)
