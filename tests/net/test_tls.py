"""The private lane: pinned, proven from both sides, within bounds, and as good as the public one."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from overlaysync.errors import PeerError
from overlaysync.model.pages import page_digest
from overlaysync.net import tls
from overlaysync.net.bodies import Uploads
from overlaysync.net.bounds import CLIENT, SERVER
from overlaysync.net.client import Client
from overlaysync.net.machine import machine_mark
from overlaysync.net.membership import PrivateLane
from overlaysync.net.messages import PrivateAddress
from overlaysync.net.rate import RateLimit
from overlaysync.net.receiving import SilentError
from overlaysync.net.refusals import GoneError
from overlaysync.net.server import Server
from overlaysync.net.swarm_messages import SwarmQuestion
from overlaysync.net.tls import client_context, server_context, shown_by
from overlaysync.ops.offer import Offer
from overlaysync.swarm.link import Compression
from overlaysync.trust.keys import NodeKey, load_or_make
from overlaysync.trust.teams import Binding, Role, Team, new_team
from overlaysync.units import CHUNK, KIB, MIB
from tests.net.certificates import strange_context
from tests.net.content_provider import FakeShelf, deaf, make_shelf, ok, undialled, unused_port
from tests.net.lane import connect_tls, lane, listening, make_private

RED = new_team("red")
TAIL = 512
CONTENT = os.urandom(40 * CHUNK + TAIL)
HASTY = replace(SERVER, handshake_s=0.3)
HASTY_CLIENT = replace(CLIENT, connect_s=0.5, handshake_s=0.5, read_s=0.5)


@pytest.fixture
def shelf(tmp_path: Path) -> FakeShelf:
    shelf = make_shelf(tmp_path)
    shelf.items.append(make_private(tmp_path / "image.raw", CONTENT, shelf.key, RED))
    return shelf


@pytest.fixture
def offer(shelf: FakeShelf) -> Offer:
    return shelf.items[0]


@pytest.fixture
async def server(shelf: FakeShelf) -> AsyncIterator[Server]:
    async with listening(make_server(shelf)) as server:
        yield server


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with Client(teams={"red": RED}, bounds=HASTY_CLIENT) as client:
        yield client


@pytest.fixture
def stranger(tmp_path: Path) -> NodeKey:
    return load_or_make(tmp_path / "stranger")


def make_server(shelf: FakeShelf, **options) -> Server:
    return Server(shelf, lane=PrivateLane(shelf.key, {"red": RED}), **options)


Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def answering(
    key: NodeKey, handle: Handle, *, context: ssl.SSLContext | None = None
) -> AsyncIterator[PrivateAddress]:
    """A TLS server with this node key that does what ``handle`` does."""
    under_way: set[asyncio.Task] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        under_way.add(task)
        try:
            await handle(reader, writer)
        except (asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            pass
        finally:
            under_way.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=context or server_context(key)[0])
    try:
        yield PrivateAddress("127.0.0.1", server.sockets[0].getsockname()[1], "red")
    finally:
        server.close()
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


# -- what is served ----------------------------------------------------------------------------------


@pytest.mark.parametrize("pinned", [True, False])
async def test_everything_that_the_public_lane_has(
    server: Server, client: Client, shelf: FakeShelf, offer: Offer, pinned: bool
) -> None:
    address = lane(server, key=shelf.public_key if pinned else b"")
    shelf.known = ["192.0.2.7:80"]
    catalog = await client.private_catalog(address)
    assert (catalog.node, catalog.envelopes) == (shelf.public_key, (offer.manifest.envelope,))
    assert [str(peer) for peer in await client.peers(address)] == shelf.known
    manifest = offer.manifest
    assert await client.page_list(address, manifest.id, manifest.header.list_size) == offer.page_list
    for digest in offer.pages.digests:
        assert page_digest((await client.page(address, manifest.id, digest))[0]) == digest
    answer = await client.swarm(address, manifest.id, offer.pieces.count, SwarmQuestion())
    assert answer.held is None
    for runs in (((0, 41),), ((40, 1),), ((3, 2), (7, 1), (39, 2))):
        expected = b"".join(CONTENT[first * CHUNK : (first + count) * CHUNK] for first, count in runs)
        buffer = bytearray(len(expected))
        await client.read_slots(address, manifest.id, runs, memoryview(buffer))
        assert bytes(buffer) == expected


async def test_a_team_s_catalog_that_is_the_same_does_not_come_again(
    server: Server, client: Client, shelf: FakeShelf
) -> None:
    first = await client.catalog(lane(server))
    assert first.catalog is not None and first.etag
    assert (await client.catalog(lane(server), first.etag)).catalog is None
    shelf.items = []
    changed = await client.catalog(lane(server), first.etag)
    assert changed.catalog is not None and changed.etag != first.etag
    assert len(server._members) == 1, "the connection is used again after an answer without a body"


async def test_connections_are_used_again(server: Server, client: Client, offer: Offer) -> None:
    for _ in range(5):
        await client.private_catalog(lane(server))
        await client.read_slots(lane(server), offer.manifest.id, ((0, 1),), memoryview(bytearray(CHUNK)))
    assert len(server._members) == 2, "one for small things, one for data"


@pytest.mark.red_without(
    "N4", "a request, or the bytes that an answer has delivered, allow no further records"
)
@pytest.mark.parametrize("size", [MIB, 24 * MIB])
@pytest.mark.slow
async def test_big_bodies_side_by_side(tmp_path: Path, client: Client, shelf: FakeShelf, size: int) -> None:
    content = os.urandom(MIB) * (size // MIB)
    offer = make_private(tmp_path / "big.raw", content, shelf.key, RED)
    shelf.items.append(offer)
    async with listening(make_server(shelf)) as server:
        buffers = [bytearray(size) for _ in range(4)]
        runs = ((0, size // CHUNK),)
        await asyncio.gather(
            *(client.read_slots(lane(server), offer.manifest.id, runs, memoryview(b)) for b in buffers)
        )
    assert all(buffer == content for buffer in buffers)


@pytest.mark.parametrize("side", ["server", "client"])
@pytest.mark.slow
async def test_a_rate_limit_holds(shelf: FakeShelf, offer: Offer, side: str) -> None:
    limit = RateLimit(4 * MIB)
    free = RateLimit(None)
    async with (
        listening(make_server(shelf, uploads=Uploads(limit=limit if side == "server" else free))) as server,
        Client(teams={"red": RED}, limit=limit if side == "client" else free) as client,
    ):
        begun = time.monotonic()
        buffer = bytearray(len(CONTENT))
        await client.read_slots(lane(server), offer.manifest.id, ((0, 41),), memoryview(buffer))
        seconds = time.monotonic() - begun
    assert buffer == CONTENT
    assert seconds > 0.8 * (len(CONTENT) / (4 * MIB) - 0.2)


async def test_compressed_bodies(tmp_path: Path, shelf: FakeShelf) -> None:
    content = b"overlay " * (MIB // 8)
    offer = make_private(tmp_path / "words.raw", content, shelf.key, RED)
    shelf.items.append(offer)
    async with (
        listening(make_server(shelf)) as server,
        Client(teams={"red": RED}, compression=Compression.ALWAYS) as client,
    ):
        buffer = bytearray(MIB)
        received = await client.read_slots(lane(server), offer.manifest.id, ((0, 16),), memoryview(buffer))
    assert buffer == content and received < MIB // 10


# -- who answers -------------------------------------------------------------------------------------


@pytest.mark.red_without("N13", "the key of the answering node is compared only after the proof, or never")
async def test_another_key_is_told_nothing(client: Client, shelf: FakeShelf, stranger: NodeKey) -> None:
    heard = bytearray()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while part := await reader.read(1 << 16):
            heard.extend(part)

    async with answering(stranger, listen) as address:
        with pytest.raises(PeerError, match="another node"):
            await client.private_catalog(address._replace(key=shelf.public_key))
        await asyncio.sleep(0.1)
    assert heard == b""


@asynccontextmanager
async def relay(key: NodeKey, server: Server) -> AsyncIterator[tuple[PrivateAddress, bytearray, bytearray]]:
    """Somebody in the middle with a key of its own, who passes everything on and listens."""
    asked, answered = bytearray(), bytearray()

    async def pump(reader, writer, heard: bytearray) -> None:
        while part := await reader.read(1 << 16):
            heard.extend(part)
            writer.write(part)
            await writer.drain()

    async def both(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with connect_tls(server.tls) as there:
            await asyncio.gather(pump(reader, there.writer, asked), pump(there.reader, writer, answered))

    async with answering(key, both) as address:
        yield address, asked, answered


@pytest.mark.holds("N13")
@pytest.mark.holds("N14")
@pytest.mark.red_without("N13", "a proof is not bound to the TLS key of the process that is asked")
@pytest.mark.parametrize("copied", [True, False], ids=["copy of the server's key", "key of its own"])
@pytest.mark.parametrize("pinned", [True, False])
async def test_a_relay_learns_nothing(
    client: Client,
    server: Server,
    shelf: FakeShelf,
    offer: Offer,
    stranger: NodeKey,
    copied: bool,
    pinned: bool,
) -> None:
    """Even one that shows the key that is expected: the proof is for its lane, not for the server's."""
    async with relay(shelf.key if copied else stranger, server) as (address, asked, answered):
        address = address._replace(key=shelf.public_key if pinned else b"")
        refused = PeerError if pinned and not copied else GoneError
        with pytest.raises(refused):
            await client.private_catalog(address)
        with pytest.raises(refused):
            await client.read_slots(address, offer.manifest.id, ((0, 1),), memoryview(bytearray(CHUNK)))
    proofs = 0 if refused is PeerError else 2
    assert bytes(asked).count(b"GET ") == 2 * proofs and bytes(asked).count(b"GET /v1/proof?") == proofs
    assert answered.count(b"HTTP/1.1 404") == proofs
    for secret in (offer.manifest.id.hex().encode(), b"red", b"image", offer.manifest.id):
        assert secret not in asked + answered


async def test_each_process_of_a_node_has_a_lane_of_its_own(shelf: FakeShelf) -> None:
    shown = []
    for _ in range(2):
        async with listening(make_server(shelf)) as server, connect_tls(server.tls) as raw:
            shown.append(raw.shown)
    assert shown[0].lane != shown[1].lane
    assert {(one.node, one.machine) for one in shown} == {(shelf.public_key, machine_mark())}


@pytest.mark.red_without("N13", "the server's proof is not checked")
@pytest.mark.parametrize("lie", ["echo", "zeros", "its own"])
async def test_a_node_that_is_no_member_is_told_nothing_more(
    client: Client, stranger: NodeKey, lie: str
) -> None:
    heard: list[bytes] = []

    async def pretend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            request = await reader.readuntil(b"\r\n\r\n")
            heard.append(request)
            proof = request.split(b"proof=")[-1][:64]
            binding = Binding(stranger.public, b"p" * 32, b"s" * 32, b"c" * 32)
            other = new_team("red").prove(Role.SERVER, binding)
            answer = {"echo": proof, "zeros": b"0" * 64, "its own": other.hex().encode()}[lie]
            is_nonce = request.startswith(b"GET /v1/nonce ")
            writer.write(ok(b"s" * 32 if is_nonce else bytes.fromhex(answer.decode())))

    async with answering(stranger, pretend) as address:
        with pytest.raises(GoneError):
            await client.private_catalog(address)
    assert [request.split(b"?")[0].split(b" ")[1] for request in heard] == [b"/v1/nonce", b"/v1/proof"]


async def test_a_client_that_is_in_no_such_team_does_not_call(server: Server) -> None:
    async with Client() as client:
        with pytest.raises(GoneError):
            await client.private_catalog(PrivateAddress("127.0.0.1", unused_port(), "red"))


@pytest.mark.red_without("N13", "a nonce may be used twice")
async def test_a_proof_is_good_once(server: Server) -> None:
    async with connect_tls(server.tls) as raw, connect_tls(server.tls) as other:
        binding = await raw.challenge()
        assert (await raw.prove(RED, binding))[0] == 200
        assert (await raw.prove(RED, binding))[0] == 404, "the nonce is used up"
        assert (await raw.ask("/v1/catalog"))[0] == 200, "what was proven stays"
        assert (await other.prove(RED, binding))[0] == 404, "no nonce was asked for here"
        await other.challenge()
        assert (await other.prove(RED, binding))[0] == 404
        assert (await other.ask("/v1/catalog"))[0] == 404
        old = await other.challenge()
        await other.challenge()
        assert (await other.prove(RED, old))[0] == 404, "an older nonce is worth nothing"


async def test_the_server_proves_itself(server: Server, shelf: FakeShelf) -> None:
    async with connect_tls(server.tls) as raw:
        binding = await raw.challenge()
        assert binding.node == shelf.public_key != binding.lane
        _, _, proof = await raw.prove(RED, binding)
    assert proof == RED.prove(Role.SERVER, binding)


# -- TLS ---------------------------------------------------------------------------------------------


async def test_older_tls_is_refused_by_the_server(server: Server) -> None:
    context = client_context.__wrapped__()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(OSError):
        async with connect_tls(server.tls, context=context):
            pass


async def test_older_tls_is_refused_by_the_client(client: Client, stranger: NodeKey) -> None:
    context, _ = server_context(stranger)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0, ssl=context)
    async with server:
        with pytest.raises(PeerError, match="does not answer"):
            await client.private_catalog(
                PrivateAddress("127.0.0.1", server.sockets[0].getsockname()[1], "red")
            )


async def test_plain_http_on_the_private_port_gets_no_answer(server: Server) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.tls)
    writer.write(b"GET /v1/catalog HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(2):
        assert b"HTTP" not in await reader.read()
    writer.close()


async def test_each_node_shows_its_own_key(server: Server, shelf: FakeShelf, stranger: NodeKey) -> None:
    async with connect_tls(server.tls) as raw:
        assert shown_by(raw.writer.transport).node == shelf.public_key != stranger.public
        assert raw.writer.get_extra_info("ssl_object").version() == "TLSv1.3"


async def test_a_handshake_that_stalls_ends(shelf: FakeShelf) -> None:
    bounds = replace(HASTY, connections_per_address=4)
    async with listening(make_server(shelf, bounds=bounds)) as server:
        stalled = [await asyncio.open_connection("127.0.0.1", server.tls) for _ in range(4)]
        begun = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", server.tls)
        async with asyncio.timeout(0.2):
            assert await reader.read() == b"", "one too many is closed at once"
        writer.close()
        async with asyncio.timeout(3):
            for reader, writer in stalled:
                assert await reader.read() == b""
                writer.close()
        assert time.monotonic() - begun < 2
        async with connect_tls(server.tls) as raw:
            assert (await raw.prove(RED))[0] == 200


async def test_a_certificate_that_cannot_be_made_now_can_be_later(
    monkeypatch: pytest.MonkeyPatch, client: Client, shelf: FakeShelf
) -> None:
    def fail(key: NodeKey) -> ssl.SSLContext:
        raise OSError(errno.EMFILE, "no descriptor is left")

    bounds = replace(HASTY, connections_per_address=2)
    async with listening(make_server(shelf, bounds=bounds)) as server:
        with monkeypatch.context() as patch:
            patch.setattr(tls, "server_context", fail)
            for _ in range(3):
                with pytest.raises(PeerError):
                    await client.private_catalog(lane(server))
        assert (await client.private_catalog(lane(server))).node == shelf.public_key


async def test_handshakes_are_bounded_in_all(shelf: FakeShelf) -> None:
    async with listening(make_server(shelf, bounds=replace(HASTY, handshakes=2, handshake_s=30))) as server:
        stalled = [await asyncio.open_connection("127.0.0.1", server.tls) for _ in range(2)]
        reader, writer = await asyncio.open_connection("127.0.0.1", server.tls)
        async with asyncio.timeout(1):
            assert await reader.read() == b""
        for _, other in [*stalled, (reader, writer)]:
            other.close()


@pytest.mark.red_without(
    "N4", "a handshake does not give way to a host that has fewer, or does not when it is late"
)
async def test_handshakes_that_stall_make_room(shelf: FakeShelf) -> None:
    bounds = replace(HASTY, handshakes=4, handshake_s=30)
    async with listening(make_server(shelf, bounds=bounds)) as server:

        async def begin(host: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            return await asyncio.open_connection("127.0.0.1", server.tls, local_addr=(host, 0))

        stalled = [await begin("127.0.0.2") for _ in range(4)]
        other = await begin("127.0.0.3")
        async with asyncio.timeout(1):
            assert await stalled[0][0].read() == b"", "the oldest of who has most, for who has none"
        async with connect_tls(server.tls) as raw:
            assert (await raw.prove(RED))[0] == 200
        # With one address more of its own the same host would get in as soon as the oldest is late.
        stalled.append(await begin("127.0.0.2"))
        await asyncio.sleep(tls._GRACE_S)
        stalled.append(await begin("127.0.0.2"))
        async with asyncio.timeout(1):
            assert await stalled[2][0].read() == b""
        assert not other[0].at_eof()
        for _, writer in [*stalled, other]:
            writer.close()


async def test_connections_are_bounded_as_in_public(shelf: FakeShelf) -> None:
    async with listening(make_server(shelf, bounds=replace(SERVER, connections_per_address=2))) as server:
        async with connect_tls(server.tls) as first, connect_tls(server.tls) as second:
            await first.prove(RED)
            await second.prove(RED)
            async with connect_tls(server.tls) as third:
                assert (await third.prove(RED))[0] == 200
                assert await first.reader.read() == b"", "the longest idle one makes room"


async def test_an_idle_connection_is_closed(shelf: FakeShelf) -> None:
    async with listening(make_server(shelf, bounds=replace(SERVER, keepalive_s=0.2))) as server:
        async with connect_tls(server.tls) as raw:
            await raw.prove(RED)
            async with asyncio.timeout(3):
                assert await raw.reader.read() == b""


@pytest.mark.slow
async def test_a_node_that_never_shakes_hands(client: Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        begun = time.monotonic()
        with pytest.raises(SilentError):
            await client.private_catalog(PrivateAddress("127.0.0.1", sock.getsockname()[1], "red"))
        assert time.monotonic() - begun < 2
    with deaf() as address, pytest.raises(SilentError):
        await client.private_catalog(PrivateAddress(address.host, address.port, "red"))


async def test_nobody_listens(client: Client) -> None:
    with pytest.raises(PeerError, match="refused"):
        await client.private_catalog(PrivateAddress("127.0.0.1", unused_port(), "red"))


# -- bodies ------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_client_that_reads_nothing_is_dropped(tmp_path: Path, shelf: FakeShelf) -> None:
    offer = make_private(tmp_path / "big.raw", os.urandom(MIB) * 32, shelf.key, RED)
    shelf.items.append(offer)
    sent: list[int] = []
    bounds = replace(SERVER, write_s=0.3, min_rate=MIB, stop_s=0.1)
    server = make_server(
        shelf, bounds=bounds, uploads=Uploads(sent=lambda manifest, host, count, _: sent.append(count))
    )
    async with listening(server), connect_tls(server.tls) as raw:
        await raw.prove(RED)
        target = f"/v1/manifests/{offer.manifest.id.hex()}/data?slots=0-511"
        raw.writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        async with asyncio.timeout(5):
            while not sent:
                await asyncio.sleep(0.05)
    assert sent[0] < 32 * MIB


@asynccontextmanager
async def member_of_red(
    key: NodeKey, body: Callable[[asyncio.StreamWriter], Awaitable[None]]
) -> AsyncIterator[PrivateAddress]:
    """A node in the team that answers requests for data with what ``body`` writes."""
    context, shown = server_context(key)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            request = await reader.readuntil(b"\r\n\r\n")
            if request.startswith(b"GET /v1/nonce "):
                writer.write(ok(b"s" * 32))
            elif request.startswith(b"GET /v1/proof?"):
                client = bytes.fromhex(request.split(b"nonce=")[1][:64].decode())
                binding = Binding(shown.node, shown.lane, b"s" * 32, client)
                writer.write(ok(RED.prove(Role.SERVER, binding)))
            else:
                await body(writer)

    async with answering(key, handle, context=context) as address:
        yield address


@pytest.mark.parametrize("record", [8, 777, 16 * KIB + 1])
async def test_records_of_any_size_are_no_stall(client: Client, stranger: NodeKey, record: int) -> None:
    content = os.urandom(CHUNK + 1)[: 40 * record]

    async def drip(writer: asyncio.StreamWriter) -> None:
        head = ok(content)
        for at in range(0, len(head), record):
            writer.write(head[at : at + record])
            if at % (8 * record) == 0:
                await asyncio.sleep(0.005)

    async with member_of_red(stranger, drip) as address:
        buffer = bytearray(len(content))
        bounds = replace(HASTY_CLIENT, min_rate=1)
        async with Client(teams={"red": RED}, bounds=bounds) as patient:
            for _ in range(2):
                await patient.read_slots(address, b"m" * 32, ((0, 1),), memoryview(buffer))
                assert buffer == content


@pytest.mark.parametrize("kept", [1, 100, CHUNK // 2])
@pytest.mark.slow
async def test_a_body_that_stops_is_a_stall(client: Client, stranger: NodeKey, kept: int) -> None:
    async def stop(writer: asyncio.StreamWriter) -> None:
        writer.write(ok(bytes(CHUNK))[:-kept])
        await asyncio.sleep(5)

    async with member_of_red(stranger, stop) as address:
        begun = time.monotonic()
        with pytest.raises(SilentError):
            await client.read_slots(address, b"m" * 32, ((0, 1),), memoryview(bytearray(CHUNK)))
        assert time.monotonic() - begun < 2


async def test_a_body_that_is_cut_is_lost(client: Client, stranger: NodeKey) -> None:
    async def cut(writer: asyncio.StreamWriter) -> None:
        writer.write(ok(bytes(CHUNK))[:-1])
        await writer.drain()
        writer.transport.abort()

    async with member_of_red(stranger, cut) as address:
        with pytest.raises(PeerError):
            await client.read_slots(address, b"m" * 32, ((0, 1),), memoryview(bytearray(CHUNK)))


CALLS: dict[str, Callable[[Client, PrivateAddress], Awaitable[object]]] = {
    "catalog": lambda client, address: client.private_catalog(address),
    "peers": lambda client, address: client.peers(address),
    "page list": lambda client, address: client.page_list(address, b"m" * 32, 100),
    "page": lambda client, address: client.page(address, b"m" * 32, bytes(32)),
    "swarm": lambda client, address: client.swarm(address, b"m" * 32, 10, SwarmQuestion()),
    "data": lambda client, address: client.read_slots(
        address, b"m" * 32, ((0, 1),), memoryview(bytearray(CHUNK))
    ),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
@pytest.mark.parametrize("version", [4, 5])
async def test_a_certificate_of_another_version_is_refused(
    client: Client, stranger: NodeKey, call: Callable[..., Awaitable[object]], version: int
) -> None:
    async def nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.read() == b"", "the client has sent something"

    async with answering(stranger, nothing, context=strange_context(stranger, version)) as address:
        with pytest.raises(PeerError):
            await call(client, address)


async def test_whatever_is_raised_while_a_certificate_is_judged_is_the_peer_s_failure(
    client: Client, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def panic(transport: asyncio.BaseTransport) -> bytes:
        raise RuntimeError("the library has a new exception")

    monkeypatch.setattr("overlaysync.net.dialling.shown_by", panic)
    with pytest.raises(PeerError, match="certificate"):
        await client.private_catalog(lane(server))


@pytest.mark.red_without(
    "N1", "any other HTTP status counts as 200 (in answers with data, and on the private lane)"
)
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
@pytest.mark.parametrize("status", [302, 307])
async def test_nobody_is_dialled_where_a_member_redirects_to(
    client: Client, stranger: NodeKey, call: Callable[..., Awaitable[object]], status: int
) -> None:
    with undialled() as elsewhere:

        async def redirect(writer: asyncio.StreamWriter) -> None:
            where = f"Location: https://{elsewhere}/v1/catalog\r\nContent-Length: 0"
            writer.write(f"HTTP/1.1 {status} Go\r\n{where}\r\n\r\n".encode())

        async with member_of_red(stranger, redirect) as address:
            with pytest.raises(PeerError, match=f"answers {status}"):
                await call(client, address)


async def test_an_endless_catalog_is_not_read(client: Client, stranger: NodeKey) -> None:
    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(ok(b"{}", length=1 << 40))

    async with member_of_red(stranger, endless) as address:
        with pytest.raises(PeerError):
            await client.private_catalog(address)


def test_teams_hide_their_key_in_errors() -> None:
    assert RED.key.hex() not in repr({"red": Team("red", RED.key)})
