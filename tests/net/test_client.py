"""What the client believes of catalogs, manifests and pages: nothing that is out of bounds."""

from __future__ import annotations

import asyncio
import errno
import gc
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from overlaysync.errors import DecodeError, PeerError
from overlaysync.model.pages import page_digest
from overlaysync.net.bounds import MAX_CATALOG_SIZE, MAX_PAGE_LIST_SIZE, MAX_SWARM_SIZE
from overlaysync.net.client import CatalogAnswer, Client
from overlaysync.net.messages import Address, CatalogMessage, encode_catalog, encode_peers
from overlaysync.net.receiving import SilentError
from overlaysync.net.refusals import BusyError, GoneError
from overlaysync.net.requests import request_for
from overlaysync.net.swarm_messages import SwarmQuestion, encode_swarm
from overlaysync.swarm.members import Member
from overlaysync.units import CHUNK
from tests.net.content_provider import HASTY_CLIENT, Script, deaf, ok, says, scripted, undialled, unused_port

pytestmark = pytest.mark.holds("N1")

ID = bytes(32)
CATALOG = encode_catalog(CatalogMessage(ID, "pl@bob", [b"envelope"]))

Call = Callable[[Client, Address], Awaitable[object]]
CALLS: dict[str, Call] = {
    "catalog": lambda client, address: client.catalog(address),
    "peers": lambda client, address: client.peers(address),
    "page list": lambda client, address: client.page_list(address, ID, 100),
    "page": lambda client, address: client.page(address, ID, ID),
    "swarm": lambda client, address: client.swarm(address, ID, 10, SwarmQuestion()),
    "data": lambda client, address: client.read_slots(address, ID, ((0, 1),), memoryview(bytearray(CHUNK))),
}
each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with Client(bounds=HASTY_CLIENT) as client:
        yield client


async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(bytes(1 << 20))
        await writer.drain()


async def endless_chunks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"100000\r\n" + bytes(1 << 20) + b"\r\n")
        await writer.drain()


async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def endless_fields(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X: y\r\n" * 1000)
        await writer.drain()


LIES: dict[str, Script] = {
    "endless": endless,
    "endless chunks": endless_chunks,
    "endless fields": endless_fields,
    "stall": stall,
    "too long": says(ok(bytes(MAX_CATALOG_SIZE + 1))),
    "a huge length": says(ok(b"", length=1 << 60)),
    "cut off": says(ok(b"x", length=50), then_close=True),
    "redirect": says(b"HTTP/1.1 302 Found\r\nLocation: /v1/catalog\r\nContent-Length: 0\r\n\r\n"),
    "encoded": says(ok(CATALOG, "Content-Encoding: gzip")),
    "error": says(b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"),
    "not modified, unasked": says(b"HTTP/1.1 304 Not Modified\r\n\r\n"),
    "interim answers": says(b"HTTP/1.1 100 Continue\r\n\r\n"),
    "early hints": says(b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"),
    "extensions of chunks": says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;a\r\n"),
    "not HTTP": says(b"SSH-2.0-OpenSSH_9.2\r\n\r\n", then_close=True),
    "nothing": says(then_close=True),
}


@pytest.mark.red_without("N2", "a small answer may stop arriving")
@pytest.mark.red_without("N3", "an answer may be longer than its limit")
@each_call
@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
@pytest.mark.slow
async def test_a_lie_is_a_peer_error(client: Client, call: Call, lie: Script) -> None:
    async with scripted(lie) as address, asyncio.timeout(5):
        with pytest.raises(PeerError):
            await call(client, address)


@pytest.mark.red_without(
    "N2", "small answers are read by a full HTTP client, with interim answers and chunk extensions"
)
@each_call
@pytest.mark.parametrize("lie", ["interim answers", "early hints", "extensions of chunks"])
async def test_what_the_protocol_does_not_use_is_no_beginning_of_an_answer(
    client: Client, call: Call, lie: str
) -> None:
    """The peer says no more: whoever waits for the rest finds it silent, and asks it again."""
    async with scripted(LIES[lie]) as address:
        with pytest.raises(PeerError) as caught:
            await call(client, address)
        assert not isinstance(caught.value, SilentError)


@pytest.mark.red_without("N1", "the client follows redirects")
@pytest.mark.red_without(
    "N1", "any other HTTP status counts as 200 (in answers with data, and on the private lane)"
)
@each_call
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_nobody_is_dialled_where_a_peer_redirects_to(client: Client, call: Call, status: int) -> None:
    with undialled() as elsewhere:
        answer = (
            f"HTTP/1.1 {status} Go\r\nLocation: http://{elsewhere}/v1/catalog\r\nContent-Length: 0\r\n\r\n"
        )
        async with scripted(says(answer.encode())) as address:
            with pytest.raises(PeerError, match=f"answers {status}"):
                await call(client, address)


@each_call
async def test_a_busy_peer_says_when_to_come_back(client: Client, call: Call) -> None:
    answer = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nRetry-After: 7\r\n\r\n"
    async with scripted(says(answer)) as address:
        with pytest.raises(BusyError) as caught:
            await call(client, address)
    assert caught.value.retry_after == 7


@each_call
@pytest.mark.parametrize("status", [404, 410])
async def test_what_is_not_served(client: Client, call: Call, status: int) -> None:
    answer = f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n".encode()
    async with scripted(says(answer)) as address:
        with pytest.raises(GoneError):
            await call(client, address)


@pytest.mark.red_without("N2", "a small answer may take any time in total")
@pytest.mark.slow
async def test_bytes_now_and_then_do_not_keep_a_request_alive() -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(ok(b"", length=100))
        for _ in range(1000):
            writer.write(b"x")
            await asyncio.sleep(0.05)

    async with Client(bounds=HASTY_CLIENT) as client, scripted(drip) as address:
        async with asyncio.timeout(3):
            with pytest.raises(PeerError, match="stalls"):
                await client.page_list(address, ID, 100)


async def test_a_catalog_out_of_bounds_is_a_decode_error(client: Client) -> None:
    async with scripted(says(ok(b'{"node":"","label":"","items":[]}'))) as address:
        with pytest.raises(DecodeError):
            await client.catalog(address)


async def test_a_catalog_and_its_etag(client: Client) -> None:
    async with scripted(says(ok(CATALOG, 'ETag: "r1"'))) as address:
        answer = await client.catalog(address)
    assert answer.catalog is not None
    assert answer.catalog.envelopes == (b"envelope",)
    assert answer.etag == '"r1"'


async def test_a_catalog_that_has_not_changed(client: Client) -> None:
    async with scripted(says(b"HTTP/1.1 304 Not Modified\r\n\r\n")) as address:
        assert await client.catalog(address, '"r1"') == CatalogAnswer(None, '"r1"')


@pytest.mark.parametrize("length", [0, 99, 101])
async def test_a_page_list_has_the_length_of_the_manifest(client: Client, length: int) -> None:
    async with scripted(says(ok(bytes(length)))) as address:
        with pytest.raises(PeerError):
            await client.page_list(address, ID, 100)


@pytest.mark.parametrize("size", [0, MAX_PAGE_LIST_SIZE + 1])
async def test_a_page_list_out_of_bounds_is_not_asked_for(client: Client, size: int) -> None:
    with pytest.raises(DecodeError):
        await client.page_list(Address("127.0.0.1", 1), ID, size)


@pytest.mark.red_without("N1", "the digest of a page is not compared")
async def test_a_page_is_verified(client: Client) -> None:
    async with scripted(says(ok(b"page"))) as address:
        assert await client.page(address, ID, page_digest(b"page")) == (b"page", 4)
        with pytest.raises(PeerError, match="digest"):
            await client.page(address, ID, page_digest(b"other"))


async def test_no_cookie_is_kept(client: Client) -> None:
    seen = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(ok(CATALOG, "Set-Cookie: a=b"))

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            seen.append(await reader.readuntil(b"\r\n\r\n"))
            await script(reader, writer)
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    address = Address("127.0.0.1", server.sockets[0].getsockname()[1])
    for _ in range(2):
        await client.catalog(address)
    server.close()
    assert len(seen) == 2
    assert not any(b"cookie" in request.lower() for request in seen)


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with Client(bounds=HASTY_CLIENT) as client, scripted(says(ok(CATALOG))) as address:
        assert (await client.catalog(address)).catalog is not None


# -- the swarm ---------------------------------------------------------------------------------------


SWARM = encode_swarm("pl@bob", 10, None, cursor=0, members=())


async def test_a_question_says_who_asks(client: Client) -> None:
    asked = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n")).split(b" ")[1].decode())
        writer.write(ok(SWARM))
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    address = Address("127.0.0.1", server.sockets[0].getsockname()[1])
    answer = await client.swarm(address, ID, 10, SwarmQuestion("0123456789abcdef", 40001, 7, 3, "pl@bob"))
    server.close()
    query = "member=0123456789abcdef&port=40001&by=pl@bob&held=7&since=3"
    assert asked == [f"/v1/manifests/{ID.hex()}/swarm?{query}"]
    assert (answer.label, answer.held) == ("pl@bob", None)


@pytest.mark.parametrize(
    "answer",
    [
        encode_swarm("pl@bob", 11, None, cursor=0, members=()),
        encode_swarm("pl@bob", 9, None, cursor=0, members=()),
        b'{"label":"x","pieces":10,"news":[10]}',
        b"{}",
        b"",
    ],
)
async def test_an_answer_about_something_else_is_a_decode_error(client: Client, answer: bytes) -> None:
    async with scripted(says(ok(answer))) as address:
        with pytest.raises(DecodeError):
            await client.swarm(address, ID, 10, SwarmQuestion())


async def test_an_answer_has_a_bound_of_its_own(client: Client) -> None:
    async with scripted(says(ok(SWARM.ljust(MAX_SWARM_SIZE)))) as address:
        assert (await client.swarm(address, ID, 10, SwarmQuestion())).held is None
    async with scripted(says(ok(SWARM.ljust(MAX_SWARM_SIZE + 1)))) as address:
        with pytest.raises(PeerError, match="bytes"):
            await client.swarm(address, ID, 10, SwarmQuestion())


# -- silent, or wrong --------------------------------------------------------------------------------


each_request = pytest.mark.parametrize(
    "call",
    [
        *CALLS.values(),
        lambda client, address: client.read_slots(address, ID, ((0, 1),), memoryview(bytearray(5))),
    ],
    ids=[*CALLS, "data"],
)


async def failure(client: Client, call: Call, address: Address) -> PeerError:
    async with asyncio.timeout(5):
        with pytest.raises(PeerError) as caught:
            await call(client, address)
    return caught.value


@each_request
@pytest.mark.slow
async def test_who_says_nothing_is_silent(client: Client, call: Call) -> None:
    async with scripted(stall) as address:
        assert isinstance(await failure(client, call, address), SilentError)


@each_request
@pytest.mark.slow
async def test_who_does_not_take_the_connection_is_silent(client: Client, call: Call) -> None:
    with deaf() as address:
        assert isinstance(await failure(client, call, address), SilentError)


@each_request
async def test_who_refuses_or_breaks_off_is_not_silent(client: Client, call: Call) -> None:
    error = await failure(client, call, Address("127.0.0.1", unused_port()))
    assert not isinstance(error, SilentError)
    assert "refused" in str(error)
    for script in (says(then_close=True), says(ok(b"x", length=5), then_close=True)):
        async with scripted(script) as address:
            assert not isinstance(await failure(client, call, address), SilentError)


@pytest.mark.red_without("N8", "a network that is down counts as a refusal")
@each_request
@pytest.mark.parametrize(
    ("code", "silent"),
    [
        (errno.EHOSTUNREACH, True),
        (errno.ENETUNREACH, True),
        (errno.ENETDOWN, True),
        (errno.ETIMEDOUT, True),
        (errno.ECONNREFUSED, False),
        (errno.EINVAL, False),
        (errno.EADDRNOTAVAIL, False),
    ],
    ids=lambda value: errno.errorcode[value] if type(value) is int else None,
)
async def test_a_network_that_is_down_may_come_back(
    client: Client, call: Call, monkeypatch: pytest.MonkeyPatch, code: int, silent: bool
) -> None:
    async def connect(*_: object) -> None:
        raise OSError(code, "test")

    monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", connect)
    error = await failure(client, call, Address("192.0.2.7", 80))
    assert isinstance(error, SilentError) is silent


async def test_a_failure_to_connect_is_told_once(client: Client) -> None:
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    buffer = memoryview(bytearray(5))

    with deaf() as address:
        asking = asyncio.create_task(client.read_slots(address, ID, ((0, 1),), buffer))
        await asyncio.sleep(0.05)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    with pytest.raises(PeerError):
        await client.read_slots(Address("127.0.0.1", unused_port()), ID, ((0, 1),), buffer)

    del asking
    gc.collect()
    assert not told


async def test_a_host_that_does_not_exist_is_said_not_to(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nowhere(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", nowhere)
    async with Client() as client:
        with pytest.raises(PeerError, match="no such host"):
            await client.catalog(Address("nohost.invalid", 99))


# -- links -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("teller", "meant"),
    [("fe80::1%eth0", "fe80::9%eth0"), ("fe80::1%7", "fe80::9%7"), ("192.0.2.1", "fe80::9")],
)
async def test_a_link_local_address_is_on_the_link_of_the_peer_that_tells_of_it(
    client: Client, monkeypatch: pytest.MonkeyPatch, teller: str, meant: str
) -> None:
    body = encode_peers(["[fe80::9]:40001", "192.0.2.9:40001"])

    async def answer(*what: object) -> bytes:
        return body

    monkeypatch.setattr(client, "_body", answer)
    told_by = Address(teller, 40001)
    assert await client.peers(told_by) == (Address(meant, 40001), Address("192.0.2.9", 40001))
    member = Member("0123456789abcdef", "fe80::9", 40001, 0)
    body = encode_swarm("x", 1, None, cursor=0, members=[member])
    answered = await client.swarm(told_by, bytes(32), 1, SwarmQuestion())
    assert [one.host for one in answered.members] == [meant]


def test_a_scope_does_not_leave_this_machine() -> None:
    request = request_for(Address("fe80::1%eth0", 40001), "catalog")
    assert b"\r\nHost: [fe80::1]:40001\r\n" in request and b"eth0" not in request
