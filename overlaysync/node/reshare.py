"""Resharing: a node that fetches serves what it has verified, meanwhile and for a moment after.

Other nodes that fetch the same find it through their sources; it is not announced, and its catalog lists only
what is whole. Without a port to listen on the node fetches all the same, and gives nothing.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from overlaysync.errors import NetworkError
from overlaysync.net.bodies import Uploads
from overlaysync.net.bounds import MEMBER_ID_SIZE
from overlaysync.net.membership import PrivateLane
from overlaysync.net.messages import Address
from overlaysync.net.rate import RateLimit
from overlaysync.net.server import Server
from overlaysync.node.node import Node
from overlaysync.node.reach import Reach
from overlaysync.ops.in_use import InUse
from overlaysync.ops.offer import Offer, PartOffer
from overlaysync.swarm.members import Member, Swarms

LINGER_S = 30.0
"""How long a node that is done stays for others who are not."""

_LOOK_S = 0.2
_ACTIVE_S = 3.0
"""Who has not asked for so long is not waited for."""


class PartialSeeder:
    """The contents of a fetching node.

    Attributes:
        member: this node's member id.
        port: where it answers; 0 when it does not.
        tls: where it answers members of its teams; 0 when it does not.
        swarms: who fetches the same.
    """

    def __init__(self, node: Node, reach: Reach) -> None:
        self.member = secrets.token_hex(MEMBER_ID_SIZE)
        self.port = self.tls = 0
        self.swarms = Swarms()
        self._node = node
        self._reach = reach
        self._offers: dict[bytes, PartOffer] = {}
        self._whole: dict[bytes, PartOffer] = {}

    @classmethod
    @asynccontextmanager
    async def open(
        cls, node: Node, reach: Reach, *, limit: RateLimit | None = None
    ) -> AsyncIterator[PartialSeeder]:
        """Serve while the block runs.

        Args:
            node, reach: the node, and whom it has found.
            limit: the rate of what is given to all others together.
        """
        seeder = cls(node, reach)
        server = Server(
            seeder, uploads=Uploads(limit=limit), lane=PrivateLane(node.key, node.teams), faults=reach.faults
        )
        try:
            seeder.port = await server.start()
            seeder.tls = server.tls
        except NetworkError as error:
            reach.observer.note(f"Nothing is passed on: {error}")
        try:
            yield seeder
        finally:
            await server.stop()

    # -- what is served ------------------------------------------------------------------------------

    @property
    def label(self) -> str:
        return self._node.label

    @property
    def public_key(self) -> bytes:
        return self._node.key.public

    def offers(self) -> Sequence[Offer]:
        return tuple(self._whole.values())

    def offer(self, manifest_id: bytes) -> Offer | None:
        return self._offers.get(manifest_id)

    def in_use(self) -> Sequence[InUse]:
        return ()

    def peers(self) -> Sequence[Address]:
        return self._reach.directory.answering()

    def port_for(self, team: str) -> int:
        """Where it answers those who fetch what belongs to ``team`` ("" for everybody)."""
        return self.tls if team else self.port

    # -- what is given -------------------------------------------------------------------------------

    def begin(self, offer: PartOffer) -> None:
        """Give what there is of a content from now on."""
        self._offers[offer.manifest.id] = offer

    def finish(self, offer: PartOffer) -> None:
        """Note that it is whole."""
        offer.finished()
        self._whole[offer.manifest.id] = offer

    def withdraw(self, offer: PartOffer) -> None:
        """Note that it did not become whole."""
        self._offers.pop(offer.manifest.id, None)
        self._whole.pop(offer.manifest.id, None)

    def let_go(self) -> None:
        """Give nothing any more of what is whole: it is replaced, or given by other means."""
        for offer in list(self._whole.values()):
            self.withdraw(offer)

    # -- the end -------------------------------------------------------------------------------------

    def waiting(self) -> list[Member]:
        """Who still fetches what is whole here, and has asked lately."""
        now = asyncio.get_running_loop().time()
        return [
            member
            for manifest_id, offer in self._whole.items()
            for member in self.swarms.of(manifest_id).current(now, age_s=_ACTIVE_S)
            if member.held < offer.pieces.count
        ]

    async def linger(self, *, longest_s: float = LINGER_S) -> None:
        """Stay while others fetch what is whole here: they may have nobody else."""
        loop = asyncio.get_running_loop()
        end = loop.time() + longest_s
        told = False
        while (waiting := self.waiting()) and loop.time() < end:
            if not told:
                count = f"{len(waiting)} other machines" if len(waiting) > 1 else "one other machine"
                self._reach.observer.note(
                    f"Done. Sharing it with {count} until they have it; Ctrl-C ends that"
                )
                told = True
            await asyncio.sleep(_LOOK_S)
