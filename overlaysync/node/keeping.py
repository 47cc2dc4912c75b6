"""Keep: copies of what teams have saved spread by themselves, pulled by the machines that keep them.

Nobody is asked or told to take anything. A machine that keeps a team looks at what the others have, and takes
what has too few copies when it is its turn (:mod:`overlaysync.ops.recovery.placement`). From time to time it
asks those that list something to prove that they have it, and reads its own again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic

from overlaysync.errors import DecodeError, InUseError, OverlaysyncError
from overlaysync.model.names import one_field
from overlaysync.net.boot import boot_hash
from overlaysync.net.faults import Faults
from overlaysync.net.vault_wire import NONCE_SIZE, VaultOffer, proof_of
from overlaysync.node.node import Node, now, timestamp
from overlaysync.node.observer import Observer
from overlaysync.node.peer_objects import PeerObjects
from overlaysync.node.reach import Reach
from overlaysync.node.views import PeerView
from overlaysync.ops.recovery.caring import Reader, heal, missing_objects
from overlaysync.ops.recovery.cleaning import clean
from overlaysync.ops.recovery.lock import only_writer
from overlaysync.ops.recovery.placement import Kept, count_hosts, place_of
from overlaysync.ops.recovery.possession import question
from overlaysync.ops.recovery.pulling import Place, Pull
from overlaysync.ops.recovery.vaults import drop_older, read_heads, space_of
from overlaysync.store.copies import Copy
from overlaysync.store.keeping import KeptTeam, load_keeping
from overlaysync.trust.keys import node_id, verify
from overlaysync.units import format_size
from overlaysync.vault.directory import DirectoryObjects
from overlaysync.vault.head import SignedHead, decode_head
from overlaysync.vault.objects import Objects, get_whole, head_name, head_prefix, parse_name
from overlaysync.vault.spaces import PUBLIC, Space

ROUND_S = 15.0
"""How often others are looked at; somewhat more or less, so that not all machines do it at once."""
_STEP_S = 30.0
"""How much longer, at most, each later machine in the order waits before it takes something."""
_PROVE_S = 6 * 3600.0
"""After so long a holder is asked for another proof."""
_AT_ONCE = 8
"""Peers asked at once."""
_CLEAN_S = 86400.0
"""How often what nothing needs is looked for."""


def kept_by(node: Node) -> Kept:
    """Return what a node keeps at the moment."""
    keeping = load_keeping(node.home.keeping)
    tags = (space_of(team).tag for name, team in node.teams.items() if name in keeping.teams)
    return Kept(tuple(sorted(tags)), keeping.others)


@dataclass(frozen=True, slots=True)
class _Peer:
    """A peer with a vault."""

    view: PeerView
    offer: VaultOffer
    objects: PeerObjects

    @property
    def label(self) -> str:
        return one_field(self.view.label) or str(self.view.address)

    @property
    def host(self) -> frozenset[object]:
        """What tells its machine: its boot, and its address."""
        return frozenset(filter(None, (self.view.boot, self.view.address.host)))


@dataclass(slots=True)
class _Group:
    """What one node has saved in one space, as the peers list it.

    Attributes:
        tag, node: the space, and the public key of the node.
        counter: of its newest head that somebody lists.
        holders: peers that list that one.
        lacking: peers that keep the space and do not.
    """

    tag: str
    node: bytes
    counter: int
    holders: list[_Peer] = field(default_factory=list)
    lacking: list[_Peer] = field(default_factory=list)


class Keeper:
    """Keeps what its node is to keep, round by round.

    Args:
        node: keeps.
        reach: knows the peers.
        observer: is told what was taken.
        faults: unexpected exceptions go there.
    """

    def __init__(self, node: Node, reach: Reach, observer: Observer, faults: Faults) -> None:
        self._node = node
        self._reach = reach
        self._observer = observer
        self._faults = faults
        self._objects = DirectoryObjects(node.home.vault)
        self._boot = boot_hash()
        self._due: dict[tuple[str, bytes, int], float] = {}
        self._told: set[str] = set()
        self._reader = Reader(self._objects)
        self._read_at = monotonic()
        self._cleaned_at = -_CLEAN_S

    async def run(self) -> None:
        """Keep for ever."""
        while True:
            try:
                await self.round()
            except OverlaysyncError as error:
                self._tell_once(f"Cannot keep copies: {error}")
            except Exception as error:  # the next round must come all the same
                self._faults.count(error, "keeping copies")
            await asyncio.sleep(ROUND_S * random.uniform(0.6, 1.4))

    async def look(self) -> int:
        """Note what the peers have of this node's teams, and ask them to prove it.

        Returns:
            How many machines with a vault there are, this one included.
        """
        peers = await self._peers()
        for team in self._node.teams.values():
            space = space_of(team)
            groups = await self._groups(space.tag, peers)
            await self._note(groups)
            await self._prove(space.tag, space, groups)
        return 1 + count_hosts([peer.host for peer in peers])

    async def round(self) -> int:
        """Look at all peers once, and take what is due; returns how many heads were taken."""
        keeping = load_keeping(self._node.home.keeping)
        own = {space_of(team).tag: (space_of(team), name) for name, team in self._node.teams.items()}
        peers = await self._peers()
        taken = 0
        for tag in sorted({tag for peer in peers for tag in peer.offer.spaces} - {PUBLIC.tag}):
            space, name = own.get(tag, (None, ""))
            groups = await self._groups(tag, peers)
            await self._note(groups)
            others = KeptTeam(budget=keeping.others) if keeping.others else None
            settings = keeping.teams.get(name) if space else others
            if settings is not None:
                taken += sum([await self._consider(group, space, settings) for group in groups])
            if settings or space:
                await self._prove(tag, space, groups)
        await asyncio.to_thread(self._care, peers)
        return taken

    # -- looking ---------------------------------------------------------------------------------------

    async def _peers(self) -> list[_Peer]:
        views = [
            view
            for view in self._reach.directory.nodes()
            if view.public_key != self._node.key.public and not view.problem
        ]
        places = asyncio.Semaphore(_AT_ONCE)
        loop = asyncio.get_running_loop()

        async def ask(view: PeerView) -> _Peer | None:
            async with places:
                try:
                    offer = await self._reach.client.vault(view.address)
                except OverlaysyncError:
                    return None
            return _Peer(view, offer, PeerObjects(self._reach.client, view.address, loop))

        found = await asyncio.gather(*map(ask, views))
        return [peer for peer in found if peer is not None]

    async def _groups(self, tag: str, peers: Sequence[_Peer]) -> list[_Group]:
        """Return what the peers list of a space."""
        listed: list[tuple[_Peer, dict[bytes, int]]] = []
        for peer in peers:
            counters: dict[bytes, int] = {}
            if tag in peer.offer.spaces:
                try:
                    for stored in await self._reach.client.vault_heads(peer.view.address, tag):
                        named = parse_name(stored.name)
                        assert named is not None, "checked when it was decoded"
                        counters[named.hash] = max(named.counter, counters.get(named.hash, 0))
                except OverlaysyncError:
                    continue
            listed.append((peer, counters))
        groups: dict[bytes, _Group] = {}
        for _, counters in listed:
            for node, counter in counters.items():
                group = groups.setdefault(node, _Group(tag, node, counter))
                group.counter = max(group.counter, counter)
        for peer, counters in listed:
            for node, group in groups.items():
                if counters.get(node, 0) == group.counter:
                    group.holders.append(peer)
                elif tag in peer.offer.keeps or peer.offer.others:
                    group.lacking.append(peer)
        return list(groups.values())

    # -- taking ----------------------------------------------------------------------------------------

    async def _consider(self, group: _Group, space: Space | None, settings: KeptTeam) -> int:
        """Take what is new in a group, if it is this node's turn."""
        if await asyncio.to_thread(self._counter, group) >= group.counter:
            return 0
        hosts = count_hosts([peer.host for peer in group.holders])
        missing = settings.copies - hosts
        place = place_of(
            self._node.key.public, group.tag, group.node, (peer.view.public_key for peer in group.lacking)
        )
        if missing <= 0 or place >= missing:
            return 0
        key = group.tag, group.node, group.counter
        due = self._due.setdefault(key, monotonic() + place * _STEP_S * random.random())
        if monotonic() < due:
            return 0
        del self._due[key]
        head = await asyncio.to_thread(self._verified_head, group, space)
        return 0 if head is None else await asyncio.to_thread(self._take, head, group, space, settings)

    def _counter(self, group: _Group) -> int:
        """Return the counter of the newest head of a group that is here; 0 for none."""
        names = [stored.name for stored in self._objects.list(head_prefix(group.tag, group.node))]
        return max((named.counter for name in names if (named := parse_name(name))), default=0)

    def _verified_head(self, group: _Group, space: Space | None) -> SignedHead | None:
        name = head_name(group.tag, group.node, group.counter)
        for peer in group.holders:
            try:
                head = decode_head(get_whole(peer.objects, name), verify, space)
                if head.head.name != name or (space is not None and not head.vouched):
                    raise DecodeError("it is not what it is called, or no member made it")
                return head
            except OverlaysyncError as error:
                self._tell_once(f"{peer.label} lists a head that cannot be used: {error}")
        return None

    def _take(self, head: SignedHead, group: _Group, space: Space | None, settings: KeptTeam) -> int:
        names = head.head.names(PUBLIC.tag)
        here = sum(self._objects.size(name) or 0 for name in names)
        if settings.budget and self._used(space) + head.head.size - here > settings.budget:
            self._tell_once(
                f"Not kept: {self._what(group, space)} takes {format_size(head.head.size)}, and the budget "
                f"is {format_size(settings.budget)}; for more: overlaysync keep --budget SIZE"
            )
            return 0
        places = [Place(peer.label, peer.objects) for peer in group.holders]
        with only_writer(self._node.home.vault):
            missing = Pull(places, self._objects).run(names)
            if missing:
                self._tell_once(
                    f"Not kept yet: {self._what(group, space)}: {len(missing)} objects could not be had"
                )
                return 0
            self._objects.put(head.head.name, head.data)  # last: it says that all the others are here
            drop_older(self._objects, head)
        pulled = sum(place.pulled for place in places)
        self._observer.note(f"Kept: {self._what(group, space)}, {format_size(pulled)} pulled")
        self._node.catalog.copies.note(
            group.tag,
            [
                Copy(
                    group.node,
                    group.counter,
                    self._node.key.public,
                    self._node.label,
                    self._boot,
                    timestamp(),
                )
            ],
        )
        return 1

    def _used(self, space: Space | None) -> int:
        """Return the bytes that are kept here in one space, or for others."""
        own = {space_of(team).tag for team in self._node.teams.values()} | {PUBLIC.tag}
        tags = [space.tag] if space else [tag for tag in _tags(self._objects) if tag not in own]
        return sum(stored.size for tag in tags for stored in self._objects.list(f"{tag}/"))

    def _what(self, group: _Group, space: Space | None) -> str:
        whose = f"of team '{space.name}'" if space else f"of a team of others ({group.tag[:8]})"
        return f"what {node_id(group.node)[:9]} saved {whose}"

    def _care(self, peers: Sequence[_Peer]) -> None:
        """Heal what is missing or has rotted, and once a day remove what nothing needs."""
        if not self._objects.root.is_dir():
            return
        elapsed_s, self._read_at = monotonic() - self._read_at, monotonic()
        places = [Place(peer.label, peer.objects) for peer in peers]
        try:
            with only_writer(self._node.home.vault):
                rotten = self._reader.read_some(elapsed_s)
                missing = [*missing_objects(self._objects), *rotten]
                lost = heal(self._objects, missing, places)
                if monotonic() - self._cleaned_at >= _CLEAN_S:
                    self._cleaned_at = monotonic()
                    clean(self._objects, now=now())
        except InUseError:  # a save is under way
            return
        for name in rotten:
            self._observer.note(f"Damaged in the vault: {name}")
        if len(missing) > len(lost):
            self._observer.note(f"Fetched again from others: {len(missing) - len(lost)} objects of the vault")
        if lost:
            self._tell_once(
                f"Missing in the vault, and nobody has them: {len(lost)} objects; see: "
                "overlaysync vault check"
            )

    # -- proofs ----------------------------------------------------------------------------------------

    async def _note(self, groups: Sequence[_Group]) -> None:
        """Note which peers list what."""
        for group in groups:
            copies = [self._copy(group, peer) for peer in group.holders]
            await asyncio.to_thread(self._node.catalog.copies.note, group.tag, copies)

    async def _prove(self, tag: str, space: Space | None, groups: Sequence[_Group]) -> None:
        """Ask holders whose last proof is old for another, about what is here as well."""
        heads, _ = await asyncio.to_thread(read_heads, self._objects, tag, space)
        fresh = timestamp(ago_s=_PROVE_S)
        noted = await asyncio.to_thread(self._node.catalog.copies.seen, tag)
        proven = {(copy.head, copy.holder): copy.proven_at for copy in noted}
        for group in groups:
            head = heads.get(group.node)
            if head is None or head.head.counter != group.counter:
                continue
            for peer in group.holders:
                if proven.get((group.node, peer.view.public_key), "") < fresh:
                    await self._ask_proof(group, head, peer)

    async def _ask_proof(self, group: _Group, head: SignedHead, peer: _Peer) -> None:
        asked = await asyncio.to_thread(question, self._objects, head.head, _proof, NONCE_SIZE)
        if asked is None:
            return
        try:
            said = await self._reach.client.vault_proof(peer.view.address, asked.name, asked.nonce)
        except OverlaysyncError as error:
            problem = f"gave no proof: {error}"
        else:
            problem = "" if said == asked.expected else "gave a wrong proof: it does not have what it lists"
        copy = self._copy(group, peer, proven="" if problem else timestamp(), problem=problem)
        await asyncio.to_thread(self._node.catalog.copies.note, group.tag, [copy])
        if problem:
            self._tell_once(f"{peer.label} {problem}")

    def _copy(self, group: _Group, peer: _Peer, *, proven: str = "", problem: str = "") -> Copy:
        view = peer.view
        return Copy(
            group.node, group.counter, view.public_key, peer.label, view.boot, timestamp(), proven, problem
        )

    def _tell_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._observer.note(text)


def _proof(nonce: bytes, pack: bytes) -> bytes:
    return proof_of(nonce, pack)


def _tags(objects: Objects) -> Iterator[str]:
    """Yield the tags of all spaces in a place."""
    found: Mapping[str, None] = dict.fromkeys(
        named.tag for stored in objects.list("") if (named := parse_name(stored.name))
    )
    yield from found
