"""Those who read slowly on purpose: they shut nobody out, and cost little memory."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from overlaysync.net.bounds import SERVER
from overlaysync.net.messages import Address
from overlaysync.net.server import Server
from overlaysync.units import CHUNK, MIB
from tests.net.content_provider import FakeShelf, connect, make_offer, make_shelf, serving

ADDRESSES = 4
SLOTS = 1024
BOUNDS = replace(SERVER, places=32)
"""Only so that the hall is full soon."""


@pytest.fixture
def shelf(tmp_path: Path) -> FakeShelf:
    shelf = make_shelf(tmp_path)
    shelf.items.append(make_offer(tmp_path / "big.raw", os.urandom(MIB) * (SLOTS * CHUNK // MIB), shelf.key))
    return shelf


@asynccontextmanager
async def slow_readers(address: Address, target: str) -> AsyncIterator[None]:
    """As many bodies as there may be, from few addresses; of each some bytes are taken, then no more."""
    request = f"GET {target}?slots=0-{SLOTS - 1} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    async with AsyncExitStack() as stack:
        readers = []
        for number in range(SERVER.bodies):
            host = f"127.0.7.{number % ADDRESSES + 1}"
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            sock.bind((host, 0))
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, tuple(address))
            reader, writer = await asyncio.open_connection(sock=sock, limit=1024)
            stack.callback(writer.close)
            writer.write(request)
            readers.append(reader)
        for reader in readers:
            assert b" 200 " in await reader.readuntil(b"\r\n")
        await asyncio.sleep(BOUNDS.place_s)
        yield


@pytest.mark.slow
async def test_slow_readers_from_a_few_addresses_shut_nobody_out(shelf: FakeShelf) -> None:
    assert SERVER.bodies == ADDRESSES * SERVER.connections_per_address
    target = f"/v1/manifests/{shelf.items[0].manifest.id.hex()}/data"
    loop = asyncio.get_running_loop()
    async with serving(Server(shelf, bounds=BOUNDS)) as address, slow_readers(address, target):
        waited = []
        for number in range(3):
            began = loop.time()
            async with connect(address, host=f"127.0.8.{number + 1}") as honest:
                status, _, body = await honest.ask(f"{target}?slots=0-0")
            waited.append(loop.time() - began)
            assert (status, len(body)) == (200, CHUNK)
    # The first that waits makes room, and leaves it to those that come later.
    assert max(waited) < 2, waited


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@asynccontextmanager
async def untaken(server: Server, address: Address, shelf: FakeShelf) -> AsyncIterator[None]:
    """A connection whose answers are all given, and of which the client has left some in the server."""
    assert server._http is not None
    manifest, page = shelf.items[0].manifest.id.hex(), shelf.items[0].pages.digests[0].hex()
    request = f"GET /v1/manifests/{manifest}/pages/{page} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await loop.sock_connect(sock, tuple(address))
        async with asyncio.timeout(30):
            while not any(item.get_write_buffer_size() for item in server._http._transports.values()):
                await loop.sock_sendall(sock, request)
                await asyncio.sleep(0.005)
        yield


async def gone(before: int, *, within_s: float) -> None:
    async with asyncio.timeout(within_s):
        while descriptors() > before:
            await asyncio.sleep(0.02)


@pytest.mark.slow
async def test_who_leaves_answers_untaken_holds_no_descriptor_when_it_has_made_room(shelf: FakeShelf) -> None:
    server = Server(shelf, bounds=replace(SERVER, connections_per_address=1))
    async with serving(server) as address:
        before = descriptors()
        async with untaken(server, address, shelf), connect(address) as honest:
            assert (await honest.ask("/v1/catalog"))[0] == 200
            await gone(before + 3, within_s=5)  # the two of the honest one, and the client's end of the other


@pytest.mark.slow
async def test_answers_left_untaken_end_their_connection(shelf: FakeShelf) -> None:
    server = Server(shelf, bounds=replace(SERVER, keepalive_s=1, write_s=2))
    async with serving(server) as address:
        before = descriptors()
        async with untaken(server, address, shelf):
            await gone(before + 1, within_s=20)  # the client's end
