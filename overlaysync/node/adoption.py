"""Adoption: find the master that a stray overlay belongs to, here or among peers, and bring it here.

What decides is in :mod:`overlaysync.ops.adopt`; here are the waiting and the transfer.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from overlaysync.errors import BaseImageError
from overlaysync.formats.folders import image_files
from overlaysync.model.digest import short_id
from overlaysync.model.reference import Reference
from overlaysync.node.node import Node, now
from overlaysync.node.observer import Observer
from overlaysync.ops.adopt import Proof, candidates, on_its_master, prove
from overlaysync.ops.adopt_messages import unproven
from overlaysync.ops.bases import Places, find_base
from overlaysync.ops.choice import Choice, Reason
from overlaysync.ops.claims import Claim, Claims
from overlaysync.ops.known import Known
from overlaysync.ops.plan import Step, plan_master
from overlaysync.ops.strays import Stray
from overlaysync.units import format_size

if TYPE_CHECKING:  # what is here is adopted without the network's modules, which are slow to import
    from overlaysync.node.fetching import Fetch


@dataclass(slots=True)
class Adoption:
    """The search for the master of one overlay.

    Args:
        node: knows images and manifests.
        stray: the overlay.
        directories: where masters are looked for.
        observer: told what is fetched.
    """

    node: Node
    stray: Stray
    directories: list[str]
    observer: Observer
    _claims: Claims = field(init=False)

    def __post_init__(self) -> None:
        self._claims = Claims(self.stray, self.node.library, self.node.book(), self.node.teams)

    def here(self) -> Proof | None:
        """Return the overlay on its master by what is known and present on this machine.

        Raises:
            BaseImageError: what is known contradicts itself.
        """
        library, claims = self.node.library, self._claims.here()
        return on_its_master(library, self.stray, claims, self.directories, now=now())

    def on(self, base: Known) -> Proof | None:
        """Return the proof that it belongs on ``base`` by what is known on this machine.

        Raises:
            BaseImageError: it belongs on another master.
        """
        return self._on(base, self._claims.here())

    async def within_reach(self, fetch: Fetch, only: Known | Reference | None) -> Proof:
        """Return the overlay on its master by what peers offer, which is fetched if it is missing.

        Args:
            fetch: brings it.
            only: the master that the user named; None for any.

        Raises:
            BaseImageError: there is no proof, or its master cannot be had.
        """
        disk = only.disk.id if isinstance(only, Known) else None
        if isinstance(only, Reference):
            disk = (await fetch.find(only, wait_s=fetch.options.wait_s)).choices[0].manifest.header.result_id
        known = await asyncio.to_thread(self._claims.here)

        def claims() -> list[Claim]:
            offered = (listing.manifest for listing in fetch.reach.directory.listings())
            return [*known, *self._claims.of(offered)]

        def enough() -> bool:
            try:
                parents = candidates(self.stray, claims(), disk)
            except BaseImageError:
                return True  # it is disputed, which more peers cannot settle
            have = {
                listing.manifest.header.result_id
                for listing in fetch.reach.directory.listings()
                if listing.peers
            }
            return bool(parents) and (isinstance(only, Known) or not have.isdisjoint(parents))

        await fetch.reach.until(enough, wait_s=fetch.options.wait_s)
        proof = await self._prove(fetch, claims(), disk, only)
        if proof is None:
            raise self.unproven(claims(), only, peers=len(fetch.reach.directory.answering()))
        return proof

    def unproven(
        self, claims: Sequence[Claim], only: Known | Reference | None, *, peers: int
    ) -> BaseImageError:
        """Return the error for an overlay whose master was not found."""
        return unproven(
            self.stray,
            claims,
            only=only if isinstance(only, Known) else None,
            asked=f"{peers} peer{'' if peers == 1 else 's'}" if peers else "",
            guess=self._namesake(),
        )

    async def _prove(
        self, fetch: Fetch, claims: list[Claim], disk: bytes | None, only: Known | Reference | None
    ) -> Proof | None:
        if isinstance(only, Known):
            return await asyncio.to_thread(self._on, only, claims)
        if disk is None:
            library, stray = self.node.library, self.stray
            proof = await asyncio.to_thread(
                on_its_master, library, stray, claims, self.directories, now=now()
            )
            if proof:
                return proof
        parents = candidates(self.stray, claims, disk)
        if len(parents) != 1:
            return None  # which of several it is only reading them would tell
        base = await self._bring(fetch, parents[0])
        return await asyncio.to_thread(prove, self.node.library, self.stray, base, claims) if base else None

    def _on(self, base: Known, claims: list[Claim]) -> Proof | None:
        candidates(self.stray, claims, base.disk.id)
        return prove(self.node.library, self.stray, base, claims)

    async def _bring(self, fetch: Fetch, disk: bytes) -> Known | None:
        """Return an image whose guest sees ``disk``, fetched if it is missing; None when no peer has one."""
        base = await asyncio.to_thread(
            find_base, self.node.library, disk, Places(self.directories, ""), now=now()
        )
        if base:
            return base
        place = fetch.options.masters_place

        def plan() -> list[Step]:
            return plan_master(disk, fetch.reach.directory.listings(), fetch.base_of, masters=place)

        steps = await asyncio.to_thread(plan)
        if not steps:
            return None
        for step in steps:
            header = step.header
            self.observer.note(
                f"  {header.full_name}:{header.version}  {short_id(header.content_id)}, "
                f"{format_size(header.data_size)}, will be fetched to {step.path}  "
                f"from {', '.join(step.listing.labels)}"
            )
        fetched = await fetch.run(steps, Choice(steps[-1].listing, Reason.ID))
        return fetched[-1].known

    def _namesake(self) -> str:
        """Return an image here that is called like the missing master, for the user to look at."""
        known = [row.path for row in self.node.catalog.images.all() if os.path.exists(row.path)]
        name = os.path.basename(self.stray.backing)
        paths = [*known, *image_files(self.directories)]
        return next((path for path in paths if os.path.basename(path) == name), "")
