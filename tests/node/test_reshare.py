"""Passing on: what a fetching node gives, whom it waits for in the end, and for how long."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from overlaysync.errors import NetworkError
from overlaysync.net.client import Client
from overlaysync.net.messages import Address
from overlaysync.net.refusals import GoneError
from overlaysync.net.server import Server
from overlaysync.net.swarm_messages import SwarmQuestion
from overlaysync.ops.offer import Offer
from overlaysync.units import CHUNK
from tests.net.content_provider import make_offer, make_shelf
from tests.node.fetchers import Fetcher, fetcher, soon

CONTENT = os.urandom(8 * CHUNK)
PIECES = 2
OTHER, ANOTHER = "0123456789abcdef", "fedcba9876543210"


@pytest.fixture
def whole(tmp_path: Path) -> Offer:
    return make_offer(tmp_path / "image.raw", CONTENT, make_shelf(tmp_path).key)


@pytest.fixture
async def node(tmp_path: Path, whole: Offer) -> AsyncIterator[Fetcher]:
    """A node that has the first of two pieces."""
    held = [(slot, CONTENT[slot * CHUNK :][:CHUNK]) for slot in range(4)]
    async with fetcher(tmp_path / "a", whole, [Address("192.0.2.7", 80)], held=held) as node:
        node.part.log.add(0)
        yield node


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with Client() as client:
        yield client


def address(node: Fetcher) -> Address:
    return Address("127.0.0.1", node.seeder.port)


def finish(node: Fetcher) -> None:
    """Take the rest, as if it had come from somewhere."""
    assert not node.assembly.accept(4, 4, memoryview(CONTENT[4 * CHUNK :]))
    node.part.log.add(1)
    node.assembly.finish(mode=0o644)
    node.seeder.finish(node.part)


async def ask(client: Client, node: Fetcher, member: str, held: int) -> None:
    """Another fetcher tells how far it is."""
    await client.swarm(address(node), node.part.manifest.id, PIECES, SwarmQuestion(member, 40001, held))


# -- what is given -----------------------------------------------------------------------------------


async def test_what_is_not_whole_is_given_but_not_listed(node: Fetcher, client: Client) -> None:
    manifest = node.part.manifest
    first = await client.catalog(address(node))
    assert first.catalog is not None
    assert (first.catalog.label, first.catalog.envelopes) == ("pl@bob", ())
    answer = await client.swarm(address(node), manifest.id, PIECES, SwarmQuestion())
    assert (answer.label, answer.held) == ("pl@bob", (0,))
    buffer = memoryview(bytearray(4 * CHUNK))
    await client.read_slots(address(node), manifest.id, ((0, 4),), buffer)
    assert bytes(buffer) == CONTENT[: 4 * CHUNK]
    finish(node)
    then = await client.catalog(address(node), first.etag)
    assert then.catalog is not None
    assert then.catalog.envelopes == (manifest.envelope,)
    await client.read_slots(address(node), manifest.id, ((4, 4),), buffer)
    assert bytes(buffer) == CONTENT[4 * CHUNK :]


@pytest.mark.parametrize("when", ["before it is whole", "after it"])
async def test_what_is_withdrawn_is_gone(node: Fetcher, client: Client, when: str) -> None:
    if when == "after it":
        finish(node)
    node.seeder.withdraw(node.part)
    with pytest.raises(GoneError):
        await client.swarm(address(node), node.part.manifest.id, PIECES, SwarmQuestion())
    answer = await client.catalog(address(node))
    assert answer.catalog is not None
    assert answer.catalog.envelopes == ()
    assert node.seeder.waiting() == []


async def test_it_tells_of_the_nodes_it_knows(node: Fetcher, client: Client) -> None:
    assert await client.peers(address(node)) == (Address("192.0.2.7", 80),)


async def test_without_a_port_nothing_is_passed_on_and_that_is_said(
    tmp_path: Path, whole: Offer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def start(*_: object) -> int:
        raise NetworkError("Cannot listen")

    monkeypatch.setattr(Server, "start", start)
    async with fetcher(tmp_path / "a", whole, []) as node:
        assert node.seeder.port == 0
        assert node.around.observer.notes == ["Nothing is passed on: Cannot listen"]


# -- the end -----------------------------------------------------------------------------------------


async def test_nobody_is_waited_for_when_nobody_asks(node: Fetcher) -> None:
    finish(node)
    async with asyncio.timeout(1):
        await node.seeder.linger()
    assert node.around.observer.notes == []


async def test_it_stays_until_the_others_have_it(node: Fetcher, client: Client) -> None:
    await ask(client, node, OTHER, 0)
    await ask(client, node, ANOTHER, 1)
    assert node.seeder.waiting() == []  # it has nothing whole to stay for
    finish(node)
    assert {member.id for member in node.seeder.waiting()} == {OTHER, ANOTHER}
    lingering = asyncio.create_task(node.seeder.linger())
    await soon(lambda: bool(node.around.observer.notes))
    await ask(client, node, OTHER, PIECES)
    assert [member.id for member in node.seeder.waiting()] == [ANOTHER]
    assert not lingering.done()
    await ask(client, node, ANOTHER, PIECES)
    async with asyncio.timeout(1):
        await lingering
    (note,) = node.around.observer.notes
    assert "Sharing it with 2 other machines" in note


async def test_who_has_not_asked_for_a_while_is_not_waited_for(
    node: Fetcher, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    late = [0.0]
    present = loop.time
    monkeypatch.setattr(loop, "time", lambda: present() + late[0])
    finish(node)
    await ask(client, node, OTHER, 0)
    late[0] = 2.5
    assert len(node.seeder.waiting()) == 1
    late[0] = 3.5
    assert node.seeder.waiting() == []


@pytest.mark.slow
async def test_it_does_not_stay_for_ever(node: Fetcher, client: Client) -> None:
    finish(node)
    await ask(client, node, OTHER, 0)
    async with asyncio.timeout(2):
        await node.seeder.linger(longest_s=0.3)
    assert len(node.seeder.waiting()) == 1
