"""Keep: copies of what teams have saved spread by themselves, pulled by the machines that keep them.

No machine tells another one to take anything. A machine that keeps a team looks at what the others have, and
takes what has too few copies when its turn comes (:mod:`overlaysync.ops.recovery.placement`). From time to
time it asks the machines that list something to prove that they have it, and reads its own copies again.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import AbstractContextManager

from overlaysync.errors import InUseError, OverlaysyncError
from overlaysync.net.boot import boot_hash
from overlaysync.net.faults import Faults
from overlaysync.net.vault_wire import NONCE_SIZE, proof_of
from overlaysync.node.claims import Claims, Group, Peer
from overlaysync.node.clock import SYSTEM, Clock
from overlaysync.node.node import Node
from overlaysync.node.observer import Observer
from overlaysync.node.pacing import Once, Pauses
from overlaysync.node.reach import Reach
from overlaysync.node.vault_lock import only_writer_soon
from overlaysync.ops.drill.history import take_drills
from overlaysync.ops.recovery.budget import BudgetError, Limited, room_of, used_by, used_by_others
from overlaysync.ops.recovery.caring import Reader, heal, lacking_objects
from overlaysync.ops.recovery.cleaning import clean
from overlaysync.ops.recovery.dropping import dropped_up_to
from overlaysync.ops.recovery.placement import Kept, count_hosts, place_of, wait_s
from overlaysync.ops.recovery.possession import question, try_pack
from overlaysync.ops.recovery.pulling import Place, Pull
from overlaysync.ops.recovery.vaults import drop_older, read_heads, space_of
from overlaysync.store.copies import Copy
from overlaysync.store.keeping import KeptTeam, load_keeping
from overlaysync.trust.keys import node_id
from overlaysync.units import format_size
from overlaysync.vault.directory import DirectoryObjects
from overlaysync.vault.head import SignedHead
from overlaysync.vault.objects import head_prefix, parse_name
from overlaysync.vault.spaces import PUBLIC, Space

ROUND_S = 15.0
"""How often others are looked at; somewhat more or less, so that not all machines do it at once."""
_ANSWER_S = 5.0
"""A round waits at most this long for some peer to have answered."""
_PROVE_S = 6 * 3600.0
"""After so long a holder is asked for another proof."""
_ASK_AGAIN_S = 1800.0
"""After so long one that gave no proof is asked again, and at the latest a copy tried again that failed."""
_REST = 20.0
"""How many times as long as it took there is a rest from what others can make long."""
_MISSING = 8
"""Objects that no holder can give, after which a copy is not taken for now."""
_LACKING = 1 << 16
"""Groups of which is remembered since when they have had too few copies."""
_STRANGE = 32
"""Spaces of others that are looked at in one round."""
_NO_LIMIT = 1 << 62
_NO_HEAD = "its list of saved states cannot be used"
_CLEAN_S = 86400.0
"""How often objects that no state needs are looked for."""


def kept_by(node: Node) -> Kept:
    """Return what a node keeps at the moment."""
    keeping = load_keeping(node.home.keeping)
    tags = (space_of(team).tag for name, team in node.teams.items() if name in keeping.teams)
    return Kept(tuple(sorted(tags)), keeping.others)


class Keeper:
    """Keeps what its node is to keep, round by round.

    Args:
        node: keeps.
        reach: knows the peers.
        observer: is told what was taken.
        faults: unexpected exceptions go there.
        clock: tells the time.
        wait_s: how long to wait for a command that writes to the vault: who keeps for ever tries again.
    """

    def __init__(
        self,
        node: Node,
        reach: Reach,
        observer: Observer,
        faults: Faults,
        *,
        clock: Clock = SYSTEM,
        wait_s: float = 0.0,
    ) -> None:
        self._node = node
        self._reach = reach
        self._observer = observer
        self._faults = faults
        self._clock = clock
        self._wait_s = wait_s
        self._objects = DirectoryObjects(node.home.vault)
        self._claims = Claims(reach, node.key.public, self._objects, self._tell_once)
        self._boot = boot_hash()
        self._lacking_since: OrderedDict[tuple[str, bytes, int], float] = OrderedDict()
        self._pauses = Pauses(clock.ticks)
        self._once = Once(observer.note, clock.ticks)
        self._reader = Reader(self._objects)
        self._read_at = self._clock.ticks()
        self._cleaned_at = self._read_at - _CLEAN_S

    async def run(self) -> None:
        """Keep for ever."""
        while True:
            try:
                keeping = load_keeping(self._node.home.keeping)
                if keeping.teams or keeping.others:  # it may have been said to another process
                    self._reach.polling.keep()
                await self._reach.until(self._reach.answered, wait_s=_ANSWER_S)
                await self.round()
            except OverlaysyncError as error:
                self._tell_once(f"Cannot keep copies: {error}")
            except Exception as error:  # the next round must come all the same
                self._faults.count(error, "keeping copies")
            await asyncio.sleep(ROUND_S * random.uniform(0.6, 1.4))

    async def look(self) -> int:
        """Note what the peers have of this node's teams, and ask them to prove it.

        What is not here is proven by giving some of it.

        Returns:
            How many machines with a vault there are, this one included.
        """
        peers = await self._claims.peers()
        for team in self._node.teams.values():
            space = space_of(team)
            groups = await self._claims.groups(space.tag, space, peers)
            await self._note(groups)
            await self._prove(space.tag, space, groups)
            for group in groups:
                if await asyncio.to_thread(self._counter, group) != group.counter:
                    await self._try_holders(group, space)
        return 1 + count_hosts([peer.host for peer in peers])

    async def round(self) -> int:
        """Look at all peers once, and take what is due; returns how many heads were taken."""
        keeping = load_keeping(self._node.home.keeping)
        own = {space_of(team).tag: (space_of(team), name) for name, team in self._node.teams.items()}
        peers = await self._claims.peers()
        taken = 0
        listed = {tag for peer in peers for tag in peer.offer.spaces} - {PUBLIC.tag}
        strange = sorted(listed - own.keys()) if keeping.others else []
        some = random.sample(strange, min(len(strange), _STRANGE))
        for tag in (*sorted(listed & own.keys()), *some):  # strangers can invent any number of spaces
            space, name = own.get(tag, (None, ""))
            groups = await self._claims.groups(tag, space, peers)
            await self._note(groups)
            others = KeptTeam(budget=keeping.others) if keeping.others else None
            settings = keeping.teams.get(name) if space else others
            if settings is not None:
                taken += sum([await self._consider(group, space, settings) for group in groups])
            if settings or space:
                await self._prove(tag, space, groups)
            if space is not None:
                await asyncio.to_thread(self._take_drills, space, groups)
        await asyncio.to_thread(self._care, peers)
        return taken

    # -- taking ----------------------------------------------------------------------------------------

    async def _consider(self, group: Group, space: Space | None, settings: KeptTeam) -> int:
        """Take what is new in a group, if it is this node's turn."""
        if await asyncio.to_thread(self._counter, group) >= group.counter:
            return 0
        place = place_of(self._node.key.public, group.tag, group.node, (peer.key for peer in group.lacking))
        missing = await self._missing(group, space, settings.copies, place)
        key = group.tag, group.node, group.counter
        if missing <= 0:
            self._lacking_since.pop(key, None)
            return 0
        since = self._lacking_since.setdefault(key, self._clock.ticks())
        while len(self._lacking_since) > _LACKING:
            self._lacking_since.popitem(last=False)
        if self._clock.ticks() - since < wait_s(place, missing) or not self._pauses.are_over(key):
            return 0
        head = await asyncio.to_thread(self._claims.head, group, space)
        if head is None:
            return 0
        begun = self._clock.ticks()
        try:
            return await asyncio.to_thread(self._take, head, group, space, settings)
        except InUseError:  # a save is under way
            return 0
        finally:
            self._pauses.begin(key, min(_ASK_AGAIN_S, _REST * (self._clock.ticks() - begun)))

    async def _missing(self, group: Group, space: Space | None, copies: int, place: int) -> int:
        """Return how many copies are missing; who would be the next to take one tries the others first."""
        missing = copies - count_hosts([peer.host for peer in await self._believed(group)])
        if missing <= 0 and place < copies:
            await self._try_holders(group, space)
            missing = copies - count_hosts([peer.host for peer in await self._believed(group)])
        return missing

    async def _believed(self, group: Group) -> list[Peer]:
        """Return the holders that did not fail when they were last asked to show that they have it."""
        noted = await asyncio.to_thread(self._node.catalog.copies.seen, group.tag)
        failed = {copy.holder for copy in noted if copy.head == group.node and copy.problem}
        return [peer for peer in group.holders if peer.key not in failed]

    def _counter(self, group: Group) -> int:
        """Return the counter of the newest head of a group that is here, or was dropped; 0 for none."""
        names = [stored.name for stored in self._objects.list(head_prefix(group.tag, group.node))]
        here = max((named.counter for name in names if (named := parse_name(name))), default=0)
        return max(here, dropped_up_to(self._objects.root, group.tag, group.node))

    def _take(self, head: SignedHead, group: Group, space: Space | None, settings: KeptTeam) -> int:
        names = head.head.names(PUBLIC.tag)
        room = settings.budget - self._used(space) if settings.budget else _NO_LIMIT
        here = sum(self._objects.size(name) or 0 for name in names)
        if head.head.size - here + room_of(len(head.data)) > room:
            self._tell_small(head, group, space, settings)
            return 0
        places = [Place(peer.label, peer.objects) for peer in group.holders]
        target = Limited(self._objects, room - room_of(len(head.data)))
        try:  # The vault is not locked: a peer can take its time, and a save must not wait for it.
            missing = Pull(places, target).run(names, give_up_after=_MISSING)
        except BudgetError:
            self._tell_small(head, group, space, settings)
            return 0
        if missing:
            self._tell_once(
                f"No copy yet of {self._what(group, space)}: {len(missing)} objects could not be pulled; "
                "retrying"
            )
            return 0
        with self._only_writer():
            if any(self._objects.size(name) is None for name in names):
                return 0  # a cleaning has taken something away meanwhile
            self._objects.put(head.head.name, head.data)  # last: it says that all the others are here
            drop_older(self._objects, head)
        pulled = sum(place.pulled for place in places)
        self._observer.note(f"Copied {self._what(group, space)}, {format_size(pulled)} pulled")
        self._node.catalog.copies.note(
            group.tag,
            [
                Copy(
                    group.node,
                    group.counter,
                    self._node.key.public,
                    self._node.label,
                    self._boot,
                    self._clock.timestamp(),
                )
            ],
        )
        return 1

    def _only_writer(self) -> AbstractContextManager[None]:
        return only_writer_soon(self._node.home.vault, self._observer, wait_s=self._wait_s)

    def _take_drills(self, space: Space, groups: Sequence[Group]) -> None:
        """Take the records of drills that other holders have."""
        holders = {peer.key: peer for group in groups for peer in group.holders}
        take_drills(self._objects, space, [Place(peer.label, peer.objects) for peer in holders.values()])

    def _tell_small(self, head: SignedHead, group: Group, space: Space | None, settings: KeptTeam) -> None:
        self._tell_once(
            f"No copy taken of {self._what(group, space)}: it needs {format_size(head.head.size)}, which "
            f"exceeds the budget of {format_size(settings.budget)}; for more: "
            f"overlaysync keep {space.name if space else '--others'} --budget SIZE"
        )

    def _used(self, space: Space | None) -> int:
        """Return the bytes that are kept here for one team, or for others."""
        if space is not None:
            return used_by(self._objects, space.tag)
        return used_by_others(self._objects, [space_of(team).tag for team in self._node.teams.values()])

    def _what(self, group: Group, space: Space | None) -> str:
        whose = f"for team '{space.name}'" if space else f"for another team ({group.tag[:8]})"
        return f"what {node_id(group.node)[:9]} saved {whose}"

    def _care(self, peers: Sequence[Peer]) -> None:
        """Heal what is missing or has rotted, and once a day remove objects that no state needs."""
        if not self._objects.root.is_dir() or not self._pauses.are_over("care"):
            return
        begun = self._clock.ticks()
        elapsed_s, self._read_at = self._clock.ticks() - self._read_at, self._clock.ticks()
        places = [Place(peer.label, peer.objects) for peer in peers]
        try:
            with self._only_writer():
                self._objects.drop_temporaries()
                rotten = self._reader.read_some(elapsed_s)
                missing = lacking_objects(self._objects)
                if self._clock.ticks() - self._cleaned_at >= _CLEAN_S:
                    self._cleaned_at = self._clock.ticks()
                    clean(self._objects, now=self._clock.now())
        except InUseError:  # a save is under way
            return
        self._pauses.begin("care", _REST * (self._clock.ticks() - begun))
        lost = heal(self._objects, missing, places)
        for name in rotten:
            self._observer.note(f"Damaged in the vault: {name}")
        if len(missing) > len(lost):
            self._observer.note(
                f"Pulled again from other machines: {len(missing) - len(lost)} objects of the vault"
            )
        if lost:
            self._tell_once(
                f"Missing or damaged in the vault, and on no machine within reach: {len(lost)} objects; "
                "to see which: overlaysync vault check"
            )

    # -- proofs ----------------------------------------------------------------------------------------

    async def _note(self, groups: Sequence[Group]) -> None:
        """Note which peers list what."""
        for group in groups:
            copies = [self._copy(group, peer) for peer in group.holders]
            copies += [self._copy(group, peer, problem=_NO_HEAD) for peer in group.lying]
            await asyncio.to_thread(self._node.catalog.copies.note, group.tag, copies)

    async def _prove(self, tag: str, space: Space | None, groups: Sequence[Group]) -> None:
        """Ask holders whose last proof is old for another, about what is here as well."""
        heads, _ = await asyncio.to_thread(read_heads, self._objects, tag, space)
        fresh = self._clock.timestamp(ago_s=_PROVE_S)
        noted = await asyncio.to_thread(self._node.catalog.copies.seen, tag)
        proven = {(copy.head, copy.holder): copy.proven_at for copy in noted}
        for group in groups:
            head = heads.get(group.node)
            if head is None or head.head.counter != group.counter:
                continue
            for peer in group.holders:
                if proven.get((group.node, peer.key), "") < fresh and self._may_ask(group, peer):
                    await self._ask_proof(group, head, peer)

    async def _try_holders(self, group: Group, space: Space | None) -> None:
        """Take a random pack of each holder that has shown nothing lately: a proof needs the pack here."""
        fresh = self._clock.timestamp(ago_s=_PROVE_S)
        noted = await asyncio.to_thread(self._node.catalog.copies.seen, group.tag)
        proven = {copy.holder: copy.proven_at for copy in noted if copy.head == group.node}
        waiting = [
            peer for peer in group.holders if proven.get(peer.key, "") < fresh and self._may_ask(group, peer)
        ]
        head = await asyncio.to_thread(self._claims.head, group, space) if waiting else None
        if head is None:
            return
        for peer in waiting:
            problem = await asyncio.to_thread(try_pack, peer.objects, head.head)
            if problem is None:
                self._pauses.begin((group.tag, group.node, peer.key), _ASK_AGAIN_S)
            else:
                await self._note_proof(group, peer, problem)

    def _may_ask(self, group: Group, peer: Peer) -> bool:
        """Whether a holder is asked for a proof: each costs a whole pack, and one that failed has to wait."""
        return self._pauses.are_over((group.tag, group.node, peer.key))

    async def _ask_proof(self, group: Group, head: SignedHead, peer: Peer) -> None:
        asked = await asyncio.to_thread(question, self._objects, head.head, proof_of, NONCE_SIZE)
        if asked is None:
            return
        try:
            said = await self._reach.client.vault_proof(peer.view.address, asked.name, asked.nonce)
        except OverlaysyncError as error:
            problem = f"gave no proof: {error}"
        else:
            problem = "" if said == asked.expected else "gave a wrong proof: it does not have what it lists"
        await self._note_proof(group, peer, problem)

    async def _note_proof(self, group: Group, peer: Peer, problem: str) -> None:
        copy = self._copy(group, peer, proven="" if problem else self._clock.timestamp(), problem=problem)
        await asyncio.to_thread(self._node.catalog.copies.note, group.tag, [copy])
        if problem:
            self._pauses.begin((group.tag, group.node, peer.key), _ASK_AGAIN_S)
            self._tell_once(f"{peer.label} {problem}")

    def _copy(self, group: Group, peer: Peer, *, proven: str = "", problem: str = "") -> Copy:
        view = peer.view
        at = self._clock.timestamp()
        return Copy(group.node, group.counter, peer.key, peer.label, view.boot, at, proven, problem)

    def _tell_once(self, text: str) -> None:
        self._once.tell(text)
