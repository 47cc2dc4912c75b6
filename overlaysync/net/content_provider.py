"""What a node serves, and which clients may see it: that is decided here and nowhere else.

A manifest that names a team is for clients that have proven to be in it, any other is for everybody. What a
view does not show does not exist for the client: "no" and "absent" are one answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

from overlaysync.model.digest import derive
from overlaysync.net.boot import boot_hash
from overlaysync.net.messages import Address
from overlaysync.ops.in_use import InUse
from overlaysync.ops.offer import Offer
from overlaysync.swarm.members import Swarms

_own_boot = cache(boot_hash)

PUBLIC = frozenset({""})
"""The teams of somebody who has proven nothing: what is in no team."""


class ContentProvider(Protocol):
    """All there is to serve, at this moment. Called from the event loop: nothing here may block."""

    @property
    def label(self) -> str:
        """``user@host``, for people."""
        ...

    @property
    def public_key(self) -> bytes:
        """The node's key."""
        ...

    def offers(self) -> Sequence[Offer]:
        """All that is served, the most important first."""
        ...

    def offer(self, manifest_id: bytes) -> Offer | None:
        """One of them."""
        ...

    def in_use(self) -> Sequence[InUse]:
        """Return what a VM uses here: it is listed, and its data are not served."""
        ...

    def peers(self) -> Sequence[Address]:
        """Addresses of other nodes."""
        ...

    @property
    def swarms(self) -> Swarms:
        """Who fetches what is served."""
        ...


@dataclass(frozen=True, slots=True)
class View:
    """What of it those may see who are in one of ``teams``."""

    provider: ContentProvider
    teams: frozenset[str] = PUBLIC

    def offers(self) -> list[Offer]:
        """All that may be seen."""
        return [offer for offer in self.provider.offers() if self._shows(offer)]

    def offer(self, manifest_id: bytes) -> Offer | None:
        """One of them."""
        offer = self.provider.offer(manifest_id)
        return offer if offer is not None and self._shows(offer) else None

    def in_use(self) -> list[InUse]:
        """Return what is in use, of all that may be seen."""
        return [used for used in self.provider.in_use() if self._shows(used)]

    def past(self, manifest_id: bytes) -> tuple[bytes, ...] | None:
        """Return the envelopes of the versions before one that is listed; None when it is not."""
        offer = self.offer(manifest_id)
        if offer is not None:
            return offer.past
        return next((used.past for used in self.in_use() if used.manifest.id == manifest_id), None)

    @property
    def revision(self) -> str:
        """Changes whenever the catalog does, and not when other things do; letters and digits.

        Of what the node says of itself as well: readers keep a catalog while it starts anew.
        """
        ids = b"".join(sorted(offer.manifest.id for offer in self.offers()))
        used = sorted(used.manifest.id + used.since.encode() for used in self.in_use())
        about = _own_boot() + self.provider.label.encode()
        return derive("overlaysync v1 catalog", ids + b"".join(used) + about).hex()[:16]

    def _shows(self, listed: Offer | InUse) -> bool:
        return listed.manifest.header.team in self.teams
