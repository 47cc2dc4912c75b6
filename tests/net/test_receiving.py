"""The strict HTTP/1.1 client for image data, against peers that follow a script."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlaysync.errors import PeerError
from overlaysync.net.client import Client
from overlaysync.net.messages import Address
from overlaysync.net.rate import RateLimit
from overlaysync.net.receiving import DataConnection, Head, SilentError, parse_head
from overlaysync.net.refusals import BusyError, GoneError
from overlaysync.units import KIB, MIB
from tests.net.content_provider import HASTY_CLIENT, Script, ok, says, scripted, unused_port

MANIFEST = bytes(32)
RUNS = ((0, 1),)


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with Client(bounds=HASTY_CLIENT) as client:
        yield client


async def ask(client: Client, script: Script, size: int) -> bytes:
    buffer = bytearray(size)
    async with scripted(script) as address:
        await client.read_slots(address, MANIFEST, RUNS, memoryview(buffer))
    return bytes(buffer)


# -- heads -------------------------------------------------------------------------------------------


def test_a_head_is_read() -> None:
    head = parse_head(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nretry-AFTER:  7 \r\nConnection: Close")
    assert head == Head(503, 0, 7, True)


@pytest.mark.red_without("F2", "a header field of an answer may occur twice")
@pytest.mark.red_without("F2", "a length may have any number of digits")
@pytest.mark.red_without("F2", "a body may come in chunks")
@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"HTTP/1.0 200 OK\r\nContent-Length: 1",
        b"HTTP/2 200\r\nContent-Length: 1",
        b"HTTP/1.1 20 OK\r\nContent-Length: 1",
        b"HTTP/1.1  200 OK\r\nContent-Length: 1",
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 200 OK\r\nContent-Length: ",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1",
        b"HTTP/1.1 200 OK\r\nContent-Length: +1",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1_0",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1, 1",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\ncontent-length: 2",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Encoding: gzip",
        b"HTTP/1.1 200 OK\r\nContent-Length : 1",
        b"HTTP/1.1 200 OK\r\n Content-Length: 1",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n folded: 2",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\nX: 1",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nX: a\0b",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000,
        b"SSH-2.0-OpenSSH_9.2",
    ],
)
def test_anything_else_is_refused(head: bytes) -> None:
    with pytest.raises(PeerError):
        parse_head(head)


@pytest.mark.holds("F2")
@given(st.binary(max_size=300))
def test_any_bytes_give_a_head_or_a_peer_error(head: bytes) -> None:
    with contextlib.suppress(PeerError):
        assert parse_head(head).length >= 0


# -- bodies ------------------------------------------------------------------------------------------


async def test_a_body_that_comes_byte_by_byte(client: Client) -> None:
    answer = ok(b"0123456789")
    assert await ask(client, says(*(bytes([byte]) for byte in answer)), 10) == b"0123456789"


async def test_a_body_longer_than_one_read(client: Client) -> None:
    body = bytes(range(256)) * (3 * MIB // 256)
    assert await ask(client, says(ok(body)), len(body)) == body


async def test_one_connection_serves_many_requests(client: Client) -> None:
    requests = 0
    connections = set()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        requests += 1
        connections.add(writer)
        writer.write(ok(bytes([requests]) * 5))

    async with scripted(script) as address:
        for number in range(1, 6):
            buffer = bytearray(5)
            await client.read_slots(address, MANIFEST, RUNS, memoryview(buffer))
            assert buffer == bytes([number]) * 5
    assert (requests, len(connections)) == (5, 1)


async def test_a_connection_that_the_peer_closed_while_idle_is_replaced(client: Client) -> None:
    async with scripted(says(ok(b"12345"), then_close=True)) as address:
        for _ in range(3):
            await client.read_slots(address, MANIFEST, RUNS, memoryview(bytearray(5)))


async def test_no_more_connections_than_allowed() -> None:
    open_now = most = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        await asyncio.sleep(0)
        writer.write(ok(b"12345"))
        open_now -= 1

    bounds = replace(HASTY_CLIENT, connections_per_host=3)
    async with Client(bounds=bounds) as client, scripted(script) as address:
        asks = (client.read_slots(address, MANIFEST, RUNS, memoryview(bytearray(5))) for _ in range(50))
        await asyncio.gather(*asks)
    assert most <= 3


FLOOD = b"HTTP/1.1 200 OK\r\n" + b"".join(b"X%d: y\r\n" % n for n in range(100_000))

LIES = {
    "too short": ok(b"1234", length=5),
    "wrong length": ok(b"1234"),
    "too long": ok(b"123456"),
    "more than said": ok(b"123456", length=5),
    "without length": b"HTTP/1.1 200 OK\r\n\r\n12345",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n\r\n",
    "interim": b"HTTP/1.1 100 Continue\r\n\r\n" + ok(b"12345"),
    "redirect": b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
    "too many fields": FLOOD,
    "a long line": b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1_000_000,
    "not HTTP": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "server error": b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n",
    "nothing": b"",
}


@pytest.mark.red_without(
    "F2", "more bytes may follow than the head of the answer says (still refused, by accident)"
)
@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
async def test_a_lie_is_a_peer_error(client: Client, lie: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(PeerError):
        await ask(client, says(lie, then_close=True), 5)
    assert not caplog.records, "it was refused, and did not break what reads it"


async def test_what_follows_a_body_spoils_only_the_connection(client: Client) -> None:
    connections = set()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(writer)
        writer.write(ok(b"12345"))
        await writer.drain()
        if len(connections) == 1:
            writer.write(ok(b"evil!"))

    async with scripted(script) as address:
        for _ in range(2):
            buffer = bytearray(5)
            with_retry = client.read_slots(address, MANIFEST, RUNS, memoryview(buffer))
            try:
                await with_retry
            except PeerError:
                continue
            assert bytes(buffer) in (b"12345", b"evil!")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", GoneError),
        (b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n", GoneError),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nRetry-After: 7\r\n\r\n", BusyError),
    ],
)
async def test_answers_that_are_no_lies(client: Client, answer: bytes, kind: type[PeerError]) -> None:
    with pytest.raises(kind) as caught:
        await ask(client, says(answer), 5)
    if isinstance(caught.value, BusyError):
        assert caught.value.retry_after == 7


@pytest.mark.parametrize(("sent", "believed"), [("99999", 60), ("0", 1), ("soon", 1), ("", 1)])
async def test_retry_after_is_bounded(client: Client, sent: str, believed: int) -> None:
    answer = f"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nRetry-After: {sent}\r\n\r\n".encode()
    with pytest.raises(BusyError) as caught:
        await ask(client, says(answer), 5)
    assert caught.value.retry_after == believed


# -- wake-ups ----------------------------------------------------------------------------------------


async def test_many_small_packets_are_few_wake_ups(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    body = bytes(range(256)) * 4 * KIB
    wakes = 0
    updated = DataConnection.buffer_updated

    def counted(self: DataConnection, nbytes: int) -> None:
        nonlocal wakes
        wakes += 1
        updated(self, nbytes)

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(ok(b"", length=len(body)))
        for at in range(0, len(body), KIB):
            writer.write(body[at : at + KIB])
            await asyncio.sleep(0)

    monkeypatch.setattr(DataConnection, "buffer_updated", counted)
    assert await ask(client, script, len(body)) == body
    assert wakes < 100


async def test_large_and_small_bodies_on_one_connection(client: Client) -> None:
    sizes = [200 * KIB, 5, 64 * KIB, 64 * KIB + 1, 1, 300 * KIB, 7]
    script_sizes = iter(sizes)
    connections = set()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(writer)
        size = next(script_sizes)
        writer.write(ok(b"x" * (size // 2), length=size))
        await writer.drain()
        await asyncio.sleep(0.01)
        writer.write(b"y" * (size - size // 2))

    async with scripted(script) as address:
        for size in sizes:
            buffer = bytearray(size)
            await client.read_slots(address, MANIFEST, RUNS, memoryview(buffer))
            assert buffer == b"x" * (size // 2) + b"y" * (size - size // 2)
    assert len(connections) == 1


@pytest.mark.slow
async def test_a_peer_that_is_slow_but_fast_enough_is_not_given_up(client: Client) -> None:
    """What waits in the kernel for more to come has been sent all the same."""
    size = 160 * KIB
    loop = asyncio.get_running_loop()

    async def steadily(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(ok(b"", length=size))
        began, sent = loop.time(), 0
        while sent < size:
            due = min(size, int((loop.time() - began) * 2 * HASTY_CLIENT.min_rate))
            writer.write(bytes(due - sent))
            sent = due
            await asyncio.sleep(0.005)

    assert await ask(client, steadily, size) == bytes(size)


# -- slow peers --------------------------------------------------------------------------------------


async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(ok(b"", length=MIB))
    for _ in range(1000):
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.01)


async def stop_near_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(ok(bytes(MIB - 1), length=MIB))
    await stall(reader, writer)


async def stop_before_a_wake_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(ok(bytes(40 * KIB), length=MIB))
    await stall(reader, writer)


@pytest.mark.holds("N2")
@pytest.mark.red_without("N2", "a body may arrive at any rate, as long as some bytes come")
@pytest.mark.red_without("N2", "a body may stop arriving")
@pytest.mark.red_without("N2", "bytes that wait in the kernel count as progress each time they are looked at")
@pytest.mark.red_without("N2", "the head of an answer may take any time")
@pytest.mark.parametrize("script", [stall, drip, stop_near_the_end, stop_before_a_wake_up])
@pytest.mark.slow
async def test_a_slow_peer_costs_seconds_at_most(client: Client, script: Script) -> None:
    began = asyncio.get_running_loop().time()
    with pytest.raises(SilentError, match="stalls"):
        await ask(client, script, MIB)
    assert asyncio.get_running_loop().time() - began < 2 * HASTY_CLIENT.read_s + 0.5


async def test_a_peer_that_does_not_answer_the_connection(client: Client) -> None:
    # An address of a documentation network: nothing answers, or the kernel says so at once.
    with pytest.raises(PeerError):
        await client.read_slots(Address("198.51.100.1", 9), MANIFEST, RUNS, memoryview(bytearray(5)))


async def test_nobody_listens(client: Client) -> None:
    address = Address("127.0.0.1", unused_port())
    with pytest.raises(PeerError, match="does not answer"):
        await client.read_slots(address, MANIFEST, RUNS, memoryview(bytearray(5)))


async def test_a_cancelled_read_leaves_the_buffer_alone(client: Client) -> None:
    half = asyncio.Event()
    go_on = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(ok(b"1" * 5, length=10))
        await writer.drain()
        half.set()
        await go_on.wait()
        writer.write(b"2" * 5)
        await writer.drain()

    buffer = bytearray(10)
    async with scripted(script) as address:
        task = asyncio.create_task(client.read_slots(address, MANIFEST, RUNS, memoryview(buffer)))
        await half.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go_on.set()
        other = bytearray(10)
        await client.read_slots(address, MANIFEST, RUNS, memoryview(other))
    assert b"2" not in buffer
    assert other == b"1111122222"


@pytest.mark.slow
async def test_a_client_may_limit_what_it_receives() -> None:
    rate = 10 * MIB
    async with Client(limit=RateLimit(rate), bounds=HASTY_CLIENT) as client:
        began = asyncio.get_running_loop().time()
        await ask(client, says(ok(bytes(8 * MIB))), 8 * MIB)
        elapsed = asyncio.get_running_loop().time() - began
    assert 0.55 < elapsed < 1.5


@pytest.mark.parametrize(("size", "rate"), [(2 * KIB, 10 * KIB), (16 * KIB, 64 * KIB)])
@pytest.mark.slow
async def test_a_pause_for_the_limit_is_not_the_peers_stall(size: int, rate: int) -> None:
    bounds = replace(HASTY_CLIENT, read_s=0.2, connections_per_host=4)
    pauses = []

    class Limit(RateLimit):
        def reserve(self, count: int) -> float:
            pauses.append(super().reserve(count))
            return pauses[-1]

    async with Client(limit=Limit(rate), bounds=bounds) as client, scripted(says(ok(bytes(size)))) as address:
        # More requests than connections: some begin while their connection still pauses for the last one.
        bodies = (client.read_slots(address, MANIFEST, RUNS, memoryview(bytearray(size))) for _ in range(6))
        await asyncio.gather(*bodies)
    assert max(pauses) > bounds.read_s / 2


async def test_a_peer_that_drips_is_seen_behind_the_pauses() -> None:
    limit = RateLimit(64 * KIB)
    limit.reserve(16 * KIB)  # by other connections: every byte has to wait
    async with Client(limit=limit, bounds=HASTY_CLIENT) as client:
        with pytest.raises(PeerError, match="stalls"):
            await ask(client, drip, MIB)
