"""Another machine with this machine's node key is met and said; a claim without the key is nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from overlaysync.discovery.browser import Peer
from overlaysync.discovery.locality import Neighbourhood
from overlaysync.net.client import Client
from overlaysync.net.membership import PrivateLane
from overlaysync.net.messages import Address, PrivateAddress
from overlaysync.net.server import Server
from overlaysync.node import polling as module
from overlaysync.node import twins
from overlaysync.node.network import Network
from overlaysync.node.node import Node
from overlaysync.node.reach import Reach
from overlaysync.trust.certificate import Shown
from overlaysync.trust.keys import NodeKey, load_or_make, node_id
from tests.net.content_provider import FakeShelf, unused_port
from tests.net.lane import listening
from tests.node.observers import Heard

pytestmark = [
    pytest.mark.holds("N14"),
    pytest.mark.red_without(
        "N14", "a claim to this node's key counts as proved; its machine's mark is not compared"
    ),
]


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node.open({"OVERLAYSYNC_HOME": str(tmp_path / "home")})


@pytest.fixture
def stranger(tmp_path: Path) -> NodeKey:
    return load_or_make(tmp_path / "stranger")


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loopback plays a machine elsewhere."""
    monkeypatch.setattr(Neighbourhood, "is_here", lambda self, host: False)


@pytest.fixture
def booted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers of this test run on another machine than the one that looks."""
    monkeypatch.setattr(twins, "machine_mark", lambda: b"another boot.   ")


@asynccontextmanager
async def looking(node: Node, notes: Heard, *, catalogs: bool = True) -> AsyncIterator[Reach]:
    async with Client() as client:
        yield Reach(node, client, notes, None, Network(catalogs=catalogs))


async def look(reach: Reach, server: Server, own: bytes, *, announced: bool = False, tls: int = 0) -> None:
    """Ask a peer that claims the key ``own``."""
    if announced:
        label = "pl@bob-2"
        reach.polling.consider(
            Peer(label, node_id(own), ("127.0.0.1",), server.port, f"r{len(reach.directory.views)}", (), tls)
        )
    else:
        reach.polling.ask("somewhere", (Address("127.0.0.1", server.port),))
    while reach.looking:
        await reach.another(wait_s=10)


@pytest.mark.usefixtures("booted")
@pytest.mark.parametrize("announced", [True, False], ids=["announced", "in its catalog"])
async def test_another_machine_with_our_key_is_said_once(node: Node, announced: bool) -> None:
    notes = Heard()
    server = Server(FakeShelf(node.key, label="pl@bob"), lane=PrivateLane(node.key))
    async with listening(server), looking(node, notes, catalogs=not announced) as reach:
        for _ in range(3):
            await look(reach, server, node.key.public, announced=announced, tls=server.tls)
            reach.directory.views.clear()
    (note,) = notes.notes
    for word in ("pl@bob", "127.0.0.1", "this machine's node key", "overlaysync key new"):
        assert word in note
    assert [twin.host for twin in reach.twins.found.values()] == ["127.0.0.1"]


async def test_another_process_of_this_machine_is_nothing_to_say(node: Node) -> None:
    notes = Heard()
    server = Server(FakeShelf(node.key), lane=PrivateLane(node.key))
    async with listening(server), looking(node, notes) as reach:
        await look(reach, server, node.key.public)
    assert notes.notes == [] and not reach.twins.found


@pytest.mark.usefixtures("booted")
@pytest.mark.parametrize("announced", [True, False], ids=["announced", "in its catalog"])
async def test_a_stranger_that_claims_our_key_raises_no_alarm(
    node: Node, stranger: NodeKey, announced: bool
) -> None:
    notes = Heard()
    server = Server(FakeShelf(node.key, label="pl@bob"), lane=PrivateLane(stranger))
    async with listening(server), looking(node, notes, catalogs=not announced) as reach:
        await look(reach, server, node.key.public, announced=announced, tls=server.tls)
    assert notes.notes == [] and not reach.twins.found


@pytest.mark.usefixtures("booted")
async def test_who_cannot_prove_it_is_asked_a_few_times(
    node: Node, stranger: NodeKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[PrivateAddress] = []
    real = Client.shown

    async def shown(self: Client, address: PrivateAddress) -> Shown:
        asked.append(address)
        return await real(self, address)

    monkeypatch.setattr(Client, "shown", shown)
    notes, silent = Heard(), unused_port()
    server = Server(FakeShelf(node.key), lane=PrivateLane(stranger))
    async with listening(server), looking(node, notes, catalogs=False) as reach:
        peer = Peer("pl@bob-2", node_id(node.key.public), ("127.0.0.1",), server.port, "r1", (), silent)
        for _ in range(3 * module.PROOFS):
            reach.polling.consider(peer)
            while reach.looking:
                await reach.another(wait_s=10)
    assert len(asked) == module.PROOFS
    assert notes.notes == [] and reach.directory.answering() == [Address("127.0.0.1", server.port)]


@pytest.mark.usefixtures("booted")
async def test_low_ports_are_not_dialled_for_a_proof(node: Node, stranger: NodeKey) -> None:
    async with Client() as client:
        seen = twins.Twins(client, Heard().note)
        await seen.meet(node.key.public, Address("127.0.0.1", 40001), 22, "pl@bob")
        await seen.meet(node.key.public, Address("127.0.0.1", 40001), 0, "pl@bob")
