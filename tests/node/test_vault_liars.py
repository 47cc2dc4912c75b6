"""A keeper among peers that lie: about heads, counters and sizes, and by taking their time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from overlaysync.net.client import Client
from overlaysync.net.faults import Faults
from overlaysync.net.server import Server
from overlaysync.net.vault_wire import OpenObject
from overlaysync.node.clock import SYSTEM, Clock
from overlaysync.node.keeping import Keeper
from overlaysync.node.node import Node
from overlaysync.node.reach import Reach
from overlaysync.node.vault_serving import ServedVault
from overlaysync.node.views import PeerView
from overlaysync.ops.recovery.budget import used_by_others
from overlaysync.ops.recovery.lock import only_writer
from overlaysync.ops.recovery.placement import Kept
from overlaysync.store.copies import Copy
from overlaysync.store.keeping import Keeping, KeptTeam, save_keeping
from overlaysync.units import MIB
from overlaysync.vault.directory import DirectoryObjects
from overlaysync.vault.head import Head, SignedHead, encode_head
from overlaysync.vault.objects import Kind, Stored, hash_of, object_name
from overlaysync.vault.spaces import PUBLIC, Space
from tests.net.content_provider import make_shelf, serving
from tests.node.observers import Heard
from tests.node.vaults import member, objects
from tests.vault.samples import ANN, BOB, OTHER, RED, TIME, key_of, noise


@dataclass
class Room:
    """A node that keeps, and its peers."""

    node: Node
    client: Client
    stack: AsyncExitStack
    place: Path
    views: list[PeerView] = field(default_factory=list)

    async def peer(self, name: str, vault: Callable[[Path], ServedVault] | None = None) -> DirectoryObjects:
        """Another peer; returns its vault."""
        place = self.place / name
        place.mkdir()
        made = DirectoryObjects(place / "vault")
        served = (vault or honest)(made.root)
        address = await self.stack.enter_async_context(serving(Server(make_shelf(place), vault=served)))
        boot = name.encode().ljust(16)
        self.views.append(PeerView(address, key_of(name).public, name, answered=True, boot=boot))
        return made

    def keeper(self, clock: Clock = SYSTEM) -> Keeper:
        directory = SimpleNamespace(nodes=lambda: self.views)
        reach = cast(Reach, SimpleNamespace(directory=directory, client=self.client))
        return Keeper(self.node, reach, Heard(), Faults(), clock=clock)

    @property
    def copies(self) -> list[Copy]:
        return self.node.catalog.copies.seen(RED.tag)


def honest(root: Path) -> ServedVault:
    return ServedVault(root, lambda: Kept((RED.tag,), 1), lambda: 0.0)


@pytest.fixture
def carl(tmp_path: Path) -> Iterator[Node]:
    with member(tmp_path / "carl", "carl") as node:
        save_keeping(node.home.keeping, Keeping({"red": KeptTeam()}))
        yield node


@pytest.fixture
async def room(carl: Node, tmp_path: Path) -> AsyncIterator[Room]:
    async with AsyncExitStack() as stack, Client() as client:
        yield Room(carl, client, stack, tmp_path)


def put(vault: DirectoryObjects, space: Space, data: bytes) -> bytes:
    name = object_name(space.tag, Kind.PACK, hash_of(data))
    vault.put(name, data)
    return hash_of(data)


def saved(vault: DirectoryObjects, *packs: bytes, space: Space = RED, key=ANN, **more: object) -> SignedHead:
    """A node's head that lists these packs, with them."""
    hashes = tuple(sorted(put(vault, space, pack) for pack in packs))
    fields: dict[str, object] = {"size": sum(map(len, packs)), "counter": 1} | more
    head = Head(tag=space.tag, node=key.public, made=TIME, packs=hashes, **fields)  # type: ignore[arg-type]
    signed = encode_head(head, key, space)
    vault.put(signed.head.name, signed.data)
    return signed


class Liar(ServedVault):
    """Lists more than it has."""

    listed: Sequence[Stored] = ()

    def heads(self, tag: str) -> Sequence[Stored]:
        return [*self.listed, *super().heads(tag)]


def lying(*listed: str) -> Callable[[Path], ServedVault]:
    def made(root: Path) -> ServedVault:
        liar = Liar(root, lambda: Kept((RED.tag,), 1), lambda: 0.0)
        liar.listed = [Stored(name, 300) for name in listed]
        return liar

    return made


# -- budgets -------------------------------------------------------------------------------------------


@pytest.mark.holds("N3")
@pytest.mark.red_without("N3", "the size that a head says counts towards the budget")
@pytest.mark.parametrize("where", ["team", "public", "crumbs"])
async def test_a_budget_is_kept_whatever_a_head_says(room: Room, where: str) -> None:
    budget = 4 * MIB
    save_keeping(room.node.home.keeping, Keeping({}, others=budget))
    ann = await room.peer("ann")
    big = [noise(str(number), MIB) for number in range(12)]
    if where == "team":
        saved(ann, *big, space=OTHER, size=0)
    elif where == "public":
        public = tuple(sorted(put(ann, PUBLIC, one) for one in big))
        saved(ann, space=OTHER, size=0, public_packs=public)
    else:
        saved(ann, *(b"%d" % number for number in range(1100)), space=OTHER, size=1100)
    keeper = room.keeper()
    for _ in range(3):
        assert await keeper.round() == 0
    assert used_by_others(objects(room.node), [RED.tag]) <= budget


@pytest.mark.holds("N3")
async def test_invented_nodes_fill_only_the_budget(room: Room) -> None:
    save_keeping(room.node.home.keeping, Keeping({}, others=64 * 1024))
    ann = await room.peer("ann")
    for number in range(40):
        saved(ann, space=OTHER, size=0, key=key_of(str(number)))
    assert await room.keeper().round() == 16
    assert used_by_others(objects(room.node), [RED.tag]) <= 64 * 1024


# -- time ----------------------------------------------------------------------------------------------


@pytest.mark.holds("D6")
@pytest.mark.red_without("D6", "the vault is locked while objects of peers come")
async def test_a_save_need_not_wait_for_what_a_peer_gives(room: Room) -> None:
    class Watched(ServedVault):
        free = False

        def open(self, name: str) -> OpenObject | None:
            if "/packs/" in name:
                with only_writer(objects(room.node).root):
                    type(self).free = True
            return super().open(name)

    ann = await room.peer("ann", lambda root: Watched(root, Kept, lambda: 0.0))
    saved(ann, b"pack")
    assert await room.keeper().round() == 1
    assert Watched.free


@pytest.mark.holds("D6")
@pytest.mark.timeout(60)
@pytest.mark.red_without("D6", "a keeper waits for each answer of a silent peer")
async def test_a_silent_peer_keeps_nothing_away(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overlaysync.node.claims._PATIENCE_S", 0.5)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)

    connections: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        ann = await room.peer("ann")
        port = server.sockets[0].getsockname()[1]
        host = room.views[0].address
        room.views.insert(0, PeerView(type(host)("127.0.0.1", port), BOB.public, "bob"))
        saved(ann, b"pack")
        assert await asyncio.wait_for(room.keeper().round(), 8) == 1
        for writer in connections:
            writer.close()


# -- the same again and again --------------------------------------------------------------------------


class Counting(ServedVault):
    """Counts what it is asked for."""

    proofs: int = 0
    packs: int = 0

    def may_prove(self, asker: str, size: int) -> bool:
        type(self).proofs += 1
        return super().may_prove(asker, size)

    def open(self, name: str) -> OpenObject | None:
        type(self).packs += "/packs/" in name
        return super().open(name)


@pytest.mark.holds("N3")
@pytest.mark.red_without("N3", "a holder that gave no proof is asked for another in each round")
async def test_who_gave_no_proof_is_not_asked_again_at_once(room: Room) -> None:
    class Losing(Counting):
        def open(self, name: str) -> OpenObject | None:
            opened = super().open(name)
            if opened is not None and "/packs/" in name:
                os.close(opened.fd)
                return OpenObject(os.open(empty, os.O_RDONLY), 0)
            return opened

    empty = room.place / "empty"
    empty.touch()
    ann = await room.peer("ann", lambda root: Losing(root, lambda: Kept((RED.tag,), 1), lambda: 0.0))
    for vault in (ann, objects(room.node)):
        saved(vault, b"pack")
    keeper = room.keeper()
    for _ in range(4):
        await keeper.round()
    assert Losing.proofs == 1
    (copy,) = [one for one in room.copies if one.holder == key_of("ann").public]
    assert "gave a wrong proof" in copy.problem


@pytest.mark.holds("N3")
@pytest.mark.red_without("N3", "every object of a list that no peer can give is asked for")
async def test_a_list_of_what_nobody_has_costs_little(room: Room) -> None:
    ann = await room.peer("ann", lambda root: Counting(root, lambda: Kept((RED.tag,), 1), lambda: 0.0))
    invented = tuple(sorted(hash_of(str(number).encode()) for number in range(3000)))
    head = Head(tag=RED.tag, node=ANN.public, counter=1, size=0, made=TIME, packs=invented)
    signed = encode_head(head, ANN, RED)
    ann.put(signed.head.name, signed.data)
    assert await room.keeper().round() == 0
    assert 0 < Counting.packs < 100


@pytest.mark.holds("N3")
@pytest.mark.red_without("N3", "all that is listed is looked for in each round, however long that takes")
async def test_looking_for_what_is_missing_takes_a_small_part_of_the_time(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, looked = 0.0, 0

    def slow(vault: DirectoryObjects) -> list[str]:
        nonlocal now, looked
        now, looked = now + 10, looked + 1
        return []

    monkeypatch.setattr("overlaysync.node.keeping.lacking_objects", slow)
    saved(objects(room.node), b"pack")
    keeper = room.keeper(Clock(lambda: now, lambda: now))
    for _ in range(40):
        await keeper.round()
        now += 15
    assert 2 <= looked <= 5
