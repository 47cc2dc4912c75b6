"""The peers that are known, and what they list, all together: bounded, and every node once.

Leaves out whom to ask, and when: that is :mod:`.polling`.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from overlaysync.discovery.locality import Neighbourhood
from overlaysync.net.messages import Address, Endpoint
from overlaysync.node.listed import LISTED_SIZE, Listed
from overlaysync.node.lost import Lost
from overlaysync.node.views import PeerView, listings_of
from overlaysync.ops.matching import Listing
from overlaysync.trust.envelope import Manifest


class PeerDirectory:
    """The peers that are known.

    Args:
        named: addresses that the user named.
        lost: machines that nothing is asked of.

    Attributes:
        views: the peers, by label when they are announced, else by address.
        named: as given.
        resolved: the IP addresses of those that were named by a name.
        neighbourhood: where hosts are.
    """

    def __init__(self, named: Iterable[Address] = (), lost: Lost | None = None) -> None:
        self.views: dict[str, PeerView] = {}
        self.named = tuple(one for one in named if lost is None or not lost.has_address(*one))
        self.lost = lost
        self.resolved: dict[Address, tuple[Address, ...]] = {}
        self.neighbourhood = Neighbourhood()
        self._listed = Listed()
        self._index: dict[tuple[bytes, str], dict[str, tuple[Endpoint, Manifest]]] | None = None

    def changed(self) -> None:
        """Note that something in the views has changed."""
        self._index = None

    def nodes(self) -> list[PeerView]:
        """Return every node once, as far as that can be known."""
        lost = self.lost
        return [
            view
            for view in self.views.values()
            if not view.alias and not (lost is not None and lost.has_label(view.label))
        ]

    def listings(self) -> list[Listing]:
        """Return everything listed, by manifest, with the peers that list it."""
        return listings_of(self.nodes())

    def sources(self, content: bytes, team: str = "") -> dict[str, tuple[Endpoint, Manifest]]:
        """Return source key → (address, manifest to ask for) of each peer that lists a content to ``team``.

        What is fetched as a team's is asked of its members alone, even where others have it for everybody.
        """
        if self._index is None:
            self._index = {}
            for view in self.nodes():
                for manifest in view.served:
                    header = manifest.header
                    endpoint = view.endpoint(header.team)
                    found = self._index.setdefault((header.content_id, header.team), {})
                    found[str(endpoint)] = (endpoint, manifest)
        return self._index.get((content, team), {})

    def answering(self) -> list[Address]:
        """Return the addresses of the nodes that answered when they were last asked."""
        return list(
            dict.fromkeys(view.address for view in self.nodes() if view.answered and not view.problem)
        )

    def label_of(self, source: str) -> str:
        """Return the label of the node behind a source key."""
        for view in self.nodes():
            if view.label and source in (str(view.address), str(view.endpoint("any"))):
                return view.label
        return source

    def may_dial(self, host: str, port: int, *, told_by: Endpoint) -> bool:
        """Whether to believe a peer that a node answers at ``host`` (an IP address) and ``port``.

        In a drill no such address is dialled: it could be one of a machine that is pretended to be lost.
        """
        return self.lost is None and self.neighbourhood.may_dial(host, port, told_by=told_by.host)

    def is_named(self, view: PeerView) -> bool:
        """Whether the user named a peer's address, or the name of it."""
        return view.address in self.named or any(view.address in ips for ips in self.resolved.values())

    def set_list(self, view: PeerView, manifests: dict[bytes, Manifest]) -> None:
        """Replace what a peer lists; nothing counts of one that has gone while it was asked."""
        if view.counted:
            self._listed.remove(view.manifests)
        view.manifests, view.size = manifests, sum(len(manifest.envelope) for manifest in manifests.values())
        here = any(known is view for known in self.views.values())
        view.counted = here and not self.is_named(view)
        if view.counted:
            self._listed.add(manifests)

    def cut_lists(self) -> None:
        """Halve the longest lists while all together are too long: short ones stay whole, whoever floods."""
        while self._listed.size > LISTED_SIZE:
            counted = (view for view in self.views.values() if view.counted)
            longest = max(counted, key=lambda view: view.size)
            kept = dict(islice(longest.manifests.items(), len(longest.manifests) // 2))
            longest.public = {id: kept[id] for id in longest.public if id in kept}
            longest.etag = ""
            self.set_list(longest, kept)

    def is_alias(self, view: PeerView) -> bool:
        """Whether another view stands for the node.

        By key only among this machine's own addresses: elsewhere anybody could claim another's.
        """
        others = [
            other for other in self.nodes() if other is not view and other.public_key and not other.problem
        ]
        return any(other.address == view.address for other in others) or (
            self.neighbourhood.is_here(view.address.host)
            and any(
                (other.public_key, other.address.port) == (view.public_key, view.address.port)
                and self.neighbourhood.is_here(other.address.host)
                for other in others
            )
        )

    def unmask(self) -> None:
        """Let views stand for themselves again where the one that stood for them has gone or moved."""
        nodes = {view.address for view in self.nodes() if view.public_key and not view.problem}
        for view in self.views.values():
            if view.alias and view.address not in nodes and not self.is_alias(view):
                nodes.add(view.address)
                view.alias, view.revision = False, ""  # ask again, for its teams' catalogs were not asked for
