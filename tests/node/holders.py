"""Machines that hold copies, in one process and on a clock of their own: a month of them takes seconds.

All of it is the program's own: what a machine keeps, asks, serves, takes, proves, counts and cleans away.
Only the wire between them is missing: a question goes straight to what answers it, if its machine is up.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from overlaysync.errors import NotFoundError
from overlaysync.model.digest import as_digests
from overlaysync.net.faults import Faults
from overlaysync.net.messages import Address, Endpoint
from overlaysync.net.refusals import GoneError
from overlaysync.net.vault_wire import (
    OpenObject,
    VaultOffer,
    VaultProvider,
    answer,
    decode_heads,
    decode_offer,
)
from overlaysync.node.clock import Clock
from overlaysync.node.keeping import Keeper, kept_by
from overlaysync.node.node import Node
from overlaysync.node.reach import Reach
from overlaysync.node.status import VALID_S
from overlaysync.node.vault_serving import ServedVault
from overlaysync.node.views import PeerView
from overlaysync.ops.offer import FileSegment
from overlaysync.ops.recovery.caring import note_damaged
from overlaysync.ops.recovery.checking import check
from overlaysync.ops.recovery.lock import only_writer
from overlaysync.ops.recovery.standing import Own, VmStanding, standings
from overlaysync.ops.recovery.tips import tips
from overlaysync.ops.recovery.vaults import TeamVault, read_heads, seen_in, space_of
from overlaysync.store.keeping import Keeping, KeptTeam, save_keeping
from overlaysync.trust.team_files import keep_team
from overlaysync.trust.teams import Team
from overlaysync.vault.contents import Contents
from overlaysync.vault.directory import DirectoryObjects
from overlaysync.vault.head import SignedHead
from overlaysync.vault.objects import Kind, Stored, head_name, is_whole, object_name, parse_name
from overlaysync.vault.pack import squeeze
from overlaysync.vault.spaces import PUBLIC
from overlaysync.vault.state import Disk, SavedVm, SignedState, State
from overlaysync.vault.writer import Writer
from tests.node.observers import Heard
from tests.vault.samples import digest, hash_like, noise

HOUR, DAY = 3600.0, 86400.0
START = 1_769_860_800.0


@dataclass(slots=True)
class Time:
    """The clock of all machines."""

    now: float = START

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.now, lambda: self.now)


@dataclass(slots=True, eq=False)
class Machine:
    """A machine with a vault.

    Attributes:
        name: also of its VM.
        node: it.
        address: where it answers.
        served: what answers for its vault; see :class:`Liar`.
        keeper: keeps what it keeps.
        up: whether it is there.
        lies: whether it only pretends to keep.
    """

    name: str
    node: Node
    address: Address
    served: VaultProvider
    keeper: Keeper
    heard: Heard
    up: bool = True
    lies: bool = False

    @property
    def objects(self) -> DirectoryObjects:
        return DirectoryObjects(self.node.home.vault)

    def heads(self, tag: str) -> dict[bytes, SignedHead]:
        """What it has: the heads of which every object is there, rotten or not."""
        found = read_heads(self.objects, tag)[0]
        return {
            key: head
            for key, head in found.items()
            if all(self.objects.size(name) is not None for name in head.head.names(PUBLIC.tag))
        }

    @property
    def size(self) -> int:
        return sum(stored.size for stored in self.objects.list(""))


class Liar:
    """Lists all that anybody lists, and has nothing of it.

    Args:
        world: whose machines' lists are copied.
        kept: what it would say if it did not lie.
        said: a file that it gives for every object; None to have none.
        ahead: how much higher the counters are that it lists.
    """

    def __init__(self, world: World, kept: ServedVault, said: Path | None, ahead: int) -> None:
        self._world = world
        self._kept = kept
        self._said = said
        self._ahead = ahead

    @property
    def _others(self) -> list[VaultProvider]:
        return [one.served for one in self._world.machines if not one.lies]

    def offer(self) -> VaultOffer:
        spaces = {tag for one in self._others for tag in one.offer().spaces}
        own = self._kept.offer()
        return VaultOffer(tuple(sorted(spaces)), own.keeps, own.others)

    def drills(self, tag: str) -> list[Stored]:
        return []

    def heads(self, tag: str) -> list[Stored]:
        found = set()
        for head in {head for one in self._others for head in one.heads(tag)}:
            named = parse_name(head.name)
            assert named is not None
            found.add(Stored(head_name(tag, named.hash, named.counter + self._ahead), head.size))
        return sorted(found)

    def open(self, name: str) -> OpenObject | None:
        """Heads that there are it gives: it has seen them at others."""
        if "/heads/" in name:
            return next((opened for one in self._others if (opened := one.open(name))), None)
        if self._said is None:
            return None
        return OpenObject(os.open(self._said, os.O_RDONLY), self._said.stat().st_size)

    def may_prove(self, asker: str, size: int) -> bool:
        return True


@dataclass(slots=True)
class _Wire:
    """Stands for the network as one machine sees it: a client, and who is there."""

    world: World
    asker: str

    async def vault(self, address: Endpoint) -> VaultOffer:
        return decode_offer(self._ask(address, ""))

    async def vault_heads(self, address: Endpoint, tag: str, kind: Kind = Kind.HEAD) -> list[Stored]:
        return decode_heads(self._ask(address, f"{tag}/{kind}"), tag, kind)

    async def vault_size(self, address: Endpoint, name: str) -> int:
        return int(self._ask(address, name, "size"))

    async def vault_read(self, address: Endpoint, name: str, offset: int, buffer: memoryview) -> int:
        data = self._ask(address, name, f"from={offset}&length={len(buffer)}")
        buffer[: len(data)] = data
        return len(data)

    async def vault_proof(self, address: Endpoint, name: str, nonce: bytes) -> bytes:
        return self._ask(address, name, f"proof={nonce.hex()}")

    def _ask(self, address: Endpoint, path: str, query: str = "") -> bytes:
        machine = next((one for one in self.world.machines if one.address == address and one.up), None)
        if machine is None:
            raise GoneError(f"{address} does not answer", hint="ping")
        try:
            said = answer(machine.served, path.split("/") if path else [], query, self.asker)
        except NotFoundError as error:
            raise GoneError(str(error), hint="ask another") from None
        if isinstance(said, FileSegment):
            with open(said.fd, "rb") as file:
                file.seek(said.offset)
                return file.read(said.length)
        return bytes(said)


@dataclass(slots=True)
class World:
    """All machines, and their time.

    Attributes:
        root: for their homes.
        team: of the members.
        seed: of all that is random.
    """

    root: Path
    team: Team
    chance: random.Random
    time: Time = field(default_factory=Time)
    machines: list[Machine] = field(default_factory=list)
    _open: ExitStack = field(default_factory=ExitStack)
    _made: int = 0

    @property
    def tag(self) -> str:
        return space_of(self.team).tag

    def close(self) -> None:
        self._open.close()

    def add(self, name: str, *, team: Team | None = None, keeping: Keeping) -> Machine:
        """A machine with an empty home; a member of ``team``, or of none."""
        self._made += 1
        home = self.root / f"{name}-{self._made}"
        home.mkdir()
        environment = {"OVERLAYSYNC_HOME": str(home), "OVERLAYSYNC_USER": name}
        if team is not None:
            keep_team(home / "teams", team)
        node = Node.open(environment)
        self._open.callback(node.close)
        save_keeping(node.home.keeping, keeping)
        address = Address(f"10.0.0.{self._made}", 4040)
        wire = _Wire(self, str(address))
        reach = cast(Reach, SimpleNamespace(client=wire, directory=SimpleNamespace(nodes=self.views)))
        heard = Heard()
        keeper = Keeper(node, reach, heard, Faults(), clock=self.time.clock)
        served = ServedVault(node.home.vault, lambda: kept_by(node), lambda: self.time.now)
        machine = Machine(name, node, address, served, keeper, heard)
        self.machines.append(machine)
        return machine

    def views(self) -> list[PeerView]:
        """What a machine sees of the others: who is up."""
        return [
            PeerView(
                one.address,
                one.node.key.public,
                one.name,
                answered=True,
                boot=digest(one.address.host.encode())[:16],
            )
            for one in self.machines
            if one.up
        ]

    def lie(self, machine: Machine, said: Path | None = None, *, ahead: int = 0) -> None:
        """From now on it lies: see :class:`Liar`."""
        assert isinstance(machine.served, ServedVault)
        machine.served, machine.lies = Liar(self, machine.served, said, ahead), True
        shutil.rmtree(machine.node.home.vault, ignore_errors=True)

    def lose(self, machine: Machine) -> None:
        """Its disk is gone."""
        machine.up = False
        self.machines.remove(machine)
        shutil.rmtree(machine.node.home.vault, ignore_errors=True)

    async def hours(self, count: float, step: float, each: Callable[[], None] = lambda: None) -> None:
        """Let time go by: every machine that is up has a round in each step, in any order."""
        end = self.time.now + count * HOUR
        while self.time.now < end:
            self.time.now += step
            each()
            up = [one for one in self.machines if one.up and not one.lies]
            self.chance.shuffle(up)
            for one in up:
                await one.keeper.round()

    # -- saving ----------------------------------------------------------------------------------------

    def save(self, machine: Machine, *, size: int = 600, public: str = "") -> SignedState:
        """Save what a VM of the machine holds: so many bytes that nothing else has, and a public master."""
        vault = TeamVault(machine.objects, machine.node.teams[self.team.name])
        with only_writer(machine.node.home.vault):
            vault.learn()
            before = tips(vault.states())
            counter = vault.next_counter(machine.node.key.public)
            mine = _put(vault.contents, noise(f"{machine.name} {counter} {self._made}", size))
            shared = _put(vault.public, noise(public, size)) if public else ((), ())
            at = machine.keeper._clock.timestamp()
            disk = Disk(file=f"{machine.name}.qcow2", manifest=hash_like(f"{machine.name} {counter}").hex())
            state = State(
                team=self.team.name,
                number=1 + max((one.state.number for one in before), default=0),
                follows=tuple(one.id.hex() for one in before),
                seen=seen_in(vault.heads()),
                counter=counter,
                saved=at,
                vms=(SavedVm(name=machine.name, at=at, disks=(disk,)),),
                indexes=mine[0],
                packs=mine[1],
                public_indexes=shared[0],
                public_packs=shared[1],
            )
            return vault.add(state, machine.node.key, made=at)

    def forget_all_but(self, machine: Machine, count: int) -> set[bytes]:
        """Forget older states of a machine; returns the ids of those."""
        vault = TeamVault(machine.objects, machine.node.teams[self.team.name])
        with only_writer(machine.node.home.vault):
            head = vault.heads()[machine.node.key.public]
            states = vault.states([head])
            if len(states) <= count:
                return set()
            made = machine.keeper._clock.timestamp()
            vault.put_head(states[-count:], machine.node.key, made=made, before=head)
            return {one.id for one in states[:-count]}

    def check(self, machine: Machine) -> None:
        """What ``vault check --read`` does."""
        vault = TeamVault(machine.objects, machine.node.teams[self.team.name])
        found = check(machine.objects, [vault], read=True)
        with only_writer(machine.node.home.vault):
            note_damaged(machine.objects, (one.name for one in found.damaged))

    # -- looking ---------------------------------------------------------------------------------------

    def copies(self, tag: str | None = None) -> dict[bytes, list[Machine]]:
        """By state, the machines that have all of it, up or not, and rotten or not."""
        found: dict[bytes, list[Machine]] = {}
        for machine in self.machines:
            for head in machine.heads(tag or self.tag).values():
                for state in head.head.states:
                    found.setdefault(state, []).append(machine)
        return found

    def sound(self) -> set[bytes]:
        """Ids of the states that all machines together could give back: not one bit of them is missing."""
        whole: set[str] = set()
        states: dict[bytes, State] = {}
        for machine in self.machines:
            for stored in machine.objects.list(""):
                if stored.name not in whole and is_whole(machine.objects, stored.name):
                    whole.add(stored.name)
            listed = TeamVault(machine.objects, self.team).states(machine.heads(self.tag).values())
            states |= {one.id: one.state for one in listed}
        return {id for id, state in states.items() if whole.issuperset(_needed(self.tag, id, state))}

    def standings(self, machine: Machine) -> list[VmStanding]:
        """How the VMs of the team stand, as a member says."""
        vault = TeamVault(machine.objects, machine.node.teams[self.team.name])
        heads = {key: head.head.counter for key, head in vault.heads().items()}
        own = Own(machine.node.key.public, machine.name, frozenset((machine.address.host,)), heads)
        clock = machine.keeper._clock
        return standings(
            vault.states(),
            machine.node.catalog.copies.seen(self.tag),
            own,
            {},
            valid_since=clock.timestamp(ago_s=VALID_S),
        )


def _needed(tag: str, id: bytes, state: State) -> Iterator[str]:
    """Names of all objects that a state needs, itself included."""
    yield object_name(tag, Kind.STATE, id)
    for space, kind, hashes in (
        (tag, Kind.INDEX, state.indexes),
        (tag, Kind.PACK, state.packs),
        (PUBLIC.tag, Kind.INDEX, state.public_indexes),
        (PUBLIC.tag, Kind.PACK, state.public_packs),
    ):
        yield from (object_name(space, kind, bytes.fromhex(hash)) for hash in hashes)


def keeps(team: Team, *, copies: int = 3, budget: int = 0) -> Keeping:
    return Keeping({team.name: KeptTeam(copies, budget)})


def _put(contents: Contents, item: bytes) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Store an item; returns (indexes, packs) that it needs."""
    writer, key = Writer(contents), digest(item)
    if writer.is_new(key):
        writer.add(as_digests(key), [len(item)], squeeze([item]))
    writer.finish()
    packs = contents.packs_with(as_digests(key))
    indexes = contents.indexes_of(packs)
    return tuple(sorted(map(bytes.hex, indexes))), tuple(sorted(map(bytes.hex, packs)))
