"""What nodes have saved, as their peers list it: a head counts only if a peer can show it.

Otherwise a peer that lists a head with a high counter, which does not exist, would hide the newest one from
all machines that keep copies of it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, TypeVar

from overlaysync.errors import DecodeError, NotFoundError, OverlaysyncError, VerificationError
from overlaysync.model.names import one_field
from overlaysync.net.vault_wire import VaultOffer
from overlaysync.node.peer_objects import PeerObjects
from overlaysync.node.reach import Reach
from overlaysync.node.views import PeerView
from overlaysync.trust.keys import verify
from overlaysync.vault.head import SignedHead, decode_head
from overlaysync.vault.objects import Objects, get_whole, head_name, parse_name
from overlaysync.vault.spaces import Space

_T = TypeVar("_T")
_PATIENCE_S = 10.0
"""A peer may cost so much time, in which it lists what it has ..."""
_FORGIVEN_S = 1.0
"""... and so much more in each later round: the others must not wait for it."""
_AT_ONCE = 8
"""Peers asked at once."""
_WRONG = 8
"""Heads that a peer lists and cannot show, after which no more of them are asked for in this round."""
_REMEMBERED = 1 << 16
"""Heads of which is remembered whether they can be shown."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer with a vault."""

    view: PeerView
    offer: VaultOffer
    objects: PeerObjects

    @property
    def key(self) -> bytes:
        return self.view.public_key

    @property
    def label(self) -> str:
        return one_field(self.view.label) or str(self.view.address)

    @property
    def host(self) -> frozenset[object]:
        """What tells its machine: its boot, and its address."""
        return frozenset(filter(None, (self.view.boot, self.view.address.host)))


@dataclass(slots=True)
class Group:
    """What one node has saved in one space, as the peers list it.

    Attributes:
        tag, node: the space, and the public key of the node.
        counter: of its newest head that somebody lists and can show.
        holders: peers that list that one.
        lacking: peers that keep the space and do not.
        lying: peers that list a newer one, which they cannot show.
    """

    tag: str
    node: bytes
    counter: int
    holders: list[Peer] = field(default_factory=list)
    lacking: list[Peer] = field(default_factory=list)
    lying: list[Peer] = field(default_factory=list)


_Listed = Sequence[tuple[Peer, dict[bytes, int]]]


class Claims:
    """Asks peers what they have, and for the heads that they list.

    Args:
        reach: knows the peers.
        own: public key of this node.
        objects: its vault: what is there need not be shown.
        tell: is told of heads that cannot be used.
    """

    def __init__(self, reach: Reach, own: bytes, objects: Objects, tell: Callable[[str], None]) -> None:
        self._reach = reach
        self._own = own
        self._objects = objects
        self._tell = tell
        self._spent: dict[bytes, float] = {}
        self._true: set[tuple[str, bytes, int]] = set()
        self._false: set[tuple[bytes, str, bytes, int]] = set()

    async def peers(self) -> list[Peer]:
        """Return the peers within reach that have a vault, as far as it is known which node they are."""
        later = ((key, spent - _FORGIVEN_S) for key, spent in self._spent.items())
        self._spent = {key: spent for key, spent in later if spent > 0}
        views = [
            view
            for view in self._reach.directory.nodes()
            if view.public_key not in (b"", self._own) and not view.problem
        ]
        places = asyncio.Semaphore(_AT_ONCE)
        loop = asyncio.get_running_loop()

        async def ask(view: PeerView) -> Peer | None:
            async with places:
                offer = await self._ask(view.public_key, self._reach.client.vault(view.address))
            if offer is None:
                return None
            return Peer(view, offer, PeerObjects(self._reach.client, view.address, loop))

        found = await asyncio.gather(*map(ask, views))
        return [peer for peer in found if peer is not None]

    async def groups(self, tag: str, space: Space | None, peers: Sequence[Peer]) -> list[Group]:
        """Return what the peers list of a space.

        Args:
            tag: of the space.
            space: it, where its key is known.
            peers: asked.
        """
        listed = [(peer, await self._counters(peer, tag)) for peer in peers]
        if len(self._true) + len(self._false) > _REMEMBERED:
            self._true.clear()
            self._false.clear()
        wrong: Counter[bytes] = Counter()
        groups = []
        for node in dict.fromkeys(node for _, counters in listed for node in counters):
            counter = await self._newest(tag, space, node, listed, wrong)
            if counter:
                groups.append(self._group(tag, node, counter, listed))
        return groups

    async def _counters(self, peer: Peer, tag: str) -> dict[bytes, int]:
        counters: dict[bytes, int] = {}
        if tag in peer.offer.spaces:
            heads = self._reach.client.vault_heads(peer.view.address, tag)
            for stored in await self._ask(peer.key, heads) or ():
                named = parse_name(stored.name)
                assert named is not None, "checked when it was decoded"
                counters[named.hash] = max(named.counter, counters.get(named.hash, 0))
        return counters

    async def _ask(self, key: bytes, work: Coroutine[Any, Any, _T]) -> _T | None:
        """Return what a peer answers; None if it fails, or has cost too much time."""
        left = _PATIENCE_S - self._spent.get(key, 0.0)
        if left <= 0:
            work.close()
            return None
        begun = monotonic()
        try:
            async with asyncio.timeout(left):
                return await work
        except (OverlaysyncError, TimeoutError):
            return None
        finally:
            self._spent[key] = self._spent.get(key, 0.0) + monotonic() - begun

    async def _newest(
        self, tag: str, space: Space | None, node: bytes, listed: _Listed, wrong: Counter[bytes]
    ) -> int:
        """Return the counter of a node's newest head that somebody lists and can show; 0 for none."""
        for counter in sorted({counters.get(node, 0) for _, counters in listed} - {0}, reverse=True):
            if (tag, node, counter) in self._true:
                return counter
            showing = [
                peer
                for peer, counters in listed
                if counters.get(node) == counter
                and (peer.key, tag, node, counter) not in self._false
                and wrong[peer.key] < _WRONG
            ]
            group = Group(tag, node, counter, showing)
            if showing and await asyncio.to_thread(self.head, group, space, wrong) is not None:
                self._true.add((tag, node, counter))
                return counter
        return 0

    def _group(self, tag: str, node: bytes, counter: int, listed: _Listed) -> Group:
        group = Group(tag, node, counter)
        for peer, counters in listed:
            claimed = counters.get(node, 0)
            if claimed == counter:
                group.holders.append(peer)
            elif (peer.key, tag, node, claimed) in self._false:
                group.lying.append(peer)
            elif claimed < counter and (tag in peer.offer.keeps or peer.offer.others):
                group.lacking.append(peer)
        return group

    def head(
        self, group: Group, space: Space | None, wrong: Counter[bytes] | None = None
    ) -> SignedHead | None:
        """Return a group's head, as it is here or one of the holders shows it; None where nobody can.

        Args:
            group: whose.
            space: the space, where its key is known.
            wrong: counts, by peer, the heads that could not be had.
        """
        name = head_name(group.tag, group.node, group.counter)
        try:
            return _head(self._objects, name, space)
        except OverlaysyncError:
            pass
        for peer in group.holders:
            try:
                return _head(peer.objects, name, space)
            except (NotFoundError, DecodeError, VerificationError) as error:
                self._false.add((peer.key, group.tag, group.node, group.counter))
                self._tell(f"{peer.label} has a list of saved states that cannot be used: {error}")
            except OverlaysyncError:
                pass
            if wrong is not None:
                wrong[peer.key] += 1
        return None


def _head(objects: Objects, name: str, space: Space | None) -> SignedHead:
    head = decode_head(get_whole(objects, name), verify, space)
    if head.head.name != name or (space is not None and not head.vouched):
        raise DecodeError("its content does not match its name, or no member of the team made it")
    return head
