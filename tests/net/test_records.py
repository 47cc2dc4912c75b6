"""Few TLS records are let through to OpenSSL: what asks for work and brings nothing ends its connection."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from overlaysync.errors import PeerError
from overlaysync.net.bounds import CLIENT, SERVER
from overlaysync.net.client import Client
from overlaysync.net.membership import PrivateLane
from overlaysync.net.messages import PrivateAddress
from overlaysync.net.records import RecordSocket, TooManyRecordsError
from overlaysync.net.server import Server
from overlaysync.net.tls import server_context
from overlaysync.trust.teams import new_team
from tests.net.content_provider import make_shelf, ok
from tests.net.key_updates import key_update
from tests.net.lane import RawTls, connect_tls, listening

pytestmark = pytest.mark.red_without("N4", "the TLS records of a client, or of a server, are not counted")

RED = new_team("red")
RECORD = b"\x17\x03\x03"


def record(size: int) -> bytes:
    return RECORD + size.to_bytes(2, "big") + bytes(size)


@pytest.mark.parametrize("step", [1, 4, 5, 7, 1000])
def test_records_are_counted_however_they_come(step: int) -> None:
    sender, receiver = socket.socketpair()
    counting = RecordSocket(fileno=receiver.detach(), records=3)
    with sender, counting:
        for round_ in range(2):
            data = record(0) + record(300) + record(7)
            for at in range(0, len(data), step):
                sender.sendall(data[at : at + step])
                buffer = bytearray(1000)
                count = counting.recv_into(buffer)
                assert buffer[:count] == data[at : at + step]
            if not round_:
                counting.renew()
        sender.sendall(record(1))
        with pytest.raises(TooManyRecordsError):
            counting.recv(1000)


async def nonces(raw: RawTls, count: int) -> None:
    for _ in range(count):
        assert (await raw.ask("/v1/nonce"))[0] == 200


async def ends(raw: RawTls) -> None:
    """Nothing that was sent is answered, and the connection ends long before an idle one would."""
    async with asyncio.timeout(SERVER.keepalive_s / 3):
        with suppress(ConnectionError):
            assert await raw.reader.read() == b""


@pytest.mark.red_without(
    "N4", "a request, or the bytes that an answer has delivered, allow no further records"
)
async def test_a_client_may_ask_as_often_as_it_likes(tmp_path: Path) -> None:
    shelf = make_shelf(tmp_path)
    async with listening(Server(shelf, lane=PrivateLane(shelf.key, {"red": RED}))) as server:
        async with connect_tls(server.tls) as raw:
            await nonces(raw, 4 * SERVER.records)


async def test_a_client_that_demands_new_keys_is_dropped(tmp_path: Path) -> None:
    shelf = make_shelf(tmp_path)
    async with listening(Server(shelf, lane=PrivateLane(shelf.key))) as server:
        async with connect_tls(server.tls) as raw:
            await nonces(raw, 1)
            for _ in range(SERVER.records):
                key_update(raw.writer.get_extra_info("ssl_object"))
            raw.writer.write(b"GET /v1/nonce HTTP/1.1\r\nHost: x\r\n\r\n")
            await ends(raw)


async def test_a_client_that_sends_its_request_in_pieces_is_dropped(tmp_path: Path) -> None:
    shelf = make_shelf(tmp_path)
    async with listening(Server(shelf, lane=PrivateLane(shelf.key))) as server:
        async with connect_tls(server.tls) as raw:
            for byte in b"GET /v1/nonce HTTP/1.1\r\nHost: x\r\n\r\n":
                raw.writer.write(bytes([byte]))
            await ends(raw)


async def test_a_server_that_demands_new_keys_is_a_failed_peer(tmp_path: Path) -> None:
    context, _ = server_context(make_shelf(tmp_path).key)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for _ in range(CLIENT.records):
            key_update(writer.get_extra_info("ssl_object"))
        writer.write(ok(bytes(32)))
        await reader.read()
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=context)
    address = PrivateAddress("127.0.0.1", server.sockets[0].getsockname()[1], "red")
    async with Client(teams={"red": RED}, bounds=replace(CLIENT, read_s=5)) as client:
        with pytest.raises(PeerError, match="TLS records"):
            await client.private_catalog(address)
    server.close()
