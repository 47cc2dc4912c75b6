"""The server in a swarm: what is given of an image that is being written, who is listed, whose turn it is."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from overlaysync.errors import PeerError
from overlaysync.net import server as server_module
from overlaysync.net.bodies import Uploads
from overlaysync.net.bounds import MAX_QUESTION, MAX_TOLD, SERVER
from overlaysync.net.client import Client
from overlaysync.net.messages import Address, encode_slots
from overlaysync.net.refusals import GoneError
from overlaysync.net.server import Server
from overlaysync.net.swarm_messages import SwarmAnswer, SwarmQuestion
from overlaysync.ops.assemble import Assembly
from overlaysync.ops.offer import Offer, PartOffer
from overlaysync.swarm.members import AGE_S, MAX_MEMBERS, MAX_PER_HOST, Member
from overlaysync.units import CHUNK, KIB, MIB
from tests.net.content_provider import FakeShelf, connect, make_offer, make_part, make_shelf, serving

TAIL = 512
CONTENT = os.urandom(40 * CHUNK + TAIL)
PIECES = 11
"""Of four chunks each; the last has only the tail."""
HELD = (1, 4, 5, 10)
GARBAGE = b"not verified!" * 1000
ME = "0123456789abcdef"


@pytest.fixture
def shelf(tmp_path: Path) -> FakeShelf:
    return make_shelf(tmp_path)


@pytest.fixture
def whole(shelf: FakeShelf, tmp_path: Path) -> Offer:
    shelf.items.append(make_offer(tmp_path / "image.raw", CONTENT, shelf.key))
    return shelf.items[0]


@pytest.fixture
def writing(shelf: FakeShelf, whole: Offer, tmp_path: Path) -> Iterator[Assembly]:
    """An image of which :data:`HELD` is here, and garbage where the rest will be; served in place of all."""
    part, assembly = make_part(tmp_path / "copy.raw", whole)
    with open(tmp_path / ".copy.raw.part", "r+b") as file:
        file.write((GARBAGE * (len(CONTENT) // len(GARBAGE) + 1))[: len(CONTENT)])
    for piece in HELD:
        hold(part, assembly, piece)
    shelf.items[:] = [part]
    yield assembly
    assembly.close()


@pytest.fixture
def part(shelf: FakeShelf, writing: Assembly) -> PartOffer:
    (offer,) = shelf.items
    assert isinstance(offer, PartOffer)
    return offer


@pytest.fixture
async def address(shelf: FakeShelf) -> AsyncIterator[Address]:
    async with serving(Server(shelf)) as address:
        yield address


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with Client() as client:
        yield client


def hold(part: PartOffer, assembly: Assembly, piece: int) -> None:
    """Write a piece and say so."""
    first, count = part.pieces.span(piece)
    assert assembly.accept(first, count, memoryview(slots(first, count))) == []
    part.log.add(piece)


def slots(first: int, count: int = 1) -> bytes:
    return CONTENT[first * CHUNK : (first + count) * CHUNK]


def base(offer: Offer) -> str:
    return f"/v1/manifests/{offer.manifest.id.hex()}"


async def soon(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


# -- data of an image that is being written ----------------------------------------------------------


RANGES = [
    *(((slot, 1),) for slot in range(41)),
    *(((first, 4),) for first in range(0, 38)),
    ((0, 41),),
    ((16, 8),),
    ((16, 9),),
    ((15, 9),),
    ((4, 4), (16, 8), (40, 1)),
    ((0, 1), (4, 4)),
    ((4, 4), (8, 1)),
    ((4, 4), (39, 1), (40, 1)),
    *(((4, 4), (slot, 1)) for slot in range(8, 41)),
]


async def test_only_what_is_verified_is_given(address: Address, part: PartOffer) -> None:
    given = 0
    async with connect(address) as raw:
        for runs in RANGES:
            held = all(slot // 4 in HELD for first, count in runs for slot in range(first, first + count))
            target = f"{base(part)}/data?slots={encode_slots(runs)}"
            status, fields, body = await raw.ask(target)
            expected = b"".join(slots(*run) for run in runs)
            assert status == (200 if held else 416), runs
            assert int(fields.get("Content-Length", "0")) == (len(expected) if held else 0)
            assert body == (expected if held else b"")
            given += held
    assert given


async def test_slots_that_are_written_are_given_when_their_piece_is_whole(
    address: Address, part: PartOffer, writing: Assembly
) -> None:
    assert not writing.accept(0, 3, memoryview(slots(0, 3)))
    async with connect(address) as raw:
        assert (await raw.ask(f"{base(part)}/data?slots=0-0"))[0] == 416
        assert not writing.accept(3, 1, memoryview(slots(3)))
        part.log.add(0)
        assert (await raw.ask(f"{base(part)}/data?slots=0-7"))[2] == slots(0, 8)


async def test_wrong_bytes_that_were_refused_are_not_given(
    address: Address, part: PartOffer, writing: Assembly
) -> None:
    assert writing.accept(0, 4, memoryview(bytes(4 * CHUNK))) == [(slot, 1) for slot in range(4)]
    async with connect(address) as raw:
        assert (await raw.ask(f"{base(part)}/data?slots=0-3"))[0] == 416


async def test_what_is_not_here_is_no_reason_to_end_a_connection(
    address: Address, part: PartOffer, client: Client
) -> None:
    buffer = memoryview(bytearray(CHUNK))
    with pytest.raises(PeerError, match="416"):
        await client.read_slots(address, part.manifest.id, ((0, 1),), buffer)
    await client.read_slots(address, part.manifest.id, ((4, 1),), buffer)
    assert bytes(buffer) == slots(4)


async def test_slots_beyond_the_end_are_a_mistake_not_a_matter_of_time(
    address: Address, part: PartOffer
) -> None:
    async with connect(address) as raw:
        assert (await raw.ask(f"{base(part)}/data?slots=40-41"))[0] == 400


async def test_a_file_that_has_changed_after_it_was_finished_is_gone(
    address: Address, part: PartOffer, writing: Assembly, tmp_path: Path, client: Client
) -> None:
    for piece in range(PIECES):
        hold(part, writing, piece)
    os.close(writing.finish(mode=0o644))
    part.finished()
    buffer = memoryview(bytearray(len(CONTENT)))
    await client.read_slots(address, part.manifest.id, ((0, 41),), buffer)
    assert bytes(buffer) == CONTENT
    with open(tmp_path / "copy.raw", "r+b") as file:
        file.write(GARBAGE)
    with pytest.raises(GoneError, match="any more"):
        await client.read_slots(address, part.manifest.id, ((0, 1),), memoryview(bytearray(CHUNK)))


async def test_list_and_pages_are_given_from_the_start(
    address: Address, part: PartOffer, client: Client
) -> None:
    size = len(part.page_list)
    assert await client.page_list(address, part.manifest.id, size) == part.page_list
    for digest in part.pages.digests:
        await client.page(address, part.manifest.id, digest)


# -- what a node has ---------------------------------------------------------------------------------


async def ask(client: Client, address: Address, offer: Offer, question: SwarmQuestion) -> SwarmAnswer:
    return await client.swarm(address, offer.manifest.id, PIECES, question)


async def test_who_has_everything_says_so(address: Address, whole: Offer, client: Client) -> None:
    answer = await ask(client, address, whole, SwarmQuestion())
    assert answer == SwarmAnswer("pl@bob", PIECES, None)


async def test_who_fetches_says_what_is_here_and_then_what_is_new(
    address: Address, part: PartOffer, writing: Assembly, client: Client
) -> None:
    first = await ask(client, address, part, SwarmQuestion())
    assert (first.held, first.cursor) == (HELD, len(HELD))
    for piece in (7, 0):
        hold(part, writing, piece)
    then = await ask(client, address, part, SwarmQuestion(cursor=first.cursor))
    assert (then.held, then.cursor) == ((7, 0), 6)
    nothing = await ask(client, address, part, SwarmQuestion(cursor=then.cursor))
    assert (nothing.held, nothing.cursor) == ((), 6)
    all_of_it = await ask(client, address, part, SwarmQuestion(cursor=7))
    assert all_of_it.held == (0, 1, 4, 5, 7, 10)


@pytest.mark.parametrize(
    "query",
    [
        "",
        "?",
        "?held=1",
        "?held=1&since=1&x=1",
        "?since=1&held=1",
        "?held=%31&since=1",
        "?held=1;since=1",
        f"?member={ME}&port=0&by=x&held=1&since=1",
        f"?member={ME}&port=80&by=x&host=192.0.2.7&held=1&since=1",
        f"?member={ME}@192.0.2.7&port=80&by=x&held=1&since=1",
        f"?member={ME}&port=192.0.2.7:80&by=x&held=1&since=1",
        "?held=1&since=" + "0" * MAX_QUESTION,
        "?held=1&since=" + "0" * 3900,
        "?held=1&since=" + "0" * 100_000,
    ],
)
async def test_a_question_that_is_none(address: Address, whole: Offer, shelf: FakeShelf, query: str) -> None:
    async with connect(address) as raw:
        assert (await raw.ask(f"{base(whole)}/swarm{query}"))[0] == 400
    assert len(shelf.swarms.of(whole.manifest.id)) == 0


async def test_who_says_it_answers_at_a_system_service_is_told_of_to_nobody(
    address: Address, whole: Offer, shelf: FakeShelf
) -> None:
    async with connect(address) as raw:
        for port in (22, 80, 1023):
            query = f"?member={ME}&port={port}&by=x&held=1&since=1"
            assert (await raw.ask(f"{base(whole)}/swarm{query}"))[0] == 200
        assert len(shelf.swarms.of(whole.manifest.id)) == 0
        assert (await raw.ask(f"{base(whole)}/swarm?member={ME}&port=1024&by=x&held=1&since=1"))[0] == 200
        assert len(shelf.swarms.of(whole.manifest.id)) == 1


# -- who is listed -----------------------------------------------------------------------------------


def question(number: int, *, port: int = 40001, held: int = 0) -> str:
    return f"swarm?member={number:016x}&port={port}&by=u{number}@x&held={held}&since=0"


async def listed(address: Address, offer: Offer) -> list[Any]:
    """The members that somebody is told of who is none."""
    async with connect(address) as raw:
        _, _, body = await raw.ask(f"{base(offer)}/swarm?held=0&since=0")
    members: list[Any] = json.loads(body).get("members", [])
    return members


async def test_members_are_told_of_each_other(address: Address, whole: Offer, client: Client) -> None:
    first = SwarmQuestion(ME, 40001, 3, label="pl@bob")
    second = SwarmQuestion(ME[::-1], 40002, 5)
    assert (await ask(client, address, whole, first)).members == ()
    assert (await ask(client, address, whole, second)).members == (Member(ME, "127.0.0.1", 40001, 3),)
    assert (await ask(client, address, whole, replace(first, held=4))).members == (
        Member(ME[::-1], "127.0.0.1", 40002, 5),
    )
    assert await listed(address, whole) == [[ME, "127.0.0.1:40001", 4], [ME[::-1], "127.0.0.1:40002", 5]]


async def test_a_member_answers_where_the_server_sees_it_whatever_it_says(
    address: Address, whole: Offer
) -> None:
    lies = (
        "X-Forwarded-For: 192.0.2.7",
        "Forwarded: for=192.0.2.7",
        "X-Real-IP: 192.0.2.7",
        "Via: 192.0.2.7",
    )
    async with connect(address, host="127.0.0.5") as raw:
        assert (await raw.ask(f"{base(whole)}/{question(1)}", *lies))[0] == 200
    assert await listed(address, whole) == [[f"{1:016x}", "127.0.0.5:40001", 0]]


async def test_nobody_speaks_for_another_host(address: Address, whole: Offer) -> None:
    async with connect(address, host="127.0.0.5") as raw, connect(address, host="127.0.0.6") as other:
        await raw.ask(f"{base(whole)}/{question(1)}")
        await other.ask(f"{base(whole)}/{question(1, port=22, held=PIECES)}")
        assert await listed(address, whole) == [[f"{1:016x}", "127.0.0.5:40001", 0]]


async def test_who_has_no_member_id_is_no_member(
    address: Address, whole: Offer, client: Client, shelf: FakeShelf
) -> None:
    await ask(client, address, whole, SwarmQuestion(held=3))
    assert len(shelf.swarms.of(whole.manifest.id)) == 0


@pytest.mark.red_without("N7", "a link-local address is given to every peer, or with this machine's scope")
@pytest.mark.parametrize(
    ("host", "asker", "told"),
    [
        ("fe80::7%eth0", "192.0.2.9", []),
        ("fe80::7%eth0", "fe80::9%eth1", []),
        ("fe80::7%eth0", "fe80::9%eth0", ["fe80::7"]),
        ("fe80::7", "fe80::9", []),
        ("2001:db8::7", "192.0.2.9", ["2001:db8::7"]),
        ("169.254.0.7", "192.0.2.9", ["169.254.0.7"]),
    ],
)
async def test_a_link_local_address_is_told_on_its_own_link_and_without_its_scope(
    address: Address,
    whole: Offer,
    shelf: FakeShelf,
    monkeypatch: pytest.MonkeyPatch,
    host: str,
    asker: str,
    told: list[str],
) -> None:
    monkeypatch.setattr(server_module, "asker_of", lambda _: host)
    async with connect(address) as raw:
        assert (await raw.ask(f"{base(whole)}/{question(1)}"))[0] == 200
    monkeypatch.setattr(server_module, "asker_of", lambda _: asker)
    members = await listed(address, whole)
    assert [member[1].rpartition(":")[0].strip("[]") for member in members] == told
    shelf.known = [str(Address(host, 40001))]
    async with connect(address) as raw:
        _, _, body = await raw.ask("/v1/peers")
    assert json.loads(body)["peers"] == [str(Address(name, 40001)) for name in told]


async def test_who_has_not_asked_for_a_while_is_listed_no_longer(
    address: Address, whole: Offer, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    late = [0.0]
    present = loop.time
    monkeypatch.setattr(loop, "time", lambda: present() + late[0])
    async with connect(address) as raw:
        for number in (1, 2):
            await raw.ask(f"{base(whole)}/{question(number)}")
            late[0] += AGE_S * 0.4
        assert [member[0] for member in await listed(address, whole)] == [f"{1:016x}", f"{2:016x}"]
        late[0] += AGE_S * 0.3
        assert [member[0] for member in await listed(address, whole)] == [f"{2:016x}"]
        await raw.ask(f"{base(whole)}/{question(1)}")
        assert len(await listed(address, whole)) == 2


@pytest.mark.slow
async def test_members_are_bounded_for_each_host_and_in_all(
    address: Address, whole: Offer, shelf: FakeShelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    present = loop.time
    began = present()
    # A busy machine may take longer than a member is remembered: so it is remembered longer.
    monkeypatch.setattr(loop, "time", lambda: began + (present() - began) / 100)
    for host in range(MAX_MEMBERS // MAX_PER_HOST + 1):
        async with connect(address, host=f"127.0.0.{host + 10}") as raw:
            for number in range(MAX_PER_HOST + 2):
                assert (await raw.ask(f"{base(whole)}/{question(host * 1000 + number)}"))[0] == 200
            seen = min(MAX_MEMBERS, (host + 1) * MAX_PER_HOST)
            assert len(shelf.swarms.of(whole.manifest.id)) == seen
            assert len(await listed(address, whole)) == min(seen, MAX_TOLD)


async def test_each_manifest_has_members_of_its_own(
    address: Address, whole: Offer, shelf: FakeShelf, tmp_path: Path
) -> None:
    other = make_offer(tmp_path / "other.raw", os.urandom(CHUNK), shelf.key)
    shelf.items.append(other)
    async with connect(address) as raw:
        await raw.ask(f"{base(whole)}/{question(1)}")
        await raw.ask(f"/v1/manifests/{bytes(32).hex()}/{question(1)}")
    assert await listed(address, other) == []
    assert len(await listed(address, whole)) == 1


# -- whose turn it is --------------------------------------------------------------------------------


@pytest.fixture
def big(shelf: FakeShelf, tmp_path: Path) -> Offer:
    """More than all buffers on the way hold."""
    path = tmp_path / "big.raw"
    shelf.items.append(make_offer(path, os.urandom(MIB) * 32, shelf.key))
    return shelf.items[-1]


def all_of(offer: Offer) -> bytes:
    return f"GET {base(offer)}/data?slots=0-511 HTTP/1.1\r\nHost: x\r\n\r\n".encode()


def bounded(shelf: FakeShelf, **changes: Any) -> Server:
    return Server(shelf, bounds=replace(SERVER, places=1, **changes))


async def test_a_client_that_reads_slowly_holds_up_nobody(shelf: FakeShelf, big: Offer) -> None:
    async with serving(bounded(shelf, place_s=0.1, wait_s=5)) as address:
        async with connect(address) as slow, connect(address) as other, asyncio.timeout(4):
            slow.writer.write(all_of(big))
            await slow.reader.readexactly(1)
            for _ in range(2):
                assert (await other.ask(f"{base(big)}/data?slots=0-0"))[0] == 200


async def test_who_waits_too_long_is_told_when_to_come_back(shelf: FakeShelf, big: Offer) -> None:
    async with serving(bounded(shelf, place_s=1000, wait_s=0.1)) as address:
        async with connect(address) as slow, connect(address) as other:
            slow.writer.write(all_of(big))
            await slow.reader.readexactly(1)
            status, fields, body = await other.ask(f"{base(big)}/data?slots=0-0")
            assert (status, body) == (503, b"")
            assert 1 <= int(fields["Retry-After"]) <= 2
            # Everything else is answered all the same.
            assert (await other.ask(f"{base(big)}/swarm?held=0&since=0"))[0] == 200
            assert (await other.ask("/v1/catalog"))[0] == 200


async def test_who_finds_the_line_full_is_told_at_once(shelf: FakeShelf, big: Offer) -> None:
    async with serving(bounded(shelf, place_s=1000, wait_s=1000, waiting=0)) as address:
        async with connect(address) as slow, connect(address) as other, asyncio.timeout(5):
            slow.writer.write(all_of(big))
            await slow.reader.readexactly(1)
            assert (await other.ask(f"{base(big)}/data?slots=0-0"))[0] == 503


@pytest.mark.slow
async def test_one_client_with_many_requests_does_not_starve_another(
    shelf: FakeShelf, big: Offer, client: Client
) -> None:
    served: list[str] = []
    server = Server(
        shelf,
        bounds=replace(SERVER, places=1, place_s=1000, wait_s=1000, connections_per_address=64),
        uploads=Uploads(sent=lambda manifest, peer, count, _: served.append(peer)),
    )

    async def fetch(address: Address, host: str) -> None:
        async with connect(address, host=host) as raw:
            assert (await raw.ask(f"{base(big)}/data?slots=0-31"))[0] == 200

    async with serving(server) as address, asyncio.timeout(20):
        async with connect(address, host="127.0.0.5") as first:
            first.writer.write(all_of(big))
            await first.reader.readexactly(1)
            many = [asyncio.create_task(fetch(address, "127.0.0.6")) for _ in range(20)]
            await soon(lambda: server.bodies.in_line == 20)
            one = asyncio.create_task(fetch(address, "127.0.0.7"))
            await soon(lambda: server.bodies.in_line == 21)
            await first.answer()
            await one
            await asyncio.gather(*many)
    assert served[:3] == ["127.0.0.5", "127.0.0.6", "127.0.0.7"]


async def test_clients_that_leave_the_line_are_not_waited_for(shelf: FakeShelf, big: Offer) -> None:
    server = bounded(shelf, place_s=1000, wait_s=1000, waiting=2)
    async with serving(server) as address:
        async with connect(address) as slow, connect(address) as other, asyncio.timeout(10):
            slow.writer.write(all_of(big))
            await slow.reader.readexactly(1)
            for _ in range(4):
                async with connect(address) as leaving:
                    leaving.writer.write(all_of(big))
                    await soon(lambda: server.bodies.in_line == 1)
                await soon(lambda: server.bodies.in_line == 0)
            asked = asyncio.create_task(other.ask(f"{base(big)}/data?slots=0-0"))
            await soon(lambda: server.bodies.in_line == 1)
            slow.writer.transport.abort()
            assert (await asked)[0] == 200
            assert (await other.ask(f"{base(big)}/data?slots=0-0"))[0] == 200


async def test_a_client_that_leaves_within_its_body_gives_its_place_back(
    shelf: FakeShelf, big: Offer
) -> None:
    server = bounded(shelf, place_s=1000, wait_s=1000)
    async with serving(server) as address, asyncio.timeout(10):
        for _ in range(3):
            async with connect(address) as leaving:
                leaving.writer.write(all_of(big))
                await leaving.reader.readexactly(1)
        async with connect(address) as other:
            assert (await other.ask(f"{base(big)}/data?slots=0-0"))[0] == 200


async def test_stopping_ends_the_line(shelf: FakeShelf, big: Offer) -> None:
    server = bounded(shelf, place_s=1000, wait_s=1000, stop_s=0.1)
    async with serving(server) as address, connect(address) as slow, connect(address) as other:
        for raw in (slow, other):
            raw.writer.write(all_of(big))
        await slow.reader.readexactly(1)
        async with asyncio.timeout(3):
            await server.stop()
            with suppress(ConnectionError):
                assert await other.reader.read(1) == b""


async def test_a_client_with_a_small_buffer_gets_everything(shelf: FakeShelf, big: Offer) -> None:
    """Beyond its place's time a body goes on."""
    loop = asyncio.get_running_loop()
    async with serving(bounded(shelf, place_s=0.01)) as address, asyncio.timeout(20):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * KIB)
            sock.setblocking(False)
            await loop.sock_connect(sock, address)
            await loop.sock_sendall(sock, all_of(big).replace(b"0-511", b"0-127"))
            received = 0
            while received < 8 * MIB:
                received += len(await loop.sock_recv(sock, 64 * KIB))
