"""Whom a node dials because others told of him."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from overlaysync.discovery import interfaces
from overlaysync.discovery import locality as module
from overlaysync.discovery.browser import Browser, Peer
from overlaysync.discovery.interfaces import Interface, list_interfaces
from overlaysync.errors import NetworkError, NoSpaceError
from overlaysync.net.bounds import MAX_TOLD
from overlaysync.net.client import Client
from overlaysync.net.membership import PrivateLane
from overlaysync.net.messages import Address
from overlaysync.net.server import Server
from overlaysync.node import polling as polling_module
from overlaysync.node import reach as reach_module
from overlaysync.node.network import Network
from overlaysync.node.node import Node
from overlaysync.node.observer import Silent
from overlaysync.node.polling import Polling, has_news
from overlaysync.node.reach import Reach
from overlaysync.node.views import PeerView
from overlaysync.ops.in_use import InUse, Usage
from overlaysync.ops.manifest_rows import manifest_row
from overlaysync.trust.team_files import keep_team
from overlaysync.trust.teams import new_team
from overlaysync.units import CHUNK
from tests.net.content_provider import make_offer, make_shelf, serving, unused_port
from tests.node.stand_ins import forgetful_node

pytestmark = pytest.mark.red_without(
    "N7", "a link-local address is dialled with any scope that it came with, or without one"
)

LINK, LINK_6 = "192.0.2.9", "2001:db8::9"
HERE = "192.0.2.7"
FAR, FAR_6 = "198.51.100.9", "2001:db8:ffff::9"
PORT = 40001
NAME = "bob.lab"
"""Of a peer that the user named; nobody knows where it is."""


def interface(name: str, *addresses: str) -> Interface:
    return Interface(name, tuple(map(ipaddress.ip_interface, addresses)))


@pytest.fixture
def reach(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reach]:
    found = (
        interface("lo", "127.0.0.1/8", "::1/128"),
        interface("eth0", "192.0.2.7/24", "2001:db8::7/64", "fe80::7/64"),
        interface("eth1", "169.254.0.7/16"),
    )
    monkeypatch.setattr(module, "list_interfaces", lambda: found)
    yield Reach(forgetful_node(), cast(Any, None), Silent(), None)


NEAR_HOSTS = ["192.0.2.20", "192.0.2.7", "2001:db8::20", "169.254.0.20"]
FAR_HOSTS = ["198.51.100.20", "203.0.113.1", "10.0.0.1", "2001:db8:ffff::20"]
LOOPBACK = ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"]
NO_HOST = [
    "0.0.0.0",
    "::",
    "::ffff:0.0.0.0",
    "255.255.255.255",
    "224.0.0.251",
    "ff02::fb",
    "fe80::20",
]  # fmt: skip


@pytest.mark.parametrize("teller", [LINK, LINK_6])
def test_a_neighbour_is_believed_about_neighbours_only(reach: Reach, teller: str) -> None:
    told_by = Address(teller, 80)
    assert all(reach.directory.may_dial(host, PORT, told_by=told_by) for host in NEAR_HOSTS)
    others = [*FAR_HOSTS, *LOOPBACK, *NO_HOST, "192.0.2.255", "::ffff:192.0.2.20"]
    assert [host for host in others if reach.directory.may_dial(host, PORT, told_by=told_by)] == []


@pytest.mark.parametrize(
    ("host", "believed"),
    [
        ("fe80::20%eth0", True),
        ("fe80::20%eth1", False),
        ("fe80::20%lo", False),
        ("fe80::20%nosuch0", False),
        ("fe80::20", False),
        ("192.0.2.20", True),
        ("198.51.100.20", False),
    ],
)
def test_a_link_local_neighbour_is_believed_about_links_that_there_are(
    reach: Reach, host: str, believed: bool
) -> None:
    assert reach.directory.may_dial(host, PORT, told_by=Address("fe80::9%eth0", 80)) == believed


def test_nobody_is_believed_about_a_link_local_address_on_no_link(reach: Reach) -> None:
    for teller in (LINK, HERE, "127.0.0.1", FAR):
        assert not reach.directory.may_dial("fe80::20", PORT, told_by=Address(teller, PORT)), teller


def test_a_peer_that_says_it_has_moved_is_asked_once() -> None:
    there = Address("192.0.2.20", PORT)
    view = PeerView(there, answered=True, revision="r", addresses=("192.0.2.20",))
    assert not has_news(view, Peer("x", "", ("192.0.2.20",), PORT, "r"), catalogs=True)
    assert not has_news(view, Peer("x", "", ("192.0.2.20", "2001:db8::20"), PORT, "r"), catalogs=True)
    moved = Peer("x", "", ("192.0.2.30",), PORT, "r")
    assert has_news(view, moved, catalogs=True)
    view.addresses = moved.addresses
    assert not has_news(view, moved, catalogs=True), "it answers where it was, whatever was said in its name"


@pytest.mark.red_without("N7", "which hosts are near is decided once and never again")
def test_networks_that_change_are_judged_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Interface] = []
    monkeypatch.setattr(module, "list_interfaces", lambda: tuple(found))
    monkeypatch.setattr(module, "_NETWORKS_S", 0)
    nothing = cast(Any, None)
    reach = Reach(nothing, nothing, Silent(), None)
    told_by = Address("192.0.2.9", 80)
    assert reach.directory.may_dial(FAR, PORT, told_by=told_by), "it is far itself"
    found.append(interface("eth0", "192.0.2.7/24"))
    assert not reach.directory.may_dial(FAR, PORT, told_by=told_by)
    found.clear()
    assert reach.directory.may_dial(FAR, PORT, told_by=told_by)


@pytest.mark.parametrize("teller", [FAR, FAR_6, NAME])
def test_who_was_named_and_is_far_is_believed_about_hosts(reach: Reach, teller: str) -> None:
    told_by = Address(teller, 80)
    assert all(reach.directory.may_dial(host, PORT, told_by=told_by) for host in ["192.0.2.20", *FAR_HOSTS])
    others = [*LOOPBACK, *NO_HOST, "169.254.169.254"]
    assert [host for host in others if reach.directory.may_dial(host, PORT, told_by=told_by)] == []


@pytest.mark.parametrize("teller", [HERE, "127.0.0.1", "::1"])
def test_who_is_on_this_machine_may_tell_of_its_loopback(reach: Reach, teller: str) -> None:
    for host in ["127.0.0.1", "::1", *NEAR_HOSTS]:
        assert reach.directory.may_dial(host, PORT, told_by=Address(teller, 80))


@pytest.mark.parametrize("teller", [LINK, FAR, HERE, "127.0.0.1"])
def test_nobody_is_believed_about_ports_of_system_services(reach: Reach, teller: str) -> None:
    told_by = Address(teller, 40001)
    asked = [0, 1, 22, 80, 443, 1023, 1024, 5900, 65535, 65536]
    assert [port for port in asked if reach.directory.may_dial(LINK, port, told_by=told_by)] == [
        1024,
        5900,
        65535,
    ]


def test_who_tells_of_new_hosts_each_time_does_not_keep_us_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []

    def look() -> tuple[Interface, ...]:
        looked.append(1)
        return list_interfaces()

    for place in (module, interfaces):
        monkeypatch.setattr(place, "list_interfaces", look)
    nothing = cast(Any, None)
    reach = Reach(nothing, nothing, Silent(), None)
    began = time.monotonic()
    for number in range(10 * MAX_TOLD):
        reach.directory.may_dial(f"198.51.{number // 250}.{number % 250}", PORT, told_by=Address(LINK, 80))
    assert len(looked) <= 2 + time.monotonic() - began


async def test_a_named_peer_s_peers_are_dialled_by_the_same_rule(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """``::1`` plays a machine elsewhere, which tells of a service on our loopback."""
    monkeypatch.setattr(module, "list_interfaces", lambda: (interface("eth0", "192.0.2.7/24"),))
    node = Node.open({"OVERLAYSYNC_HOME": str(tmp_path / "home")})
    shelf = make_shelf(tmp_path)
    server = Server(shelf)
    with socket.create_server(("127.0.0.1", 0)) as service:
        service.setblocking(False)
        shelf.known = [f"127.0.0.1:{service.getsockname()[1]}"]
        teller = Address("::1", await server.start(["::1"]))
        async with Client() as client:
            reach = Reach(node, client, Silent(), None, Network((teller,)))
            await reach.polling.watch()
            while await reach.another(wait_s=5):
                pass
        assert reach.directory.answering() == [teller]
        with pytest.raises(BlockingIOError):
            service.accept()
    await server.stop()
    node.close()


@asynccontextmanager
async def reaching(tmp_path: Path, *named: Address) -> AsyncIterator[Reach]:
    """A reach that has asked these, and whom they told of."""
    node = Node.open({"OVERLAYSYNC_HOME": str(tmp_path / "home")})
    async with Client(teams=node.teams) as client:
        reach = Reach(node, client, Silent(), None, Network(named))
        await reach.polling.watch()
        while await reach.another(wait_s=5):
            pass
        yield reach
    node.close()


@pytest.mark.parametrize(
    ("first", "second", "machines"),
    [(b"a" * 16, b"a" * 16, 1), (b"a" * 16, b"b" * 16, 2), (b"", b"", 1), (b"", b"a" * 16, 2)],
    ids=["two nodes of one machine", "two machines", "by address", "one says nothing"],
)
async def test_machines_are_counted_and_not_nodes(
    tmp_path: Path, first: bytes, second: bytes, machines: int
) -> None:
    shelf = make_shelf(tmp_path)
    shelf.items.append(make_offer(tmp_path / "image.raw", bytes(CHUNK), shelf.key))
    servers = [Server(shelf), Server(shelf)]
    servers[0]._boot, servers[1]._boot = first, second
    async with serving(servers[0]) as one, serving(servers[1]) as two, reaching(tmp_path, one, two) as reach:
        (listing,) = reach.directory.listings()
        assert (len(listing.peers), listing.machines) == (2, machines)


async def test_what_is_in_use_is_listed_and_no_source_and_nothing_that_the_peer_has(tmp_path: Path) -> None:
    shelf, other = make_shelf(tmp_path), make_shelf(tmp_path)
    offer = make_offer(tmp_path / "image.raw", bytes(CHUNK), shelf.key)
    since = "2026-11-28T10:14:00Z"
    shelf.used.append(InUse(offer.manifest, since))
    content = offer.manifest.header.content_id
    async with serving(Server(shelf)) as using, serving(Server(other)) as empty:
        async with reaching(tmp_path, using, empty) as reach:
            (listing,) = reach.directory.listings()
            assert (listing.peers, listing.machines) == ((), 0)
            assert listing.in_use == (Usage("pl@bob", str(using), since),)
            assert reach.directory.sources(content) == {}
            reach.node.catalog.manifests.keep(manifest_row(offer.manifest))
        other.items.append(offer)
        shelf.used[0] = InUse(offer.manifest, since)
        async with reaching(tmp_path, using, empty) as reach:
            (listing,) = reach.directory.listings()
            assert (listing.peers, len(listing.in_use)) == ((str(empty),), 1)
            assert list(reach.directory.sources(content)) == [str(empty)]
            assert len(reach.node.catalog.holders.of(content)) == 1, "who uses it has it no longer"


async def test_a_catalog_that_is_unchanged_still_says_what_is_in_use(tmp_path: Path) -> None:
    shelf = make_shelf(tmp_path)
    offer = make_offer(tmp_path / "image.raw", bytes(CHUNK), shelf.key)
    shelf.used.append(InUse(offer.manifest, "2026-11-28T10:14:00Z"))
    async with serving(Server(shelf)) as address, reaching(tmp_path, address) as reach:
        (view,) = reach.directory.nodes()
        etag = view.etag
        reach.polling.ask(str(address), (address,))
        assert await reach.another(wait_s=5)
        assert (
            view.etag == etag
            and reach.directory.listings()[0].in_use
            and not reach.directory.listings()[0].peers
        )


async def test_a_peer_named_by_name_is_where_its_address_is(tmp_path: Path) -> None:
    """On this machine it may tell of another here, and it is one node with what announces itself."""
    shelf = make_shelf(tmp_path)
    async with serving(Server(make_shelf(tmp_path))) as other, serving(Server(shelf)) as address:
        shelf.known = [str(other)]
        async with reaching(tmp_path, Address("localhost", address.port)) as reach:
            assert reach.directory.answering() == [address, other]
            reach.polling.consider(Peer("announced", "", (address.host,), address.port))
            assert await reach.another(wait_s=5)
            assert reach.directory.answering() == [address, other]


async def test_who_does_not_answer_is_called_by_its_name(tmp_path: Path) -> None:
    named = Address("localhost", unused_port())
    async with reaching(tmp_path, named) as reach:
        with pytest.raises(NetworkError, match=f"{named}.*refused"):
            reach.require_answer()


async def test_a_name_that_is_nobodys_is_asked_as_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def fail(*words: Any, **more: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", fail)
    async with reaching(tmp_path, Address(NAME, 80)) as reach:
        with pytest.raises(NetworkError, match=f"{NAME}:80 does not answer"):
            reach.require_answer()


async def test_a_machine_that_fails_ends_the_search_and_who_waits_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(polling: Polling, peer: Peer) -> None:
        raise NoSpaceError("the disk is full")

    async def start(browser: Browser, *, patient: bool) -> None:
        pass

    monkeypatch.setattr(Browser, "start", start)
    monkeypatch.setattr(Browser, "found", lambda browser: [Peer("bob", "", (LINK,), 80)])
    monkeypatch.setattr(Polling, "consider", fail)
    node = Node.open({"OVERLAYSYNC_HOME": str(tmp_path / "home")})
    async with Client() as client, Reach.open(node, client, Silent(), Network()) as reach:
        reach.check()  # it has not begun
        with pytest.raises(NoSpaceError):
            await reach.until(lambda: False, wait_s=5)
        with pytest.raises(NoSpaceError):
            reach.check()
    node.close()


@asynccontextmanager
async def looking_alone(monkeypatch: pytest.MonkeyPatch, home: Path, *named: Address) -> AsyncIterator[Reach]:
    """A reach that looks by mDNS, where nobody announces anything."""

    async def start(browser: Browser, *, patient: bool) -> None:
        pass

    monkeypatch.setattr(Browser, "start", start)
    node = Node.open({"OVERLAYSYNC_HOME": str(home)})
    async with Client() as client, Reach.open(node, client, Silent(), Network(named)) as reach:
        yield reach
    node.close()


@pytest.mark.parametrize(("all_seen_s", "later_s"), [(0.2, 0.0), (0.0, 0.2)])
async def test_others_may_be_seen_for_a_while_and_no_longer_though_more_time_is_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, all_seen_s: float, later_s: float
) -> None:
    monkeypatch.setattr(reach_module, "SETTLE_S", 60.0)
    monkeypatch.setattr(reach_module, "_ALL_SEEN_S", all_seen_s)
    monkeypatch.setattr(reach_module, "_LATER_S", later_s)
    began = asyncio.get_running_loop().time()
    async with looking_alone(monkeypatch, tmp_path / "home") as reach:
        async with asyncio.timeout(10):
            await reach.until(lambda: True, wait_s=60)
        assert asyncio.get_running_loop().time() - began >= 0.2


async def test_who_was_seen_may_answer_until_the_time_is_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(reach_module, "SETTLE_S", 0.4)
    monkeypatch.setattr(reach_module, "_ALL_SEEN_S", 0.0)
    monkeypatch.setattr(reach_module, "_LATER_S", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        peer = Address(*silent.getsockname())
        async with looking_alone(monkeypatch, tmp_path / "home", peer) as reach:
            while not reach.looking:
                await asyncio.sleep(0)
            began = asyncio.get_running_loop().time()
            await reach.until(lambda: True, wait_s=60)
            assert reach.polling.busy
            assert asyncio.get_running_loop().time() - began >= 0.4


# -- commands that stay ------------------------------------------------------------------------------


async def ask_again(reach: Reach) -> list[str]:
    """Ask again, and wait for the answers; names listed then."""
    reach.polling.ask_again()
    while await reach.another(wait_s=5):
        pass
    return [listing.manifest.header.name for listing in reach.directory.listings()]


async def test_a_named_peer_that_is_asked_again_has_what_it_has_then(tmp_path: Path) -> None:
    shelf = make_shelf(tmp_path)
    async with serving(Server(shelf)) as address, reaching(tmp_path, address) as reach:
        assert reach.directory.listings() == []
        shelf.items = [make_offer(tmp_path / "web.raw", bytes(CHUNK), shelf.key)]
        assert await ask_again(reach) == ["web"]
        shelf.items = []
        assert await ask_again(reach) == []


@pytest.mark.red_without("N7", "a node stays hidden after the name that stood for it is gone")
@pytest.mark.parametrize("how", ["goes", "moves"])
async def test_a_node_is_found_when_the_name_that_stood_for_it_has_gone(tmp_path: Path, how: str) -> None:
    """Anybody can announce a name at the address of another node, and withdraw it or move it afterwards."""
    shelf, other = make_shelf(tmp_path), make_shelf(tmp_path)
    shelf.items = [make_offer(tmp_path / "web.raw", bytes(CHUNK), shelf.key)]
    async with (
        serving(Server(shelf)) as address,
        serving(Server(other)) as elsewhere,
        reaching(tmp_path) as reach,
    ):
        browser = Announced()
        reach.polling.browser = cast(Any, browser)
        browser.peers = [Peer(name, "", (address.host,), address.port, "r") for name in ("false", "honest")]
        for peer in browser.peers:
            reach.polling.consider(peer)
            await ask_again(reach)
        assert [key for key, view in reach.directory.views.items() if view.alias] == ["honest"]
        assert await ask_again(reach) == ["web"]
        if how == "moves":
            reach.polling.ask("false", (elsewhere,), announced=browser.peers[0])
            while await reach.another(wait_s=5):
                pass
        else:
            del browser.peers[0]
            watching = asyncio.create_task(reach.polling.watch())
            while "false" in reach.directory.views or reach.looking:
                await asyncio.sleep(0.01)
            watching.cancel()
        assert [key for key, view in reach.directory.views.items() if view.alias] == []
        assert [listing.manifest.header.name for listing in reach.directory.listings()] == ["web"]


class Announced:
    """A browser that has heard what a test says."""

    def __init__(self) -> None:
        self.peers: list[Peer] = []

    def found(self) -> tuple[Peer, ...]:
        return tuple(self.peers)

    async def changed(self) -> None:
        await asyncio.Event().wait()

    def confirm(self, label: str, host: str, port: int) -> None:
        pass

    def unanswered(self, label: str) -> None:
        pass


async def test_what_was_announced_while_nobody_heard_it_is_found_all_the_same(tmp_path: Path) -> None:
    """A switch that was apart, or a lost packet: no announcement comes later."""
    shelf = make_shelf(tmp_path)
    async with serving(Server(shelf)) as address, reaching(tmp_path) as reach:
        reach.directory.views["x"] = PeerView(address, announced=True, answered=True, revision="r")
        shelf.items = [make_offer(tmp_path / "web.raw", bytes(CHUNK), shelf.key)]
        assert await ask_again(reach) == ["web"]


async def test_a_share_tells_of_no_peer_that_does_not_answer_any_more(tmp_path: Path) -> None:
    """It was killed, say, or has moved where its announcement was not heard."""
    server = Server(make_shelf(tmp_path))
    async with reaching(tmp_path) as reach:
        reach.polling.catalogs = False
        async with serving(server) as address:
            reach.directory.views["x"] = PeerView(address, announced=True, answered=True, tls=PORT)
            assert await ask_again(reach) == [] and reach.directory.answering() == [address]
        assert await ask_again(reach) == [] and reach.directory.answering() == []
        again = Server(make_shelf(tmp_path))
        await again.start([address.host], port=address.port)
        assert await ask_again(reach) == [] and reach.directory.answering() == [address]
        await again.stop()


async def test_a_share_that_stays_asks_its_peers_again_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polling_module, "AGAIN_S", 0.05)
    async with serving(Server(make_shelf(tmp_path))) as address, reaching(tmp_path) as reach:
        peer = Peer("x", "", (address.host,), address.port, "r")
        reach.polling.browser = cast(Any, StillBrowser(peer))
        reach.polling.catalogs, reach.polling.stays = False, True
        watching = asyncio.create_task(reach.polling.watch())
        async with asyncio.timeout(20):
            for _ in range(3):
                before = reach.directory.views["x"].asked_at if "x" in reach.directory.views else 0.0
                while "x" not in reach.directory.views or reach.directory.views["x"].asked_at == before:
                    await asyncio.sleep(0.01)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await reach.polling.stop()


async def test_a_share_asks_for_catalogs_while_somebody_looks_or_it_keeps_copies(reach: Reach) -> None:
    polling = reach.polling
    polling.catalogs, polling.stays = False, True
    wanted = []
    for change in (
        lambda: polling.look_closer(True),
        lambda: polling.look_closer(False),
        lambda: polling.look_closer(True),
        polling.keep,
        lambda: polling.look_closer(False),
    ):
        change()
        wanted.append(polling.catalogs)
    assert wanted == [True, False, True, True, True]


class StillBrowser:
    """Hears of one peer, once."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def found(self) -> tuple[Peer, ...]:
        return (self._peer,)

    def confirm(self, peer: Peer, host: str) -> None:
        """It is kept anyway."""

    async def changed(self) -> None:
        await asyncio.Event().wait()


async def test_many_announced_peers_are_asked_again_in_turn(reach: Reach) -> None:
    asked: list[str] = []
    names = [f"peer {number}" for number in range(100)]
    for name in names:
        reach.directory.views[name] = PeerView(Address(HERE, PORT), announced=True, answered=True)

    def ask(key: str, *_: object, **__: object) -> None:
        asked.append(key)
        reach.directory.views[key].asked_at = time.monotonic()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Polling, "ask", lambda self, *args, **more: ask(*args, **more))
        for _ in range(20):
            before = len(asked)
            reach.polling.ask_again()
            assert len(asked) - before <= 8
    assert set(asked) == set(names)


async def test_a_peer_that_has_gone_lists_nothing_until_it_is_back(tmp_path: Path) -> None:
    shelf = make_shelf(tmp_path)
    shelf.items = [make_offer(tmp_path / "web.raw", bytes(CHUNK), shelf.key)]
    async with serving(Server(shelf)) as address:
        stack = AsyncExitStack()
        reach = await stack.enter_async_context(reaching(tmp_path, address))
        assert await ask_again(reach) == ["web"]
    async with stack:
        assert await ask_again(reach) == []
        again = Server(shelf)
        await again.start([address.host], port=address.port)
        assert await ask_again(reach) == ["web"]
        await again.stop()


@pytest.mark.parametrize("catalogs", [True, False])
@pytest.mark.slow
async def test_a_peer_that_has_moved_is_found_though_its_old_address_keeps_silent(
    tmp_path: Path, catalogs: bool
) -> None:
    """What was sent on a connection to an address that has gone is lost, and nothing says so."""
    shelf = make_shelf(tmp_path)
    shelf.items = [make_offer(tmp_path / "web.raw", bytes(CHUNK), shelf.key)]
    server = Server(shelf)
    port = await server.start(["127.0.0.2"])
    with socket.create_server(("127.0.0.1", port)):  # takes connections, and never answers
        async with reaching(tmp_path, Address("127.0.0.1", unused_port())) as reach:
            reach.polling.catalogs = catalogs
            there, moved = Address("127.0.0.1", port), Peer("x", "", ("127.0.0.2",), port, "r")
            view = reach.directory.views["x"] = PeerView(there, answered=True, announced=True, revision="r")
            began = time.monotonic()
            reach.polling.ask("x", (there,))  # as from time to time, just before the announcement comes
            reach.polling.consider(moved)
            while view.address == there and await reach.another(wait_s=30):
                pass
            assert view.address.host == "127.0.0.2" and time.monotonic() - began < 9
            assert [listing.manifest.header.name for listing in reach.directory.listings()] == [
                "web"
            ] * catalogs
    await server.stop()


async def test_a_private_lane_that_has_moved_is_found_though_the_catalog_is_the_same(tmp_path: Path) -> None:
    """A machine that begins again may answer its team elsewhere, and all that is public is as it was."""
    team = new_team("red")
    (tmp_path / "home").mkdir(mode=0o700)
    keep_team(tmp_path / "home" / "teams", team)
    shelf = make_shelf(tmp_path)
    async with AsyncExitStack() as stack:
        first = Server(shelf, lane=PrivateLane(shelf.key, {"red": team}))
        port = await first.start(["127.0.0.1"])
        reach = await stack.enter_async_context(reaching(tmp_path, Address("127.0.0.1", port)))
        (view,) = reach.directory.nodes()
        assert view.tls == first.tls
        await first.stop()
        again = Server(shelf, lane=PrivateLane(shelf.key, {"red": team}))
        await again.start(["127.0.0.1"], port=port)
        stack.push_async_callback(again.stop)
        assert again.tls != first.tls
        for _ in range(2):
            await ask_again(reach)
        assert view.tls == again.tls


async def test_what_others_told_of_and_never_answered_is_not_asked_again(tmp_path: Path) -> None:
    shelf = make_shelf(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.setblocking(False)
        port = silent.getsockname()[1]
        async with serving(Server(shelf)) as address, reaching(tmp_path, address) as reach:
            told = str(Address("127.0.0.1", port))
            reach.directory.views[told] = PeerView(Address("127.0.0.1", port))
            await ask_again(reach)
        with pytest.raises(BlockingIOError):
            silent.accept()


async def test_changes_waits_for_answers_and_says_when_there_are_none(tmp_path: Path) -> None:
    shelf = make_shelf(tmp_path)
    async with serving(Server(shelf)) as address, reaching(tmp_path, address) as reach:
        while await reach.changes(wait_s=0.01):
            pass
        assert not await reach.changes(wait_s=0.01)
        reach.polling.ask_again()
        assert await reach.changes(wait_s=5) and not reach.looking
