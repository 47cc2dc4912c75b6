"""The server: what it serves, byte for byte, and what no client can make it do."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from blake3 import blake3

from overlaysync.errors import NetworkError, NotFoundError, PeerError
from overlaysync.model.pages import page_digest
from overlaysync.net import content_provider
from overlaysync.net.bodies import Uploads
from overlaysync.net.boot import boot_hash
from overlaysync.net.bounds import MAX_SLOTS, SERVER
from overlaysync.net.client import Client
from overlaysync.net.content_provider import View
from overlaysync.net.faults import Faults
from overlaysync.net.membership import PrivateLane
from overlaysync.net.messages import Address
from overlaysync.net.rate import RateLimit
from overlaysync.net.refusals import BusyError, GoneError
from overlaysync.net.server import Server
from overlaysync.ops.in_use import InUse
from overlaysync.ops.offer import ImageOffer, Offer
from overlaysync.trust.envelope import Manifest
from overlaysync.units import CHUNK, MIB
from tests.net.content_provider import HASTY_SERVER, FakeShelf, connect, make_offer, make_shelf, serving

TAIL = 512
CONTENT = os.urandom(40 * CHUNK + TAIL)


@pytest.fixture
def shelf(tmp_path: Path) -> FakeShelf:
    shelf = make_shelf(tmp_path)
    shelf.items.append(make_offer(tmp_path / "image.raw", CONTENT, shelf.key))
    return shelf


@pytest.fixture
def offer(shelf: FakeShelf) -> Offer:
    return shelf.items[0]


@pytest.fixture
async def address(shelf: FakeShelf) -> AsyncIterator[Address]:
    async with serving(Server(shelf)) as address:
        yield address


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with Client() as client:
        yield client


def connections(server: Server) -> int:
    """Open connections."""
    return len(server._http.connections) if server._http else 0


async def closed(reader: asyncio.StreamReader) -> bool:
    """Whether the peer closes the connection, soon; what still comes is dropped."""
    async with asyncio.timeout(5):
        try:
            while await reader.read(1 << 16):
                pass
        except ConnectionError:
            pass
        return True


# -- what is served ----------------------------------------------------------------------------------


async def test_catalog(address: Address, client: Client, shelf: FakeShelf, offer: Offer) -> None:
    answer = await client.catalog(address)
    assert answer.catalog is not None
    assert answer.catalog.node == shelf.public_key
    assert answer.catalog.label == shelf.label
    assert answer.catalog.envelopes == (offer.manifest.envelope,)


async def test_what_is_in_use_is_listed_and_nothing_of_it_is_served_but_its_past(
    address: Address, client: Client, shelf: FakeShelf, offer: Offer
) -> None:
    before = (await client.catalog(address)).etag
    shelf.items.clear()
    shelf.used.append(InUse(offer.manifest, "2026-11-28T10:14:00Z", (b"earlier",)))
    answer = await client.catalog(address, before)
    assert answer.catalog is not None
    assert answer.catalog.envelopes == ()
    assert answer.catalog.in_use == ((offer.manifest.envelope, "2026-11-28T10:14:00Z"),)
    assert answer.catalog.boot == boot_hash() and len(answer.catalog.boot) == 16
    assert await client.history(address, offer.manifest.id) == (b"earlier",)
    async with connect(address) as raw:
        for rest in ("", "/pages", "/data?slots=0-0", "/swarm?held=0&since=0"):
            assert (await raw.ask(f"/v1/manifests/{offer.manifest.id.hex()}{rest}"))[0] == 404
    # Of a team it is nothing that a stranger sees.
    header = msgspec.structs.replace(offer.manifest.header, team="red")
    shelf.used[0] = InUse(Manifest(bytes(32), header, bytes(32), b"x"), "2026-11-28T10:14:00Z", (b"earlier",))
    hidden = await client.catalog(address)
    assert hidden.catalog is not None and hidden.catalog.in_use == ()
    async with connect(address) as raw:
        assert (await raw.ask(f"/v1/manifests/{bytes(32).hex()}/history"))[0] == 404


def test_the_hash_of_a_boot_id_says_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "boot_id"
    assert boot_hash(path) == b""
    path.write_text("5f0c9d1e-22ab-4774-8000-000000000000\n")
    first = boot_hash(path)
    assert len(first) == 16 and first == boot_hash(path)
    assert b"5f0c9d1e" not in first and first != blake3(path.read_bytes().strip()).digest()[:16]
    path.write_bytes(b"\xff")
    assert boot_hash(path) == b""


def test_what_a_node_says_of_itself_changes_its_catalog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else who keeps its catalog while it starts anew would never hear of another label, or another boot."""
    shelf = make_shelf(tmp_path)
    before = View(shelf).revision
    monkeypatch.setattr(shelf, "label", "other@host")
    relabelled = View(shelf).revision
    monkeypatch.setattr(content_provider, "_own_boot", lambda: b"another boot")
    assert len({before, relabelled, View(shelf).revision}) == 3


async def test_an_unchanged_catalog_is_not_sent_again(
    address: Address, client: Client, shelf: FakeShelf
) -> None:
    first = await client.catalog(address)
    again = await client.catalog(address, first.etag)
    assert (again.catalog, again.etag) == (None, first.etag)
    shelf.items.clear()
    changed = await client.catalog(address, first.etag)
    assert changed.catalog is not None
    assert changed.catalog.envelopes == ()
    assert changed.etag != first.etag


async def test_peers(address: Address, client: Client, shelf: FakeShelf) -> None:
    shelf.known = ["192.0.2.7:80"]
    assert await client.peers(address) == (Address("192.0.2.7", 80),)


async def test_manifest_list_and_pages(address: Address, client: Client, offer: Offer) -> None:
    manifest = offer.manifest
    async with connect(address) as raw:
        _, _, envelope = await raw.ask(f"/v1/manifests/{manifest.id.hex()}")
    assert envelope == manifest.envelope
    assert await client.page_list(address, manifest.id, manifest.header.list_size) == offer.page_list
    for digest in offer.pages.digests:
        assert page_digest((await client.page(address, manifest.id, digest))[0]) == digest


@pytest.mark.parametrize(
    "runs",
    [
        ((0, 1),),
        ((0, 41),),
        ((40, 1),),
        ((3, 2), (7, 1), (39, 2)),
        tuple((slot, 1) for slot in range(0, 41, 2)),
    ],
)
async def test_data(
    address: Address, client: Client, offer: Offer, runs: tuple[tuple[int, int], ...]
) -> None:
    expected = b"".join(CONTENT[first * CHUNK : (first + count) * CHUNK] for first, count in runs)
    buffer = bytearray(len(expected))
    await client.read_slots(address, offer.manifest.id, runs, memoryview(buffer))
    assert bytes(buffer) == expected


async def test_one_connection_for_everything(address: Address, offer: Offer) -> None:
    base = f"/v1/manifests/{offer.manifest.id.hex()}"
    async with connect(address) as raw:
        for _ in range(3):
            assert (await raw.ask("/v1/catalog"))[0] == 200
            assert (await raw.ask(f"{base}/data?slots=0-39"))[2] == CONTENT[: 40 * CHUNK]
            assert (await raw.ask(base))[2] == offer.manifest.envelope
            assert (await raw.ask(f"{base}/data?slots=0-0,2-2"))[2] == CONTENT[:CHUNK] + CONTENT[2 * CHUNK :][
                :CHUNK
            ]


async def test_requests_may_follow_each_other_without_waiting(address: Address, offer: Offer) -> None:
    target = f"/v1/manifests/{offer.manifest.id.hex()}/data?slots="
    async with connect(address) as raw:
        for slot in range(20):
            raw.writer.write(f"GET {target}{slot}-{slot + 19} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        for slot in range(20):
            assert (await raw.answer())[2] == CONTENT[slot * CHUNK :][: 20 * CHUNK]


async def test_a_head_reads_nothing(
    shelf: FakeShelf, offer: Offer, address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []
    for name in ("segments", "page"):
        monkeypatch.setattr(ImageOffer, name, lambda *_, name=name: reads.append(name))
    base = f"/v1/manifests/{offer.manifest.id.hex()}"
    digest = offer.pages.digests[0].hex()
    targets = (
        "/v1/catalog",
        base,
        f"{base}/pages",
        f"{base}/pages/{digest}",
        f"{base}/data?slots=0-40",
        f"{base}/swarm?held=0&since=0",
    )
    async with connect(address) as raw:
        for target in targets:
            status, fields, _ = await raw.ask(target, method="HEAD")
            assert (status, fields["Allow"]) == (405, "GET")
    assert not reads


@pytest.mark.parametrize(
    "field",
    [
        "Origin: http://192.0.2.7",
        "Origin: null",
        "ORIGIN: x",
        "Sec-Fetch-Site: none",
        "sec-fetch-site: same-origin",
    ],
)
async def test_a_web_page_is_told_nothing(address: Address, offer: Offer, field: str) -> None:
    async with connect(address) as raw:
        for target in ("/v1/catalog", f"/v1/manifests/{offer.manifest.id.hex()}/data?slots=0-0", "/x"):
            status, _, body = await raw.ask(target, field)
            assert (status, body) == (403, b"")
        assert (await raw.ask("/v1/catalog"))[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        "bob.lab:40001",
        "bob.lab",
        "localhost",
        "192.0.2.7",
        "192.0.2.7:1",
        "[2001:db8::7]:80",
        "[::1]",
        "[fe80::1%eth0]:1",
    ],
)
async def test_whatever_name_a_node_is_called_by(address: Address, host: str) -> None:
    async with connect(address) as raw:
        assert (await raw.ask("/v1/catalog", host=host))[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        "",
        "a b",
        "a/b",
        "user@bob.lab",
        "bob.lab:",
        "bob.lab:0",
        "bob.lab:99999",
        "::1",
        "1.2",
        "é",
        "-a",
        "a..b",
        "x" * 300,
    ],
)
async def test_a_host_that_is_none(address: Address, host: str) -> None:
    async with connect(address) as raw:
        assert (await raw.ask("/v1/catalog", host=host))[0] == 400


@pytest.mark.parametrize("fields", [(), ("Host: a", "Host: b")])
async def test_exactly_one_host(address: Address, fields: tuple[str, ...]) -> None:
    async with connect(address) as raw:
        raw.writer.write("\r\n".join(["GET /v1/catalog HTTP/1.1", *fields, "", ""]).encode())
        assert (await raw.answer())[0] == 400


async def test_statistics(shelf: FakeShelf, offer: Offer, client: Client) -> None:
    sent: list[tuple[bytes, str, int, Sequence[tuple[int, int]]]] = []
    server = Server(shelf, uploads=Uploads(sent=lambda *what: sent.append(what)))
    async with serving(server) as address:
        await client.read_slots(address, offer.manifest.id, ((0, 2),), memoryview(bytearray(2 * CHUNK)))
    assert sent == [(offer.manifest.id, "127.0.0.1", 2 * CHUNK, ((0, 2),))]


# -- no and absent -----------------------------------------------------------------------------------


def absent_targets(offer: Offer) -> list[str]:
    known, other = offer.manifest.id.hex(), bytes(32).hex()
    return [
        "/",
        "/v1",
        "/v1/",
        "/v2/catalog",
        "/v1/catalog/",
        "//v1/catalog",
        "/v1/../v1/catalogs",
        "/v1/manifests",
        "/v1/manifests/",
        f"/v1/manifests/{other}",
        f"/v1/manifests/{other}/pages",
        f"/v1/manifests/{other}/data?slots=0-0",
        f"/v1/manifests/{other}/data?nonsense",
        f"/v1/manifests/{other}/swarm?held=0&since=0",
        f"/v1/manifests/{other}/swarm?nonsense",
        f"/v1/manifests/{known}/swarm/",
        f"/v1/manifests/{known}/swarms?held=0&since=0",
        f"/v1/manifests/{known.upper()}",
        f"/v1/manifests/{known[:-2]}",
        f"/v1/manifests/{known}/",
        f"/v1/manifests/{known}/pages/",
        f"/v1/manifests/{known}/pages/{other}",
        f"/v1/manifests/{known}/pages/{offer.pages.digests[0].hex()}/x",
        f"/v1/manifests/{known}/pages/zz",
        f"/v1/manifests/{known}/../../../etc/passwd",
        f"/v1/manifests/{known}/%2e%2e",
    ]


async def test_everything_absent_is_one_answer(address: Address, offer: Offer) -> None:
    answers = set()
    for target in absent_targets(offer):
        async with connect(address) as raw:
            status, fields, body = await raw.ask(target)
        fields.pop("Date")
        answers.add((status, tuple(fields.items()), body))
    assert len(answers) == 1
    assert answers.pop()[0] == 404


async def test_a_page_of_another_manifest_is_absent(
    address: Address, client: Client, shelf: FakeShelf, offer: Offer, tmp_path: Path
) -> None:
    other = make_offer(tmp_path / "other.raw", os.urandom(CHUNK), shelf.key)
    shelf.items.append(other)
    await client.page(address, other.manifest.id, other.pages.digests[0])
    with pytest.raises(GoneError):
        await client.page(address, offer.manifest.id, other.pages.digests[0])


# -- what clients try --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        "",
        "?",
        "?slots",
        "?slots=",
        "?slots=5",
        "?slots=1-0",
        "?slots=0-41",
        "?slots=41-41",
        "?slots=0-0,0-0",
        "?slots=0-0&slots=1-1",
        "?slots=0-0&x=1",
        "?x=1&slots=0-0",
        "?slots=0%2D0",
        f"?slots=0-{MAX_SLOTS}",
        "?slots=0-99999999999",
        "?slots=" + ",".join(f"{n}-{n}" for n in range(129)),
    ],
)
async def test_range_abuse(address: Address, offer: Offer, query: str) -> None:
    async with connect(address) as raw:
        status, _, body = await raw.ask(f"/v1/manifests/{offer.manifest.id.hex()}/data{query}")
        assert (status, body) == (400, b"")
        assert (await raw.ask("/v1/catalog"))[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW"])
async def test_other_methods(address: Address, method: str) -> None:
    target = "x:1" if method == "CONNECT" else "/v1/catalog"
    async with connect(address) as raw:
        status, _, _ = await raw.ask(target, method=method)
        assert status in (400, 405)


@pytest.mark.parametrize("field", ["Content-Length: 5", "Transfer-Encoding: chunked"])
async def test_a_request_has_no_body(address: Address, field: str) -> None:
    async with connect(address) as raw:
        status, _, _ = await raw.ask("/v1/catalog", field)
        assert status == 413
        assert await closed(raw.reader)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /v1/catalog?" + b"x" * 10_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/catalog HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 10_000 + b"\r\n\r\n",
        b"GET /v1/catalog HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 1000 + b"\r\n",
        b"GET /v1/catalog HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00" + bytes(200),
        b"\r\n" * 100_000,
    ],
)
async def test_floods_and_nonsense(address: Address, request_bytes: bytes) -> None:
    async with connect(address) as raw:
        raw.writer.write(request_bytes)
        raw.writer.write_eof()
        answer = await raw.reader.read(1 << 16)
        assert answer == b"" or answer.split(b" ")[1] == b"400"
    async with connect(address) as raw:
        assert (await raw.ask("/v1/catalog"))[0] == 200


async def test_idle_and_dripping_connections_are_closed(shelf: FakeShelf) -> None:
    async with serving(Server(shelf, bounds=HASTY_SERVER)) as address:
        async with connect(address) as silent, connect(address) as dripping, connect(address) as idle:
            dripping.writer.write(b"GET /v1/cat")
            await idle.ask("/v1/catalog")
            for raw in (silent, dripping, idle):
                assert await closed(raw.reader)


@pytest.mark.holds("N3")
@pytest.mark.slow
async def test_a_client_that_never_reads_is_dropped(shelf: FakeShelf, tmp_path: Path) -> None:
    sent: list[int] = []
    shelf.items.append(make_offer(tmp_path / "big.raw", os.urandom(MIB) * 64, shelf.key))
    server = Server(
        shelf, bounds=HASTY_SERVER, uploads=Uploads(sent=lambda manifest, peer, count, _: sent.append(count))
    )
    async with serving(server) as address:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(sock, address)
            target = f"/v1/manifests/{shelf.items[1].manifest.id.hex()}/data?slots=0-1023"
            await loop.sock_sendall(sock, f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            async with asyncio.timeout(5):
                while connections(server) or not sent:
                    await asyncio.sleep(0.02)
    assert 0 < sent[0] < 32 * MIB


async def test_a_client_that_never_reads_small_answers_is_dropped(shelf: FakeShelf, tmp_path: Path) -> None:
    shelf.items *= 2000
    server = Server(shelf, bounds=replace(HASTY_SERVER, min_rate=16 * MIB))
    async with serving(server) as address, connect(address) as raw:
        raw.writer.write(b"GET /v1/catalog HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
        async with asyncio.timeout(5):
            while connections(server):
                await asyncio.sleep(0.02)


@pytest.mark.holds("N4")
@pytest.mark.red_without("N4", "the connections of one address are not counted")
async def test_connections_of_one_address_are_bounded(shelf: FakeShelf) -> None:
    bounds = replace(SERVER, connections_per_address=3)
    server = Server(shelf, bounds=bounds)
    async with serving(server) as address:
        async with connect(address) as first, connect(address) as second, connect(address) as third:
            for raw in (third, second, first):
                await raw.ask("/v1/catalog")
            async with connect(address) as fourth:
                assert (await fourth.ask("/v1/catalog"))[0] == 200
                assert connections(server) == 3
                # The one that has been idle longest made room.
                assert await closed(third.reader)
                assert (await first.ask("/v1/catalog"))[0] == 200


async def test_connections_in_all_are_bounded(shelf: FakeShelf, tmp_path: Path) -> None:
    bounds = replace(SERVER, connections=2)
    shelf.items.append(make_offer(tmp_path / "big.raw", os.urandom(MIB) * 64, shelf.key))
    target = f"/v1/manifests/{shelf.items[1].manifest.id.hex()}/data?slots=0-1023"
    async with serving(Server(shelf, bounds=bounds)) as address:
        async with connect(address) as first, connect(address) as second:
            for raw in (first, second):
                raw.writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                await raw.reader.readexactly(1)
            # None is idle: the newcomer is told to come back.
            async with connect(address) as third:
                status, fields, _ = await third.answer()
                assert status == 503
                assert 1 <= int(fields["Retry-After"]) <= 2
                assert await closed(third.reader)
            async with Client() as client:
                with pytest.raises(BusyError):
                    await client.read_slots(
                        address, shelf.items[1].manifest.id, ((0, 1),), memoryview(bytearray(CHUNK))
                    )


@pytest.mark.red_without("N4", "a busy connection does not give way to a host that has fewer")
async def test_busy_connections_of_the_host_with_the_most_make_room(shelf: FakeShelf, tmp_path: Path) -> None:
    shelf.items.append(make_offer(tmp_path / "big.raw", os.urandom(MIB) * 64, shelf.key))
    target = f"/v1/manifests/{shelf.items[1].manifest.id.hex()}/data?slots=0-1023"
    async with (
        serving(Server(shelf, bounds=replace(SERVER, connections=3))) as address,
        AsyncExitStack() as all_,
    ):
        busy = [await all_.enter_async_context(connect(address, host="127.0.0.2")) for _ in range(3)]
        for raw in busy:
            raw.writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            await raw.reader.readexactly(1)
        async with connect(address, host="127.0.0.3") as other:
            assert (await other.ask("/v1/catalog"))[0] == 200
            with pytest.raises(ConnectionResetError):
                await busy[0].reader.read()


@pytest.mark.slow
async def test_bodies_at_once_are_bounded(shelf: FakeShelf, tmp_path: Path, client: Client) -> None:
    shelf.items.append(make_offer(tmp_path / "big.raw", os.urandom(MIB) * 64, shelf.key))
    big = shelf.items[1].manifest.id
    async with serving(Server(shelf, bounds=replace(SERVER, bodies=1, wait_s=0.1))) as address:
        async with connect(address) as busy:
            busy.writer.write(
                f"GET /v1/manifests/{big.hex()}/data?slots=0-1023 HTTP/1.1\r\nHost: x\r\n\r\n".encode()
            )
            await busy.reader.readexactly(1)
            with pytest.raises(BusyError) as caught:
                await client.read_slots(address, big, ((0, 1),), memoryview(bytearray(CHUNK)))
            assert caught.value.retry_after in (1, 2)
            assert (await client.catalog(address)).catalog is not None
            await busy.reader.readuntil(b"\r\n\r\n")
            assert len(await busy.reader.readexactly(64 * MIB)) == 64 * MIB
        await client.read_slots(address, big, ((0, 1),), memoryview(bytearray(CHUNK)))


@pytest.mark.slow
async def test_a_rate_is_shared_by_all_bodies(shelf: FakeShelf, tmp_path: Path, client: Client) -> None:
    shelf.items.append(make_offer(tmp_path / "big.raw", os.urandom(MIB) * 8, shelf.key))
    big = shelf.items[1].manifest.id
    loop = asyncio.get_running_loop()
    async with serving(Server(shelf, uploads=Uploads(limit=RateLimit(16 * MIB)))) as address:
        began = loop.time()
        parts = [((0, 64),), ((64, 64),)]
        await asyncio.gather(
            *(client.read_slots(address, big, runs, memoryview(bytearray(4 * MIB))) for runs in parts)
        )
        elapsed = loop.time() - began
    assert 0.3 < elapsed < 1.0


# -- images that change ------------------------------------------------------------------------------


async def test_an_image_that_has_changed_is_gone(shelf: FakeShelf, tmp_path: Path, client: Client) -> None:
    changed = make_offer(tmp_path / "changed.raw", CONTENT, shelf.key, unchanged=lambda: False)
    shelf.items.append(changed)
    async with serving(Server(shelf)) as address:
        for _ in range(2):  # the connection stays usable
            with pytest.raises(GoneError, match="any more"):
                await client.read_slots(address, changed.manifest.id, ((0, 1),), memoryview(bytearray(CHUNK)))


async def test_an_image_that_shrinks_ends_the_connection(
    shelf: FakeShelf, tmp_path: Path, client: Client
) -> None:
    path = tmp_path / "shrinks.raw"
    offer = make_offer(path, os.urandom(MIB) * 8, shelf.key)
    whole = offer.segments

    def segments(runs: tuple[tuple[int, int], ...]):
        pieces = list(whole(runs))
        os.truncate(path, 5 * MIB)
        return iter(pieces)

    offer.segments = segments  # type: ignore[method-assign]
    shelf.items.append(offer)
    async with serving(Server(shelf)) as address:
        with pytest.raises(PeerError, match=r"early|lost|closed"):
            await client.read_slots(address, offer.manifest.id, ((0, 128),), memoryview(bytearray(8 * MIB)))


async def test_an_image_that_changes_in_the_middle_ends_the_connection(
    shelf: FakeShelf, tmp_path: Path, client: Client
) -> None:
    offer = make_offer(tmp_path / "middle.raw", os.urandom(MIB) * 8, shelf.key)
    whole = offer.segments

    def segments(runs: tuple[tuple[int, int], ...]):
        yield from list(whole(((0, 64),)))
        raise NotFoundError("changed")

    offer.segments = segments  # type: ignore[method-assign]
    shelf.items.append(offer)
    async with serving(Server(shelf)) as address:
        with pytest.raises(PeerError):
            await client.read_slots(address, offer.manifest.id, ((0, 128),), memoryview(bytearray(8 * MIB)))
        assert (await client.catalog(address)).catalog is not None


async def test_our_own_errors_are_noted_here_and_not_told(shelf: FakeShelf, tmp_path: Path) -> None:
    def broken() -> bool:
        raise RuntimeError("a secret path")

    offer = make_offer(tmp_path / "broken.raw", CONTENT, shelf.key, unchanged=broken)
    shelf.items.append(offer)
    notes: list[str] = []
    async with serving(Server(shelf, faults=Faults(notes.append))) as address, connect(address) as raw:
        status, _, body = await raw.ask(f"/v1/manifests/{offer.manifest.id.hex()}/data?slots=0-0")
        assert (status, body) == (500, b"")
        assert (await raw.ask("/v1/catalog"))[0] == 200
    assert "a secret path" in "".join(notes)


# -- listening ---------------------------------------------------------------------------------------


async def test_listens_on_both_families_with_one_port(shelf: FakeShelf, client: Client) -> None:
    server = Server(shelf)
    port = await server.start()
    try:
        hosts = ["127.0.0.1", *(["::1"] if socket.has_ipv6 and Path("/proc/net/if_inet6").exists() else [])]
        for host in hosts:
            assert (await client.catalog(Address(host, port))).catalog is not None
    finally:
        await server.stop()
    with pytest.raises(PeerError):
        await client.catalog(Address("127.0.0.1", port))


async def test_a_port_that_is_taken(shelf: FakeShelf) -> None:
    async with serving(Server(shelf)) as address:
        with pytest.raises(NetworkError, match="Cannot listen"):
            await Server(shelf).start(["127.0.0.1"], address.port)


def free_ports() -> int:
    """A port that is free for a moment, together with the next."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as sock, suppress(OSError, OverflowError):
            port = int(sock.getsockname()[1])
            socket.create_server(("127.0.0.1", port + 1)).close()
            return port


async def test_the_default_port_and_another_when_it_is_taken(
    shelf: FakeShelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("overlaysync.net.server.DEFAULT_PORT", default := free_ports())
    first, second = Server(shelf, lane=PrivateLane(shelf.key)), Server(shelf, lane=PrivateLane(shelf.key))
    try:
        assert (await first.start(port=None), first.tls) == (default, default + 1)
        assert await second.start(port=None) not in (default, default + 1)
        with pytest.raises(NetworkError, match=f"port {default}"):
            await Server(shelf).start(port=default)
    finally:
        await first.stop()
        await second.stop()


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="there is no IPv6 here")
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
async def test_a_default_port_that_is_half_taken_is_taken(
    shelf: FakeShelf, monkeypatch: pytest.MonkeyPatch, family: socket.AddressFamily
) -> None:
    monkeypatch.setattr("overlaysync.net.server.DEFAULT_PORT", default := free_ports())
    server = Server(shelf)
    with socket.create_server(("", default), family=family):
        assert await server.start(port=None) != default
        await server.stop()


async def test_stopping_ends_bodies_that_nobody_reads(shelf: FakeShelf, tmp_path: Path) -> None:
    shelf.items.append(make_offer(tmp_path / "big.raw", os.urandom(MIB) * 64, shelf.key))
    target = f"/v1/manifests/{shelf.items[1].manifest.id.hex()}/data?slots=0-1023"
    server = Server(shelf, bounds=replace(SERVER, stop_s=0.1))
    async with serving(server) as address, connect(address) as raw:
        raw.writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await raw.reader.readexactly(1)
        async with asyncio.timeout(3):
            await server.stop()
        assert connections(server) == 0


@pytest.mark.slow
async def test_many_clients_at_once(shelf: FakeShelf, offer: Offer) -> None:
    bounds = replace(SERVER, connections_per_address=600, connections=600)
    async with serving(Server(shelf, bounds=bounds)) as address:
        writers = [await asyncio.open_connection(*address) for _ in range(200)]

        async def fetch() -> bytes:
            async with connect(address) as raw:
                return (await raw.ask(f"/v1/manifests/{offer.manifest.id.hex()}/data?slots=0-0"))[2]

        bodies = []
        for _ in range(5):  # fewer than there may be bodies at once
            bodies += await asyncio.gather(*(fetch() for _ in range(SERVER.bodies)))
        assert set(bodies) == {CONTENT[:CHUNK]}
        for _, writer in writers:
            writer.close()
