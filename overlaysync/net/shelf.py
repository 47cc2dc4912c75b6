"""What a node serves, and to whom: the one place where it is decided who may see what.

A manifest that names a team is for those who have proven that they are in it, any other is for everybody.
What a view does not show does not exist for who asks: "no" and "absent" are one answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from overlaysync.model.digest import derive
from overlaysync.ops.offer import Offer
from overlaysync.swarm.members import Swarms

PUBLIC = frozenset({""})
"""The teams of somebody who has proven nothing: what is in no team."""


class Shelf(Protocol):
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

    def peers(self) -> Sequence[str]:
        """Addresses of other nodes, ``HOST:PORT``."""
        ...

    @property
    def swarms(self) -> Swarms:
        """Who fetches what is served."""
        ...


@dataclass(frozen=True, slots=True)
class View:
    """What of a shelf those may see who are in one of ``teams``."""

    shelf: Shelf
    teams: frozenset[str] = PUBLIC

    def offers(self) -> list[Offer]:
        """All that may be seen."""
        return [offer for offer in self.shelf.offers() if self._shows(offer)]

    def offer(self, manifest_id: bytes) -> Offer | None:
        """One of them."""
        offer = self.shelf.offer(manifest_id)
        return offer if offer is not None and self._shows(offer) else None

    @property
    def revision(self) -> str:
        """Changes whenever these offers do, and not when others do; letters and digits."""
        ids = b"".join(sorted(offer.manifest.id for offer in self.offers()))
        return derive("overlaysync v1 catalog", ids).hex()[:16]

    def _shows(self, offer: Offer) -> bool:
        return offer.manifest.header.team in self.teams
