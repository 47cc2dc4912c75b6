"""A shelf of real offers, small bounds, and peers that misbehave by script."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from overlaysync.formats.chain import Chain
from overlaysync.formats.image import Format
from overlaysync.model.datamap import DataMap
from overlaysync.model.digest import as_digests, canonicalise, format_id, hash_units
from overlaysync.model.manifest import Header
from overlaysync.model.pages import PageListBuilder
from overlaysync.net.bounds import CLIENT, SERVER
from overlaysync.net.messages import Address, parse_address
from overlaysync.net.server import Server
from overlaysync.ops.assemble import Assembly
from overlaysync.ops.in_use import InUse
from overlaysync.ops.offer import ImageOffer, Offer, PartOffer
from overlaysync.ops.part_files import target_for
from overlaysync.swarm.members import Swarms
from overlaysync.trust.envelope import sign_header
from overlaysync.trust.keys import NodeKey, load_or_make
from overlaysync.units import CHUNK, PAGE_UNITS

PATIENT = SERVER
HASTY_SERVER = replace(SERVER, keepalive_s=0.3, write_s=0.3, min_rate=1 << 20, stop_s=0.1)
HASTY_CLIENT = replace(CLIENT, connect_s=0.5, read_s=0.4, min_rate=1 << 16)


def make_offer(
    path: Path, content: bytes, key: NodeKey, *, unchanged: Callable[[], bool] = lambda: True
) -> Offer:
    """The offer of a raw image with ``content``, written to ``path``."""
    path.write_bytes(content)
    bodies: dict[bytes, bytes] = {}
    builder = PageListBuilder(virtual_size=len(content), unit=CHUNK, parent=None, keep=bodies.__setitem__)
    digests = as_digests(bytearray(hash_units(memoryview(content), CHUNK)))
    canonicalise(digests, CHUNK, last_length=len(content) % CHUNK or CHUNK)
    for index, at in enumerate(range(0, len(digests), PAGE_UNITS)):
        builder.add(index, digests[at : at + PAGE_UNITS].tobytes())
    pages = builder.build()
    header = Header(
        kind="disk",
        name=path.stem,
        version=1,
        id=format_id(pages.id),
        virtual_size=len(content),
        unit=CHUNK,
        data_size=DataMap(pages, bodies.__getitem__).size,
        list_size=len(pages.encode()),
        result=format_id(pages.id),
        format="raw",
        cluster_size=CHUNK,
        created="2026-01-01T00:00:00Z",
    )
    chain = Chain.open(str(path), Format.RAW)
    return ImageOffer(sign_header(header, key), pages, bodies.__getitem__, chain, unchanged)


def make_part(path: Path, whole: Offer) -> tuple[PartOffer, Assembly]:
    """The offer of the same content as it is being written to ``path``, raw, and what writes it."""
    load = {digest: whole.page(digest) or b"" for digest in whole.pages.digests}.__getitem__
    target = target_for(whole.pages, format=Format.RAW, cluster_size=CHUNK)
    journals = path.parent / "journals"
    journals.mkdir(exist_ok=True)
    assembly = Assembly.open(path, target, DataMap(whole.pages, load), journals)
    return PartOffer(whole.manifest, assembly, load), assembly


@dataclass
class FakeShelf:
    """What a test puts on it."""

    key: NodeKey
    label: str = "pl@bob"
    items: list[Offer] = field(default_factory=list)
    used: list[InUse] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    swarms: Swarms = field(default_factory=Swarms)

    @property
    def public_key(self) -> bytes:
        return self.key.public

    def offers(self) -> Sequence[Offer]:
        return self.items

    def offer(self, manifest_id: bytes) -> Offer | None:
        return next((offer for offer in self.items if offer.manifest.id == manifest_id), None)

    def in_use(self) -> Sequence[InUse]:
        return self.used

    def peers(self) -> Sequence[Address]:
        return [parse_address(text) for text in self.known]


def make_shelf(directory: Path) -> FakeShelf:
    return FakeShelf(load_or_make(directory / "key"))


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[Address]:
    """The server on a free port of the loopback."""
    port = await server.start(["127.0.0.1"])
    try:
        yield Address("127.0.0.1", port)
    finally:
        await server.stop()


Answer = tuple[int, dict[str, str], bytes]


class Raw:
    """A connection on which anything can be said."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, target: str, *fields: str, method: str = "GET", host: str = "x") -> Answer:
        lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *fields]
        self.writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
        return await self.answer(body=method != "HEAD")

    async def answer(self, *, body: bool = True) -> Answer:
        head = await self.reader.readuntil(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")[:-2]
        fields = dict(line.split(": ", 1) for line in lines)
        length = int(fields.get("Content-Length", "0")) if body else 0
        return int(status.split(" ")[1]), fields, await self.reader.readexactly(length)


@asynccontextmanager
async def connect(address: Address, *, host: str = "") -> AsyncIterator[Raw]:
    """A connection that comes from ``host``, an address of this machine."""
    reader, writer = await asyncio.open_connection(*address, local_addr=(host, 0) if host else None)
    try:
        yield Raw(reader, writer)
    finally:
        writer.close()


Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def scripted(script: Script) -> AsyncIterator[Address]:
    """A peer that reads one request at a time and then does what ``script`` does."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                await script(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield Address("127.0.0.1", server.sockets[0].getsockname()[1])
    finally:
        server.close()


@contextmanager
def deaf() -> Iterator[Address]:
    """An address where nobody takes a connection, and nobody refuses it: its queue is full."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        yield Address("127.0.0.1", server.getsockname()[1])


@contextmanager
def undialled() -> Iterator[Address]:
    """An address where connections would be taken, and none must come."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        try:
            yield Address("127.0.0.1", server.getsockname()[1])
        finally:
            with suppress(BlockingIOError):
                caller, _ = server.accept()
                caller.close()
                raise AssertionError("somebody has called")


def unused_port() -> int:
    """A port where nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def says(*parts: bytes, then_close: bool = False) -> Script:
    """A script that writes these bytes."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
        if then_close:
            writer.close()

    return script


def ok(body: bytes, *fields: str, length: int | None = None) -> bytes:
    """A response with status 200."""
    lines = [
        "HTTP/1.1 200 OK",
        f"Content-Length: {len(body) if length is None else length}",
        *fields,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
