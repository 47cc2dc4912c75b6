"""An exception that nobody has thought of, in each task that a peer can reach: everything else goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from zeroconf import (  # type: ignore[attr-defined]
    DNSCache,
    DNSOutgoing,
    DNSPointer,
    RecordUpdate,
    ServiceStateChange,
    Zeroconf,
)

from overlaysync.discovery.announcer import Announcement, Announcer
from overlaysync.discovery.browser import SERVICE, Browser
from overlaysync.discovery.record_limits import Sturdy, Tidy, can_be_sent, tidy
from overlaysync.errors import DecodeError, NoSpaceError, OverlaysyncError, PeerError
from overlaysync.net import tls
from overlaysync.net.bounds import SERVER
from overlaysync.net.client import Client
from overlaysync.net.faults import Faults
from overlaysync.net.membership import PrivateLane
from overlaysync.net.receiving import DataConnection
from overlaysync.net.server import Server
from overlaysync.net.tls import TlsListener
from overlaysync.trust.teams import new_team
from overlaysync.units import CHUNK
from tests.net.content_provider import FakeShelf, connect, make_offer, make_shelf, serving
from tests.net.lane import lane, listening
from tests.net.still import StillNetwork

NOTHING = cast(Any, None)
RED = new_team("red")


@pytest.fixture
def shelf(tmp_path: Path) -> FakeShelf:
    shelf = make_shelf(tmp_path)
    shelf.items.append(make_offer(tmp_path / "image.raw", bytes(4 * CHUNK), shelf.key))
    return shelf


def breaks(*_: object, **__: object) -> Any:
    raise RuntimeError("nobody has thought of this")


async def soon(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


# -- what is contained -------------------------------------------------------------------------------


def test_each_kind_is_counted_and_noted_once() -> None:
    notes: list[str] = []
    faults = Faults(notes.append)
    for number in range(3):
        failure = faults.contain(RuntimeError(f"reason {number}\n"), "asking a peer")
        assert isinstance(failure, PeerError)
    faults.contain(KeyError("x"), "asking a peer")
    assert faults.counts == {"asking a peer: RuntimeError": 3, "asking a peer: KeyError": 1}
    assert len(notes) == 2
    assert "RuntimeError" in notes[0] and "reason 0?" in notes[0]


@pytest.mark.parametrize("error", [PeerError("gone"), DecodeError("damaged")])
def test_what_is_known_to_go_wrong_is_no_fault(error: Exception) -> None:
    faults = Faults(breaks)
    assert faults.contain(error, "asking a peer") is error
    assert not faults.counts


@pytest.mark.parametrize(
    "error", [NoSpaceError("full"), OverlaysyncError("the disk fails"), asyncio.CancelledError()]
)
def test_what_is_not_the_peer_s_is_raised(error: BaseException) -> None:
    with pytest.raises(type(error)):
        Faults().contain(error, "asking a peer")


def test_kinds_are_bounded() -> None:
    notes: list[str] = []
    faults = Faults(notes.append)
    for number in range(1000):
        faults.count(RuntimeError(), f"doing {number}")
    assert len(faults.counts) < 100 and faults.counts.total() == 1000 and len(notes) < 100


# -- the server --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "part", ["_view", "_get_catalog", "_get_manifest", "_get_page", "get_data", "get_swarm"]
)
async def test_a_request_that_breaks_the_server_breaks_itself_alone(
    shelf: FakeShelf, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    manifest = shelf.items[0].manifest.id.hex()
    page = shelf.items[0].pages.digests
    paths = {
        "_view": "/v1/catalog",
        "_get_catalog": "/v1/catalog",
        "_get_manifest": f"/v1/manifests/{manifest}",
        "_get_page": f"/v1/manifests/{manifest}/pages/{(page or (bytes(32),))[0].hex()}",
        "get_data": f"/v1/manifests/{manifest}/data?slots=0-0",
        "get_swarm": f"/v1/manifests/{manifest}/swarm?held=0&since=0",
    }
    notes: list[str] = []
    faults = Faults(notes.append)
    async with serving(Server(shelf, faults=faults)) as address, connect(address) as raw:
        with monkeypatch.context() as patch:
            patch.setattr(Server, part, breaks)
            for _ in range(2):
                assert (await raw.ask(paths[part]))[0] == 500
        assert (await raw.ask("/v1/catalog"))[0] == 200
    assert faults.counts == {"answering a request: RuntimeError": 2}
    assert len(notes) == 1 and "nobody has thought of this" in notes[0]


async def test_a_handshake_that_breaks_the_private_lane_breaks_itself_alone(
    shelf: FakeShelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = Faults()
    server = Server(shelf, lane=PrivateLane(shelf.key, {"red": RED}), faults=faults)
    async with listening(server), Client(teams={"red": RED}) as client:
        with monkeypatch.context() as patch:
            patch.setattr(tls, "server_context", breaks)
            with pytest.raises(PeerError):
                await client.private_catalog(lane(server))
        assert (await client.private_catalog(lane(server))).node == shelf.public_key
    assert faults.counts == {"shaking hands: RuntimeError": 1}


async def test_accepting_goes_on(shelf: FakeShelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "_PAUSE_S", 0.01)
    faults = Faults()
    listener = TlsListener(breaks, shelf.key, SERVER, faults)
    loop = asyncio.get_running_loop()
    with monkeypatch.context() as patch:
        patch.setattr(loop, "sock_accept", breaks)
        task = asyncio.create_task(listener._accept(NOTHING))
        await soon(lambda: faults.counts.total() > 2)
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


# -- the client --------------------------------------------------------------------------------------


async def test_bytes_that_break_the_reader_fail_that_request_alone(
    shelf: FakeShelf, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    faults = Faults()
    faults.watch(asyncio.get_running_loop())
    manifest, buffer = shelf.items[0].manifest.id, memoryview(bytearray(CHUNK))
    async with serving(Server(shelf)) as address, Client() as client:
        with monkeypatch.context() as patch:
            patch.setattr(DataConnection, "_check_head", breaks)
            for _ in range(2):
                with pytest.raises(PeerError):
                    await client.read_slots(address, manifest, ((0, 1),), buffer)
    assert faults.counts.total() == 2 and len(faults.counts) == 1
    assert not caplog.records, "a traceback was printed"


# -- multicast DNS -----------------------------------------------------------------------------------


async def test_what_is_heard_of_one_peer_does_not_end_the_hearing(monkeypatch: pytest.MonkeyPatch) -> None:
    faults = Faults()
    browser = Browser(faults=faults)
    with monkeypatch.context() as patch:
        patch.setattr(browser, "_take_note", breaks)
        browser._heard(NOTHING, SERVICE, f"a.{SERVICE}", ServiceStateChange.Added)
    browser._heard(NOTHING, SERVICE, f"b.{SERVICE}", ServiceStateChange.Added)
    assert list(browser._pending) == [f"b.{SERVICE}"]
    assert faults.counts.total() == 1


async def test_a_peer_that_cannot_be_resolved_does_not_end_the_resolving(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolved: list[str] = []

    async def resolve(name: str) -> None:
        resolved.append(name)
        breaks()

    faults = Faults()
    browser = Browser(faults=faults)
    monkeypatch.setattr(browser, "_resolve", resolve)
    worker = asyncio.create_task(browser._work())
    for name in "abc":
        browser._heard(NOTHING, SERVICE, f"{name}.{SERVICE}", ServiceStateChange.Added)
    await soon(lambda: len(resolved) == 3)
    assert not worker.done()
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)
    assert faults.counts == {"resolving a peer: RuntimeError": 3}


async def test_an_announcement_that_fails_does_not_end_the_announcing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[object] = []

    async def update(info: object) -> Any:
        sent.append(info)
        return breaks() if len(sent) == 1 else asyncio.sleep(0)

    faults = Faults()
    announcer = Announcer("pl@bob", faults=faults)
    announcer._bounds = cast(Any, SimpleNamespace(updates_s=0, name_length=63))
    zeroconf = SimpleNamespace(async_update_service=update)
    announcer._multicast = cast(Any, StillNetwork(zeroconf))
    announcer._announced = Announcement(4321, "n")
    announcer._info = announcer._make_info()
    updater = asyncio.create_task(announcer._keep_announced(asyncio.sleep(0)))
    await announcer.update(Announcement(4321, "n", "r1"))
    await soon(lambda: len(sent) == 1)
    await announcer.update(Announcement(4321, "n", "r2"))
    await soon(lambda: len(sent) == 2)
    updater.cancel()
    await asyncio.gather(updater, return_exceptions=True)
    assert faults.counts == {"announcing this node: RuntimeError": 1}


def pointer(alias: str, name: str = SERVICE) -> DNSPointer:
    return DNSPointer(name, 12, 1, 4500, alias)


@pytest.mark.parametrize(
    ("alias", "good"),
    [
        (f"pl@bob.{SERVICE}", True),
        (f"{'x' * 63}.{SERVICE}", True),
        (f"{'x' * 64}.{SERVICE}", False),
        (f"{'�' * 30}.{SERVICE}", False),
        (f"{'�' * 21}x.{SERVICE}", False),
        (f"\ud800.{SERVICE}", False),
        (f"..{SERVICE}", False),
        (f"{'x.' * 120}{SERVICE}", False),
        (".", False),
    ],
)
def test_a_name_that_cannot_be_sent_again_is_not_repeated(alias: str, good: bool) -> None:
    record = pointer(alias)
    assert (can_be_sent(alias), tidy(record)) == (good, good)
    out = DNSOutgoing(0)
    out.add_answer_at_time(record, 0)
    (packet,) = out.packets()
    assert record.alias == (alias if good else SERVICE) and len(packet) < 400


async def test_a_record_that_breaks_us_keeps_no_other_out(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def look(record: Any) -> bool:
        seen.append(record.alias)
        return bool(breaks())

    monkeypatch.setattr("overlaysync.discovery.record_limits.tidy", look)
    faults = Faults()
    records = [RecordUpdate(pointer(f"{label}.{SERVICE}"), None) for label in "ab"]
    Tidy(faults).async_update_records(NOTHING, 0, records)
    assert len(seen) == faults.counts.total() == 2


async def test_a_message_that_cannot_be_written_ends_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Zeroconf, "__init__", lambda self, **options: setattr(self, "cache", DNSCache()))
    monkeypatch.setattr(Zeroconf, "async_send", breaks)
    faults = Faults()
    Sturdy(faults).async_send(NOTHING)
    assert faults.counts == {"sending a multicast message: RuntimeError": 1}
