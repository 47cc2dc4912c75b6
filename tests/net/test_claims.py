"""Claims over real connections: who is refused, what a refusal says, and how a claim ends."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from overlaysync.net.bounds import MAX_TAKEN_FIELD, SERVER
from overlaysync.net.client import Client
from overlaysync.net.messages import Address
from overlaysync.net.refusals import TakenError
from overlaysync.net.server import Server
from overlaysync.net.swarm_messages import Claim, SwarmQuestion
from overlaysync.ops.offer import Offer
from overlaysync.swarm.handed import DELIVERED_S, SERVICE_S, Handed
from overlaysync.swarm.members import Member
from overlaysync.units import CHUNK, MIB
from tests.net.content_provider import FakeShelf, connect, make_offer, make_part, make_shelf, serving
from tests.node.fetchers import soon

A, B, C = (f"{number:016x}" for number in (1, 2, 3))
SIZE = 64 * MIB
PIECES = SIZE // (4 * CHUNK)
BIG = range(PIECES - 56)
"""Pieces that together are more than all buffers on the way hold."""


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let claims hold as in a large room: a busy machine may take longer than they do in a small one."""
    monkeypatch.setattr("overlaysync.swarm.handed._LEAST_PATIENCE", 1.0)


@pytest.fixture
def shelf(tmp_path: Path) -> FakeShelf:
    return make_shelf(tmp_path)


@pytest.fixture
def whole(shelf: FakeShelf, tmp_path: Path) -> Offer:
    shelf.items.append(make_offer(tmp_path / "image.raw", os.urandom(MIB) * (SIZE // MIB), shelf.key))
    return shelf.items[0]


@pytest.fixture
async def address(shelf: FakeShelf, whole: Offer) -> AsyncIterator[Address]:
    """A seed that knows the members ``A`` and ``B``."""
    async with serving(Server(shelf, bounds=replace(SERVER, places=4))) as address:
        for number, member in enumerate((A, B)):
            shelf.swarms.of(whole.manifest.id).seen(Member(member, "127.0.0.1", 40001 + number, 0), 1, now())
        yield address


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with Client() as client:
        yield client


def now() -> float:
    return asyncio.get_running_loop().time()


def target(offer: Offer, pieces: range, member: str = "", taken: int = 0) -> str:
    who = f"&member={member}&taken={taken}" if member else ""
    return f"/v1/manifests/{offer.manifest.id.hex()}/data?slots={4 * pieces.start}-{4 * pieces.stop - 1}{who}"


async def ask(client: Client, address: Address, offer: Offer, piece: int, member: str, taken: int = 0) -> int:
    buffer = memoryview(bytearray(4 * CHUNK))
    claim = Claim(member, taken)
    runs = ((4 * piece, 4),)
    return await client.read_slots(
        address, offer.manifest.id, runs, buffer, claim=claim, pieces=offer.pieces.count
    )


def handed(shelf: FakeShelf, offer: Offer) -> Handed:
    return shelf.swarms.handed(offer.manifest.id)


# -- who is refused ----------------------------------------------------------------------------------


async def test_what_another_has_just_got_is_refused_and_its_cursor_told(
    client: Client, address: Address, whole: Offer
) -> None:
    assert await ask(client, address, whole, 7, A) == 4 * CHUNK
    assert await ask(client, address, whole, 3, A) == 4 * CHUNK
    with pytest.raises(TakenError) as refused:
        await ask(client, address, whole, 7, B)
    assert set(refused.value.news.pieces) == {7, 3}
    assert await ask(client, address, whole, 4, A) == 4 * CHUNK
    with pytest.raises(TakenError) as again:
        await ask(client, address, whole, 3, B, taken=refused.value.news.cursor)
    assert set(again.value.news.pieces) == {3, 4}
    assert await ask(client, address, whole, 7, A) == 4 * CHUNK, "it may ask for its own again"
    assert await ask(client, address, whole, 5, B) == 4 * CHUNK


async def test_what_a_refusal_looks_like(address: Address, whole: Offer) -> None:
    async with connect(address) as raw:
        assert (await raw.ask(target(whole, range(7, 9), A)))[0] == 200
        status, fields, body = await raw.ask(target(whole, range(8, 10), B))
        assert (status, body, fields["Taken"]) == (409, b"", "3 8,7")
        assert fields["Content-Length"] == "0"
        assert (await raw.ask(target(whole, range(9, 10), B)))[0] == 200, "on the same connection"


@pytest.mark.parametrize(
    "who",
    ["&member=7&taken=0", f"&member={A}", "&taken=0", f"&taken=0&member={A}", f"&member={A}&taken=x", "&"],
)
async def test_a_claim_that_is_none(address: Address, whole: Offer, who: str) -> None:
    async with connect(address) as raw:
        assert (await raw.ask(target(whole, range(1)) + who))[0] == 400


async def test_who_claims_nothing_is_refused_nothing(address: Address, whole: Offer) -> None:
    async with connect(address) as raw:
        assert (await raw.ask(target(whole, range(1), A)))[0] == 200
        assert (await raw.ask(target(whole, range(1))))[0] == 200
        assert (await raw.ask(target(whole, range(1, 2))))[0] == 200
        assert (await raw.ask(target(whole, range(1, 2), A)))[0] == 200


async def test_who_is_no_member_or_elsewhere_claims_nothing(address: Address, whole: Offer) -> None:
    async with connect(address) as raw, connect(address, host="127.0.0.5") as other:
        assert (await raw.ask(target(whole, range(1), C)))[0] == 200
        assert (await other.ask(target(whole, range(1, 2), A)))[0] == 200
        assert (await raw.ask(target(whole, range(2), B)))[0] == 200


async def test_who_fetches_itself_refuses_nothing(
    address: Address, shelf: FakeShelf, whole: Offer, tmp_path: Path
) -> None:
    part, assembly = make_part(tmp_path / "copy.raw", whole)
    shelf.items[:] = [part]
    with open(tmp_path / "image.raw", "rb") as file:
        assert assembly.accept(0, 4, memoryview(file.read(4 * CHUNK))) == []
    part.log.add(0)
    async with connect(address) as raw:
        for member in (A, B):
            assert (await raw.ask(target(part, range(1), member)))[0] == 200
    assembly.close()


# -- what others are told ----------------------------------------------------------------------------


async def test_answers_tell_what_was_handed_to_others(client: Client, address: Address, whole: Offer) -> None:
    async def told(member: str, taken: int | None) -> Any:
        question = SwarmQuestion(member, 40001 if member == A else 40002, taken=taken)
        return (await client.swarm(address, whole.manifest.id, PIECES, question)).taken

    await ask(client, address, whole, 7, A)
    assert await told(B, None) is None
    first = await told(B, 0)
    assert first.pieces == (7,)
    assert (await told(B, first.cursor)).pieces == ()
    assert (await told(A, 0)).pieces == ()


async def test_a_refusal_names_only_so_many(
    client: Client, address: Address, shelf: FakeShelf, whole: Offer
) -> None:
    # Its numbers are of a larger content: only the first of them matters to the request.
    for host in range(5):
        handed(shelf, whole).claim(range(128 * host, 128 * (host + 1)), A, f"host {host}", now(), crowd=1000)
    async with connect(address) as raw:
        status, fields, _ = await raw.ask(target(whole, range(1), B))
    named = [int(piece) for piece in fields["Taken"].partition(" ")[2].split(",")]
    assert (status, len(named)) == (409, MAX_TAKEN_FIELD)
    assert {0, 639} <= set(named), "what was asked for, and the latest"


# -- who claims and does not take --------------------------------------------------------------------


async def test_a_claim_ends_with_its_connection(address: Address, shelf: FakeShelf, whole: Offer) -> None:
    async with connect(address) as other:
        async with connect(address) as leaving:
            leaving.writer.write(f"GET {target(whole, BIG, A)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            await leaving.reader.readexactly(1)
            assert (await other.ask(target(whole, range(1), B)))[0] == 409
            leaving.writer.transport.abort()
        await soon(lambda: not handed(shelf, whole).taken([0], B, now()))
        assert (await other.ask(target(whole, range(1), B)))[0] == 200


@pytest.mark.holds("N2")
@pytest.mark.red_without("N2", "a claim never lapses")
async def test_who_claims_and_does_not_read_blocks_nobody_for_long(
    address: Address, whole: Offer, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    present, late = loop.time, [0.0]
    monkeypatch.setattr(loop, "time", lambda: present() + late[0])
    async with connect(address) as greedy, connect(address) as again, connect(address) as other:
        greedy.writer.write(f"GET {target(whole, BIG, A)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await greedy.reader.readexactly(1)
        assert (await other.ask(target(whole, range(1), B)))[0] == 409
        assert (await other.ask(target(whole, range(PIECES - 2, PIECES - 1), B)))[0] == 200
        late[0] = SERVICE_S + DELIVERED_S / 2
        assert (await again.ask(target(whole, range(PIECES - 1, PIECES), A)))[0] == 200
        assert (await other.ask(target(whole, range(PIECES - 1, PIECES), B)))[0] == 200
        assert (await other.ask(target(whole, range(1), B)))[0] == 200
