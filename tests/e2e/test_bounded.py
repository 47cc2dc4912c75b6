"""Memory of real processes, whatever others send, do not send, or do not read."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest
from aiohttp import web

from overlaysync.net.bounds import SERVER
from overlaysync.net.messages import encode_slots
from overlaysync.units import CHUNK, MIB
from tests.counts import record_counts
from tests.e2e.lies import endless
from tests.e2e.memory import peak_memory, peak_of
from tests.e2e.nodes import DONE, Lab, Share
from tests.e2e.recorded import Answer, RecordedPeer, Recording, honestly, record
from tests.net import frames

pytestmark = pytest.mark.slow

GROWTH = 64 * MIB
SIZE = 16 * MIB


@contextmanager
def many_files() -> Iterator[None]:
    """Room for a thousand sockets in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8192)), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def share(open_lab: Lab) -> Share:
    teacher = open_lab.node("teacher")
    source = teacher.place / f"{open_lab.name('noise')}.raw"
    source.write_bytes(os.urandom(SIZE))
    return teacher.share(source)


# -- what clients do to a share ------------------------------------------------------------------------


def connect(port: int, *, host: str = "127.0.0.1") -> socket.socket:
    """A connection that takes little without being read."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    sock.settimeout(20)
    sock.bind((host, 0))
    sock.connect(("127.0.0.1", port))
    return sock


def pour(sock: socket.socket, head: bytes, piece: bytes, count: int) -> None:
    """Send more and more, for as long as the other side takes it."""
    with suppress(OSError), sock:
        sock.sendall(head)
        for _ in range(count):
            sock.sendall(piece)
        sock.recv(1)


def test_a_share_stays_small_whatever_clients_do(share: Share) -> None:
    port = share.port
    (manifest,) = record(port).manifests
    before = peak_memory(share.popen.pid)
    head = b"GET /v1/catalog HTTP/1.1\r\nHost: x\r\n"

    pour(connect(port), head + b"Content-Length: 1099511627776\r\n\r\n", bytes(MIB), 100)
    pour(
        connect(port), head + b"Transfer-Encoding: chunked\r\n\r\n", b"100000\r\n" + bytes(MIB) + b"\r\n", 100
    )
    pour(connect(port), head, b"X-Y: z\r\n" * 1000, 100)
    pour(connect(port), b"GET /v1/", b"x" * MIB, 100)
    with ExitStack() as stack:
        # Every other chunk, so that the bodies go through memory; and nobody reads them.
        slots = encode_slots((at, 1) for at in range(0, SIZE // CHUNK, 2))
        request = f"GET /v1/manifests/{manifest}/data?slots={slots} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        readers = []
        for number in range(SERVER.bodies):
            stack.enter_context(sock := connect(port, host=f"127.0.7.{number % 4 + 1}"))
            sock.sendall(request)
            readers.append(sock)
        assert len([sock for sock in readers if sock.recv(12).endswith(b"200")]) > SERVER.bodies // 2
        for number in range(200):  # these never come to the end of a request
            stack.enter_context(sock := connect(port, host=f"127.0.9.{number + 1}"))
            sock.sendall(head + b"X: y")
        assert len(record(port).catalog.envelopes) == 1

    grown = peak_memory(share.popen.pid) - before
    record_counts("memory-share", grown_mib=grown / MIB, limit_mib=GROWTH / MIB)
    assert grown <= GROWTH, grown / MIB
    assert len(record(port).catalog.envelopes) == 1


async def patient(port: int, path: str, host: str) -> bytes:
    """What a client gets that comes back when it is told to."""
    while True:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(host, 0))
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            if head.split()[1] == b"200":
                body = await reader.readexactly(CHUNK)
                writer.close()
                return body
        writer.close()
        await asyncio.sleep(1)


def test_five_hundred_idle_sockets_and_as_many_clients(share: Share, open_lab: Lab) -> None:
    port = share.port
    (manifest,) = record(port).manifests
    path = f"/v1/manifests/{manifest}/data?slots=0-0"
    (source,) = open_lab.node("teacher").place.glob("*.raw")

    async def crowd() -> list[bytes]:
        hosts = (f"127.1.{number // 250}.{number % 250 + 1}" for number in range(500))
        async with asyncio.timeout(60):
            return await asyncio.gather(*(patient(port, path, host) for host in hosts))

    with many_files(), ExitStack() as stack:
        for number in range(500):
            stack.enter_context(connect(port, host=f"127.2.{number // 250}.{number % 250 + 1}"))
        bodies = asyncio.run(crowd())
    assert set(bodies) == {source.read_bytes()[:CHUNK]}
    peak = peak_memory(share.popen.pid)
    record_counts("memory-crowd", clients=500, idle=500, failures=0, peak_mib=peak / MIB)
    assert peak <= 300 * MIB


# -- what servers do to a fetch ------------------------------------------------------------------------


async def bomb(request: web.Request, kind: str, body: bytes) -> web.StreamResponse:
    """A compressed body of a gibibyte that says it has what was asked for."""
    frame = frames.header(size=len(body)) + frames.zeros(1 << 30)[: len(body) - 20]
    return web.Response(body=frame, headers={"Content-Encoding": "zstd"})


async def many_fields(request: web.Request, kind: str, body: bytes) -> web.StreamResponse:
    """A head without end, for as long as somebody listens."""
    transport = request.transport
    assert transport is not None
    transport.write(b"HTTP/1.1 200 OK\r\n")
    for _ in range(100):
        if transport.is_closing():
            break
        transport.write(b"X-Y: z\r\n" * 1000)
        await asyncio.sleep(0)
    return web.Response()


LIES: tuple[tuple[Answer, tuple[str, ...]], ...] = (
    (endless, ("catalog",)),
    (endless, ("list",)),
    (endless, ("data",)),
    (many_fields, ("catalog",)),
    (many_fields, ("data",)),
    (bomb, ("data",)),
)


def test_a_fetch_stays_small_whatever_servers_send(share: Share, open_lab: Lab) -> None:
    recording: Recording = record(share.port)
    share.stop()  # it would be found
    name = next(iter(recording.manifests.values())).manifest.header.name

    def peak(answer: Answer, kinds: tuple[str, ...], number: int) -> int:
        with RecordedPeer(recording, answer, *kinds) as peer:
            fetch = open_lab.node(f"student{number}").start(
                *("fetch", name, "--peer", peer.address, "--wait", "2", "--json"),
                OVERLAYSYNC_COMPRESSION="always",
            )
            found = peak_of(fetch)
            assert (fetch.wait().code == DONE) == (answer is honestly)
            return found

    usual = peak(honestly, (), 0)
    grown = {
        f"{answer.__name__} {kinds[0]}": peak(answer, kinds, number) - usual
        for number, (answer, kinds) in enumerate(LIES, 1)
    }
    record_counts(
        "memory-fetch", grown_mib={lie: size / MIB for lie, size in grown.items()}, usual_mib=usual / MIB
    )
    assert max(grown.values()) <= GROWTH, grown
    assert usual <= 300 * MIB
