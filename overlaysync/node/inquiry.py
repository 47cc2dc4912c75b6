"""Asking one peer who it is and what it lists: what its answers say goes into its view.

Leaves out whom to ask, and when: that is :mod:`.polling`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from overlaysync.discovery.browser import Peer
from overlaysync.discovery.resolving import resolve
from overlaysync.errors import DecodeError, PeerError
from overlaysync.model.addresses import is_told_port
from overlaysync.model.names import one_field
from overlaysync.net.client import CatalogAnswer, Client
from overlaysync.net.faults import Faults
from overlaysync.net.messages import Address, PrivateAddress
from overlaysync.net.refusals import GoneError
from overlaysync.node.directory import PeerDirectory
from overlaysync.node.hearing import Hearing
from overlaysync.node.intake import Intake
from overlaysync.node.node import Node
from overlaysync.node.observer import Observer
from overlaysync.node.twins import Twins
from overlaysync.node.views import PeerView
from overlaysync.ops.team_things import things_of
from overlaysync.trust.envelope import Manifest
from overlaysync.trust.keys import node_id

_STAYED_S = 3.0
"""A peer that is announced elsewhere must answer where it was within this time: as long as to connect."""

Told: TypeAlias = Callable[[Iterable[Address], Address], None]
"""Is given addresses of nodes, and who told of them."""


@dataclass(slots=True)
class Inquiry:
    """Asks peers, each by itself.

    Attributes:
        node, client, observer: as of the command.
        directory: the peers.
        faults: unexpected exceptions; none of them is more than one peer's problem.
        twins: other machines with this node's key.
    """

    node: Node
    client: Client
    observer: Observer
    directory: PeerDirectory
    faults: Faults
    twins: Twins
    _intake: Intake = field(init=False)

    def __post_init__(self) -> None:
        self._intake = Intake(self.node, self.client, self.faults)

    async def look(self, view: PeerView, addresses: tuple[Address, ...], told: Told | None) -> None:
        """Fill ``view`` from the first address that answers.

        Args:
            view: the peer.
            addresses: where to try, in this order.
            told: is given the peers that it knows; None: it is not asked for them.
        """
        resolved = await self._resolve(addresses)
        for address in resolved:
            try:
                answer = await self.client.catalog(address, view.etag)
            except (PeerError, DecodeError) as error:
                problem = str(error) if address in addresses else f"{view.address}: {error}"
            else:
                # Another node may have its old port by now, and it a new one.
                if address == resolved[-1] or not _is_another(answer, view):
                    break
        else:
            self._fails(view, problem)
            return
        await self._take(view, address, answer)
        if told is not None:
            await self._ask_its_peers(address, told)

    def _fails(self, view: PeerView, problem: str) -> None:
        """Note that a peer does not answer."""
        known, view.problem = view.problem, problem
        if not view.announced and view.manifests:
            # It was asked again, says no goodbye, and has gone: nothing can be had of it.
            view.etag, view.public = "", {}
            self.directory.set_list(view, {})
        if self.directory.is_named(view) and len(self.directory.named) > 1 and problem != known:
            self.observer.note(problem)

    async def _take(self, view: PeerView, address: Address, answer: CatalogAnswer) -> None:
        """Fill ``view`` from an answer, and from what its private lane answers."""
        view.address, view.etag, view.problem, view.answered = address, answer.etag, "", True
        if answer.catalog is not None:
            view.public_key = answer.catalog.node
            view.label = one_field(answer.catalog.label)
        view.alias = self.directory.is_alias(view)
        if answer.catalog is not None:
            view.tls = answer.catalog.tls if _may_have(answer.catalog.tls, address) else 0
            view.boot, view.in_use, view.pasts = answer.catalog.boot, {}, set()
            view.public = await asyncio.to_thread(self._intake.keep_listed, answer.catalog, "", view)
        view.in_use = {id: since for id, since in view.in_use.items() if id in view.public}
        self.directory.set_list(view, view.public | await self._look_in_private(view))
        await self._intake.learn_history(view, view.manifests)
        self.directory.cut_lists()

    async def greet(self, view: PeerView, addresses: tuple[Address, ...], told: Told | None) -> bool:
        """Find out where a peer answers, which is told to others; what it has is not needed here."""
        for address in await self._resolve(addresses):
            try:
                others = await self.client.peers(address)
            except (PeerError, DecodeError) as error:
                view.problem = str(error)
                continue
            view.address, view.problem, view.answered = address, "", True
            if told is not None:
                told(others, address)
            return True
        return False

    async def hear(self, hearing: Hearing, view: PeerView, peer: Peer | None, *, beside: int) -> None:
        """Ask a peer for other versions of what is shared here; it may be asked in vain.

        Args:
            hearing: what is asked of others.
            view: the peer, which has just answered.
            peer: what it announces; None when it does not.
            beside: how many nodes are on its host.
        """
        try:
            opened, learn = self._intake.opened, self._intake.learn_history
            await hearing.ask(view, peer, beside=beside, opened=opened, learn=learn)
        except Exception as error:
            self.faults.contain(error, "asking a peer for versions of what is shared here")

    async def look_for_twin(self, view: PeerView, announced: Peer | None) -> None:
        """Find out whether a peer elsewhere that claims this node's key has it."""
        said = node_id(view.public_key) if view.public_key else ""
        claimed = said or (announced.node_id if announced else "")
        if view.problem or not claimed or self.directory.neighbourhood.is_here(view.address.host):
            return
        own = self.node.key.public
        if claimed != node_id(own):
            return
        tls, label = view.tls, view.label
        if announced is not None:
            tls, label = tls or announced.tls, label or announced.label
        try:
            await self.twins.meet(own, view.address, tls, label)
            view.unproven = 0
        except Exception as error:
            self.faults.contain(error, "asking a peer to prove this machine's key")
            view.unproven += 1

    async def has_left(self, view: PeerView, announced: Peer) -> bool:
        """Whether a peer that is announced elsewhere does not answer any more where it did.

        It is asked for something small, and soon: of what was sent on a connection to an address that has
        gone nothing is heard for long, and the catalog of one that has stayed may take its time.
        """
        if not view.answered or view.address.host in announced.addresses:
            return False
        try:
            async with asyncio.timeout(_STAYED_S):
                await self.client.peers(view.address)
        except (TimeoutError, PeerError, DecodeError):
            return True
        return False

    async def still_answers(self, view: PeerView) -> bool:
        """Whether a peer that is said to have gone answers where it did."""
        try:
            await self.client.peers(view.address)
        except Exception as error:
            self.faults.contain(error, "asking whether a peer has gone")
            return False
        return True

    async def _ask_its_peers(self, address: Address, told: Told) -> None:
        """Ask a peer for those that it knows."""
        try:
            told(await self.client.peers(address), address)
        except Exception as error:
            self.faults.contain(error, "asking a peer for its peers")

    async def _resolve(self, addresses: tuple[Address, ...]) -> tuple[Address, ...]:
        """IP addresses only, once for each name: where a node is, and who it is, goes by these."""
        resolved = self.directory.resolved
        for address in addresses:
            if address in self.directory.named and address not in resolved:
                resolved[address] = await resolve(address)
        return tuple(ip for address in addresses for ip in resolved.get(address, (address,)))

    async def _look_in_private(self, view: PeerView) -> dict[bytes, Manifest]:
        """Return what the peer serves to the teams that this node is in as well."""
        view.things = {}
        teams = self.node.teams if view.tls and not view.alias else ()
        found = await asyncio.gather(*(self._look_in_team(view, team) for team in teams))
        return {id: manifest for manifests in found for id, manifest in manifests.items()}

    async def _look_in_team(self, view: PeerView, team: str) -> dict[bytes, Manifest]:
        endpoint = view.endpoint(team)
        assert isinstance(endpoint, PrivateAddress)
        try:
            catalog = await self.client.private_catalog(endpoint)
            manifests = await asyncio.to_thread(self._intake.keep_listed, catalog, team, view)
            view.things[team] = things_of(manifests.values())
            if view.public_key != self.node.key.public:
                await self._intake.note_member(view.public_key, catalog.label, team, self.directory.nodes)
            return manifests
        except GoneError:
            return {}
        except Exception as error:
            failure = self.faults.contain(error, "asking a peer for its team's catalog")
            if str(failure) != view.noted:
                self.observer.note(str(failure))
            # Ask again, if it is announced; and for all it says: its private lane may have moved.
            view.noted, view.revision, view.etag = str(failure), "", ""
            return {}


def _may_have(tls: int, address: Address) -> bool:
    """Whether to dial a private lane that a peer tells of; who was named with a low port may have two."""
    return is_told_port(tls) or not is_told_port(address.port)


def _is_another(answer: CatalogAnswer, view: PeerView) -> bool:
    """Whether another node answers than did before."""
    return answer.catalog is not None and view.public_key not in (b"", answer.catalog.node)
