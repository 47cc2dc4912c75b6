"""Every limit of the table in net/bounds.py, hit by one more than it allows; see limits.py."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest

from overlaysync.discovery.announcer import Announcement, Announcer
from overlaysync.discovery.bounds import DISCOVERY
from overlaysync.discovery.browser import SERVICE, Browser, Peer
from overlaysync.errors import DecodeError, PeerError, UsageError
from overlaysync.net import bounds
from overlaysync.net.bodies import Uploads
from overlaysync.net.bounds import CLIENT, SERVER
from overlaysync.net.client import Client
from overlaysync.net.connections import retry_after
from overlaysync.net.messages import (
    Address,
    CatalogMessage,
    decode_catalog,
    decode_history,
    decode_peers,
    decode_slots,
    encode_catalog,
    encode_history,
    parse_address,
)
from overlaysync.net.receiving import SilentError
from overlaysync.net.refusals import BusyError
from overlaysync.net.server import Server
from overlaysync.net.swarm_messages import decode_data_query, decode_question, decode_swarm
from overlaysync.units import CHUNK, MIB
from tests.net.content_provider import (
    HASTY_CLIENT,
    FakeShelf,
    connect,
    make_offer,
    make_shelf,
    ok,
    says,
    scripted,
    serving,
)
from tests.net.limits import IMPLIED, TESTS, all_limits
from tests.net.still import StillNetwork

NODE = bytes(32)
MEMBER = ("0" * 16, "192.0.2.1:80", 0)
CATALOG = encode_catalog(CatalogMessage(NODE, "x", []))


def test_every_limit_has_a_test() -> None:
    assert sorted(all_limits()) == sorted([*TESTS, *IMPLIED])
    for test in TESTS.values():
        file, _, name = re.sub(r"\[.*", "", test).partition("::")
        assert f"def {name}(" in (Path(__file__).parent / file).read_text(), test


# -- messages ------------------------------------------------------------------------------------------

DECODERS: dict[str, tuple[bytes, Callable[[bytes], object]]] = {
    "MAX_CATALOG_SIZE": (CATALOG, decode_catalog),
    "MAX_HISTORY_SIZE": (b'{"items":[]}', decode_history),
    "MAX_PEERS_SIZE": (b'{"peers":[]}', decode_peers),
    "MAX_SWARM_SIZE": (b'{"label":"x","pieces":9,"whole":true}', lambda data: decode_swarm(data, 9)),
}


def assert_bound(accepted: Callable[[int], object], most: int, *errors: type[Exception]) -> None:
    """``accepted`` takes as much as there may be, and no more."""
    accepted(most)
    with pytest.raises(errors or DecodeError):
        accepted(most + 1)


@pytest.mark.parametrize("limit", DECODERS)
def test_size_of_a_message(limit: str) -> None:
    body, decode = DECODERS[limit]
    assert_bound(lambda size: decode(body.ljust(size)), getattr(bounds, limit))


def catalog(*items: bytes) -> bytes:
    texts = [base64.b64encode(item).decode() for item in items]
    return json.dumps({"node": NODE.hex(), "label": "x", "items": texts}).encode()


def swarm(**changes: object) -> bytes:
    return json.dumps({"label": "x", "pieces": 4096, "whole": False} | changes).encode()


def test_manifests_in_a_catalog() -> None:
    assert_bound(lambda count: decode_catalog(catalog(*[b"x"] * count)), bounds.MAX_CATALOG_ITEMS)


def history(*items: bytes) -> bytes:
    return json.dumps({"items": [base64.b64encode(item).decode() for item in items]}).encode()


def test_versions_in_a_history() -> None:
    assert_bound(lambda count: decode_history(history(*[b"x"] * count)), bounds.MAX_HISTORY_ITEMS)


def test_a_history_that_is_sent_is_within_its_bounds() -> None:
    """The newest come first, and of those as many as fit."""
    few, many = [bytes([n]) for n in range(3)], [b"x"] * (bounds.MAX_HISTORY_ITEMS + 1)
    long = [bytes([n % 256]) * bounds.MAX_MANIFEST_SIZE for n in range(bounds.MAX_HISTORY_ITEMS)]
    assert decode_history(encode_history(few)) == tuple(few)
    assert len(decode_history(encode_history(many))) == bounds.MAX_HISTORY_ITEMS
    body = encode_history(long)
    found = decode_history(body)
    assert found == tuple(long[: len(found)])
    assert 0 <= bounds.MAX_HISTORY_SIZE - len(body) < 2 * bounds.MAX_MANIFEST_SIZE


def test_size_of_a_manifest() -> None:
    assert_bound(lambda size: decode_catalog(catalog(bytes(size))), bounds.MAX_MANIFEST_SIZE)
    assert_bound(lambda size: decode_history(history(bytes(size))), bounds.MAX_MANIFEST_SIZE)


def test_peers_in_a_list() -> None:
    def decode(count: int) -> None:
        decode_peers(json.dumps({"peers": ["192.0.2.1:80"] * count}).encode())

    assert_bound(decode, bounds.MAX_PEERS)


def test_length_of_a_label() -> None:
    body = json.dumps({"node": NODE.hex(), "label": "x" * 9000, "items": []}).encode()
    assert len(decode_catalog(body).label) == bounds.MAX_LABEL + len("…")


def test_length_of_a_host_name() -> None:
    assert_bound(lambda size: parse_address(("a." * 200)[: size - 1] + "b:80"), bounds.MAX_HOST, UsageError)


def test_members_in_an_answer() -> None:
    assert_bound(lambda count: decode_swarm(swarm(members=[MEMBER] * count), 4096), bounds.MAX_TOLD)


def test_news_in_an_answer() -> None:
    assert_bound(lambda count: decode_swarm(swarm(news=[*range(count)]), 4096), bounds.MAX_NEWS)


def whole(**changes: object) -> bytes:
    return swarm(whole=True, taken_cursor=1, **changes)


def test_a_crowd() -> None:
    assert_bound(lambda crowd: decode_swarm(whole(crowd=crowd), 4096), bounds.MAX_CROWD)


def test_pieces_taken_in_an_answer() -> None:
    assert_bound(lambda count: decode_swarm(whole(taken=[*range(count)]), 4096), bounds.MAX_TAKEN)


def test_length_of_a_member_id() -> None:
    def decode(size: int) -> None:
        answer = decode_swarm(swarm(members=[("00" * size, *MEMBER[1:])]), 4096)
        assert bool(answer.members) == (size == bounds.MEMBER_ID_SIZE)
        decode_question(f"member={'00' * size}&port=1&by=&held=0&since=0")

    assert_bound(decode, bounds.MEMBER_ID_SIZE)


def test_a_cursor() -> None:
    assert_bound(lambda cursor: decode_swarm(swarm(cursor=cursor), 4096), bounds.MAX_CURSOR)
    assert_bound(lambda cursor: decode_swarm(swarm(whole=True, taken_cursor=cursor), 4096), bounds.MAX_CURSOR)
    assert_bound(lambda cursor: decode_question(f"held=0&since={cursor}"), bounds.MAX_CURSOR)
    assert_bound(lambda cursor: decode_question(f"held=0&since=0&known=0&taken={cursor}"), bounds.MAX_CURSOR)
    claim = f"slots=0-0&member={'00' * bounds.MEMBER_ID_SIZE}&taken="
    assert_bound(lambda cursor: decode_data_query(f"{claim}{cursor}"), bounds.MAX_CURSOR)


def test_ranges_in_a_request() -> None:
    assert_bound(lambda count: decode_slots(",".join(f"{n}-{n}" for n in range(count))), bounds.MAX_RANGES)


def test_slots_in_a_request() -> None:
    assert_bound(lambda count: decode_slots(f"0-{count - 1}"), bounds.MAX_SLOTS)


def test_digits_of_a_slot() -> None:
    assert_bound(lambda digits: decode_slots(f"{'9' * digits}-{'9' * digits}"), bounds.MAX_SLOT_DIGITS)


def test_a_request_line_has_room_for_all_ranges() -> None:
    path = f"GET /v1/manifests/{'0' * 64}/data?slots= HTTP/1.1\r\n"
    assert len(path) + bounds.MAX_SLOTS_TEXT <= SERVER.line_size
    first = 10 ** (bounds.MAX_SLOT_DIGITS - 1)
    longest = ",".join(f"{first + n}-{first + n}" for n in range(bounds.MAX_RANGES))
    assert len(decode_slots(longest)) == bounds.MAX_RANGES


# -- the server ----------------------------------------------------------------------------------------


@pytest.fixture
def shelf(tmp_path: Path) -> FakeShelf:
    shelf = make_shelf(tmp_path)
    shelf.items.append(make_offer(tmp_path / "image.raw", os.urandom(MIB) * 32, shelf.key))
    return shelf


def data(shelf: FakeShelf, slots: str) -> str:
    return f"/v1/manifests/{shelf.items[0].manifest.id.hex()}/data?slots={slots}"


async def status(shelf: FakeShelf, request: bytes, bounds: bounds.ServerBounds = SERVER) -> int:
    """Of the answer to a request."""
    async with serving(Server(shelf, bounds=bounds)) as address, connect(address) as raw:
        raw.writer.write(request)
        return (await raw.answer())[0]


async def test_length_of_a_request_line(shelf: FakeShelf) -> None:
    def request(size: int) -> bytes:
        return b"GET /v1/catalog?%s HTTP/1.1\r\nHost: x\r\n\r\n" % (b"x" * size)

    assert await status(shelf, request(SERVER.line_size - 100)) == 200
    assert await status(shelf, request(SERVER.line_size + 1)) == 400


async def test_length_of_a_field(shelf: FakeShelf) -> None:
    def request(size: int) -> bytes:
        return b"GET /v1/catalog HTTP/1.1\r\nHost: x\r\nX: %s\r\n\r\n" % (b"x" * size)

    assert await status(shelf, request(SERVER.field_size - 100)) == 200
    assert await status(shelf, request(SERVER.field_size + 1)) == 400


async def test_fields_of_a_request(shelf: FakeShelf) -> None:
    def request(count: int) -> bytes:
        return b"GET /v1/catalog HTTP/1.1\r\nHost: x\r\n%s\r\n" % (b"X: y\r\n" * (count - 1))

    assert await status(shelf, request(32)) == 200
    assert await status(shelf, request(33)) == 400


async def test_bodies_under_way(shelf: FakeShelf) -> None:
    server = Server(shelf, bounds=replace(SERVER, bodies=2, wait_s=0.1))
    request = f"GET {data(shelf, '0-511')} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    async with serving(server) as address, connect(address) as one, connect(address) as two:
        for raw in (one, two):
            raw.writer.write(request)
            assert b" 200 " in await raw.reader.readuntil(b"\r\n")
        async with Client() as client:
            with pytest.raises(BusyError):
                await client.read_slots(
                    address, shelf.items[0].manifest.id, ((0, 1),), memoryview(bytearray(CHUNK))
                )


def test_when_to_come_back() -> None:
    found = {retry_after(replace(SERVER, retry_s=3)) for _ in range(200)}
    assert found == {3, 4, 5, 6}


@pytest.mark.slow
async def test_rate_of_a_client(shelf: FakeShelf) -> None:
    sent: list[int] = []
    bounds = replace(SERVER, write_s=3, min_rate=64 * MIB)
    server = Server(
        shelf, bounds=bounds, uploads=Uploads(sent=lambda manifest, peer, count, _: sent.append(count))
    )
    async with serving(server) as address:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, tuple(address))
        await loop.sock_sendall(sock, f"GET {data(shelf, '0-511')} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        with sock:
            async with asyncio.timeout(8):
                while not sent:  # a good deal in each of the times in which it must take something
                    await loop.sock_recv(sock, 65536)
                    await asyncio.sleep(0.01)
    assert sent[0] < 32 * MIB


async def test_connections_in_the_kernel(shelf: FakeShelf) -> None:
    server = Server(shelf, bounds=replace(SERVER, queue=7))
    async with serving(server):
        (sock,) = server._listeners[0].sockets
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
    assert struct.unpack_from("I", info, 28) == (7,)  # tcpi_sacked: of a listening socket its queue


# -- the client ----------------------------------------------------------------------------------------

Ask = Callable[[Client, Address], Awaitable[object]]


async def ask_data(client: Client, address: Address, size: int = MIB) -> object:
    return await client.read_slots(address, NODE, ((0, 1),), memoryview(bytearray(size)))


async def ask_catalog(client: Client, address: Address) -> object:
    return await client.catalog(address)


both = pytest.mark.parametrize("ask", [ask_data, ask_catalog])


async def test_length_of_an_etag() -> None:
    async with Client() as client, scripted(says(ok(CATALOG, f"ETag: {'x' * 5000}"))) as address:
        assert len((await client.catalog(address)).etag) == bounds.MAX_ETAG


async def test_size_of_a_page() -> None:
    async with Client() as client, scripted(says(ok(bytes(bounds.MAX_PAGE_SIZE + 1)))) as address:
        with pytest.raises(PeerError, match="offers"):
            await client.page(address, NODE, NODE)


@both
@pytest.mark.slow
async def test_silence_of_a_server(ask: Ask) -> None:
    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with Client(bounds=HASTY_CLIENT) as client, scripted(stall) as address, asyncio.timeout(5):
        with pytest.raises(SilentError):
            await ask(client, address)


@pytest.mark.slow
@both
async def test_rate_of_a_server(ask: Ask) -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(ok(b"", length=MIB))
        while not writer.is_closing():
            writer.write(b"x" * 64)
            await writer.drain()
            await asyncio.sleep(0.05)

    bounds = replace(HASTY_CLIENT, min_rate=MIB)
    async with Client(bounds=bounds) as client, scripted(drip) as address, asyncio.timeout(5):
        with pytest.raises(SilentError):
            await ask(client, address)


@both
async def test_size_of_a_head(ask: Ask) -> None:
    """Fields that are neither many nor long may be too much together."""
    part = "x" * (CLIENT.head_size // 8)
    body = CATALOG if ask is ask_catalog else bytes(MIB)
    good, large = (says(ok(body, *(f"X-{n}: {part}" for n in range(count)))) for count in (6, 8))
    async with Client() as client:
        async with scripted(good) as address:
            await ask(client, address)
        async with scripted(large) as address:
            with pytest.raises(PeerError):
                await ask(client, address)


@pytest.mark.slow
async def test_age_of_an_idle_connection() -> None:
    connections = set()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(writer)
        writer.write(ok(b"12345"))

    async with Client(bounds=replace(CLIENT, idle_s=0.1)) as client, scripted(script) as address:
        for _ in range(2):
            await ask_data(client, address, 5)
            await asyncio.sleep(0.3)
    assert len(connections) == 2


@pytest.mark.red_without("N3", "an idle connection to a peer is kept for good")
async def test_an_idle_connection_is_not_kept() -> None:
    """Of peers that are asked once, there may be many."""
    ended = asyncio.Event()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ok(CATALOG))
        await reader.read()
        ended.set()
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with Client(bounds=replace(CLIENT, idle_s=0.1)) as client:
        await ask_catalog(client, Address("127.0.0.1", server.sockets[0].getsockname()[1]))
        async with asyncio.timeout(5):
            await ended.wait()
        assert not client._pool._hosts
    server.close()


# -- discovery -----------------------------------------------------------------------------------------


class Resolver:
    """Stands for zeroconf's service info: nobody answers, and how many wait is counted."""

    now = most = asked = 0
    times_s: ClassVar[list[float]]

    def __init__(self, service: str, name: str) -> None:
        pass

    async def async_request(self, zeroconf: object, timeout_ms: float, question: object) -> bool:
        cls = type(self)
        cls.asked += 1
        cls.now += 1
        cls.most = max(cls.most, cls.now)
        cls.times_s.append(timeout_ms / 1000)
        await asyncio.sleep(min(timeout_ms / 1000, 5))
        cls.now -= 1
        return False


@asynccontextmanager
async def resolving(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> AsyncIterator[tuple[Browser, Any]]:
    """A browser without a network that has heard of very many."""

    class Fresh(Resolver):
        times_s: ClassVar[list[float]] = []

    monkeypatch.setattr("overlaysync.discovery.browser.AsyncServiceInfo", Fresh)
    browser = Browser(bounds=replace(DISCOVERY, **changes))
    browser._multicast._zeroconf = cast(Any, SimpleNamespace(zeroconf=None))
    for number in range(5000):
        hear(browser, f"n{number}")
    workers = [asyncio.create_task(browser._work()) for _ in range(browser._bounds.resolves)]
    try:
        yield browser, Fresh
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


def hear(browser: Browser, name: str) -> None:
    from zeroconf import ServiceStateChange

    browser._heard(cast(Any, None), SERVICE, f"{name}.{SERVICE}", ServiceStateChange.Added)


async def test_peers_that_wait_to_be_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    async with resolving(monkeypatch) as (browser, _):
        assert len(browser._pending) == DISCOVERY.pending
        assert browser._wanted._value == DISCOVERY.pending


async def test_peers_resolved_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with resolving(monkeypatch, pace_s=0) as (_, resolver):
        await asyncio.sleep(0.1)
        assert resolver.most == 4


@pytest.mark.slow
async def test_time_to_resolve_a_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    async with resolving(monkeypatch, resolve_s=0.05, pace_s=0) as (_, resolver):
        await asyncio.sleep(0.5)
        assert set(resolver.times_s) == {0.05}
        assert resolver.asked > DISCOVERY.resolves


async def test_pause_between_two_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    async with resolving(monkeypatch, resolve_s=0, pace_s=0.1) as (_, resolver):
        await asyncio.sleep(0.35)
        assert DISCOVERY.resolves <= resolver.asked <= 4 * DISCOVERY.resolves


def peer(number: int) -> Peer:
    return Peer(f"n{number}", "", ("192.0.2.1",), 80)


async def test_peers_kept() -> None:
    browser = Browser()
    for number in range(5):
        browser._keep(peer(number))
        browser.confirm(peer(number).label, peer(number).addresses[0], 40000 + number)
    for number in range(5, 3000):
        browser._keep(peer(number))
        if number % 2:
            hear(browser, f"n{number}")
    assert len(browser.peers) == DISCOVERY.peers
    assert {f"n{number}" for number in range(5)} <= set(browser.peers)


async def test_peers_of_one_ipv6_network_are_of_one_host() -> None:
    browser = Browser(bounds=replace(DISCOVERY, confirmed=2))
    for number in range(5):
        browser._keep(peer(number))
        browser.confirm(peer(number).label, f"fe80::{number + 1}%eth0", 40001)
    assert len(browser._confirmed) == 2


async def test_addresses_of_a_peer() -> None:
    browser = Browser()
    browser._multicast.reaches = lambda address: True  # type: ignore[method-assign]
    announced = [f"192.0.2.{number}" for number in range(50)]
    assert len(browser._multicast.reachable(announced)) == DISCOVERY.addresses


@pytest.mark.slow
async def test_pause_between_two_updates() -> None:
    """All changes within a pause are one announcement."""
    sent = []

    async def update(info: object) -> Awaitable[None]:
        sent.append(info)
        return asyncio.sleep(0)

    announcer = Announcer("x", bounds=replace(DISCOVERY, updates_s=0.3))
    announcer._multicast = cast(Any, StillNetwork(SimpleNamespace(async_update_service=update)))
    announcer._announced = Announcement(1, "abcd")
    announcer._info = announcer._make_info()
    updater = asyncio.create_task(announcer._keep_announced(asyncio.sleep(0)))
    for number in range(10):
        await announcer.update(Announcement(1, "abcd", f"r{number}"))
        await asyncio.sleep(0.01)
    assert sent == []
    await asyncio.sleep(0.6)
    updater.cancel()
    await asyncio.gather(updater, return_exceptions=True)
    assert len(sent) == 1


def test_length_of_an_instance_name() -> None:
    assert len(Announcer("é" * 500).name.encode()) + len("-99") <= 63, "one label of DNS"
