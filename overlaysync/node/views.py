"""Peers as this node sees them, and what all of them list together."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass, field

from overlaysync.net.messages import Address, Endpoint, PrivateAddress
from overlaysync.ops.in_use import Usage
from overlaysync.ops.matching import Listing
from overlaysync.store.members import Thing
from overlaysync.trust.envelope import Manifest


@dataclass(slots=True)
class Heard:
    """What was heard of one node for one audience.

    Attributes:
        etag: of its catalog; "" to get all of it.
        revision: what it announced then.
        names: those that it was asked for.
        again_at: when to ask again, by the monotonic clock.
    """

    etag: str = ""
    revision: str = ""
    names: Set[tuple[str, str]] = frozenset()
    again_at: float = 0.0


@dataclass(slots=True)
class PeerView:
    """A node as seen by this one.

    Attributes:
        address: where it answered.
        public_key: what it says its key is.
        label: its label, safe to print.
        manifests: what it lists, signatures verified, by id: to everybody, and to the teams of this node.
        etag: of its catalog.
        problem: why it could not be asked; "" when it was.
        announced: whether mDNS brought it (else it was named, or a peer told of it).
        revision: of its catalog, as it was announced when it was last asked.
        addresses: of it, as they were announced then.
        tls: port of its private lane.
        answered: whether it has answered.
        public: those of the manifests that are for everybody.
        in_use: those of the manifests that it lists without their data, and since when a VM uses them there.
        boot: what it says its machine has in common with other nodes there; b"" when it says nothing.
        alias: whether it is a node on this machine that another of its addresses already stands for.
        pasts: those of the manifests whose past it has told, or does not know, since its catalog has changed.
        things: what it lists to each team of this node that it has proven to be in.
        size: bytes of the envelopes it lists.
        counted: whether what it lists counts, with all others' that nobody named.
        noted: what was last said of its private lane: a command that stays asks again and again.
        heard: what a share heard of it, by team.
        asked_at: when it was last asked, by the monotonic clock.
        unproven: how often it has claimed this node's key and could not be asked to prove it.
    """

    address: Address
    public_key: bytes = b""
    label: str = ""
    manifests: dict[bytes, Manifest] = field(default_factory=dict)
    etag: str = ""
    problem: str = ""
    alias: bool = False
    announced: bool = False
    revision: str = ""
    addresses: tuple[str, ...] = ()
    tls: int = 0
    answered: bool = False
    public: dict[bytes, Manifest] = field(default_factory=dict)
    in_use: dict[bytes, str] = field(default_factory=dict)
    boot: bytes = b""
    pasts: set[bytes] = field(default_factory=set)
    things: dict[str, tuple[Thing, ...]] = field(default_factory=dict)
    size: int = 0
    counted: bool = False
    noted: str = ""
    unproven: int = 0
    asked_at: float = 0.0
    heard: dict[str, Heard] = field(default_factory=dict)

    @property
    def host(self) -> str:
        """What tells its machine from others: what it says itself, else its address."""
        return self.boot.hex() or self.address.host

    @property
    def served(self) -> list[Manifest]:
        """What it gives out now."""
        return [manifest for id, manifest in self.manifests.items() if id not in self.in_use]

    def endpoint(self, team: str) -> Endpoint:
        """Where it serves what belongs to ``team`` ("" for everybody)."""
        if not team:
            return self.address
        return PrivateAddress(self.address.host, self.tls, team, self.public_key)


def listings_of(views: Iterable[PeerView]) -> list[Listing]:
    """Return everything that these peers list, by manifest, with the peers that list it."""
    found: dict[bytes, tuple[Manifest, list[PeerView]]] = {}
    for view in views:
        for manifest in view.manifests.values():
            found.setdefault(manifest.id, (manifest, []))[1].append(view)
    return [_listing(manifest, those) for manifest, those in found.values()]


def _listing(manifest: Manifest, views: list[PeerView]) -> Listing:
    serving = [view for view in views if manifest.id not in view.in_use]
    return Listing(
        manifest,
        tuple(str(view.address) for view in serving),
        tuple(view.label for view in serving),
        tuple(view.host for view in serving),
        tuple(
            Usage(view.label, str(view.address), view.in_use[manifest.id])
            for view in views
            if manifest.id in view.in_use
        ),
    )
