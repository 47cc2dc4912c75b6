"""Peers by the hundred, with all they may list: what is kept is bounded, and who is honest is heard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, cast

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from overlaysync.discovery import locality
from overlaysync.discovery.bounds import DISCOVERY
from overlaysync.discovery.browser import Peer
from overlaysync.errors import PeerError
from overlaysync.net.bounds import MAX_CATALOG_SIZE
from overlaysync.net.client import CatalogAnswer
from overlaysync.net.messages import Address, CatalogMessage, decode_catalog, encode_catalog
from overlaysync.node import directory, intake
from overlaysync.node import polling as module
from overlaysync.node.host_budget import FIRST_ASKS, TOLD_PORTS
from overlaysync.node.listed import LISTED_SIZE, Listed
from overlaysync.node.network import Network
from overlaysync.node.observer import Silent
from overlaysync.node.reach import Reach
from overlaysync.node.views import PeerView
from overlaysync.trust.envelope import Manifest, open_envelope, sign_header
from overlaysync.trust.keys import NodeKey
from tests.net.fuzzing_decoders import MASTER
from tests.node.stand_ins import forgetful_node

HONEST = Address("192.0.2.200", 8080)
KEY = NodeKey(Ed25519PrivateKey.from_private_bytes(bytes(32)))


def manifests(count: int, word: str = "n") -> list[Manifest]:
    headers = (msgspec.structs.replace(MASTER, name=f"{word}{number}") for number in range(count))
    return [sign_header(header, KEY) for header in headers]


FEW = manifests(3)
MANY = manifests(200)
"""In place of as many as fit: the tests shall not spend their time with signing."""


class Clients:
    """Stands for the client: what a host answers is what a test says."""

    def __init__(self, answers: Callable[[Address], Any]) -> None:
        self.now = self.most = 0
        self._answers = answers

    async def catalog(self, address: Address, etag: str) -> CatalogAnswer:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            envelopes = FEW if address == HONEST else await self._answers(address)
            body = encode_catalog(
                CatalogMessage(bytes(32), "x", [manifest.envelope for manifest in envelopes])
            )
            return CatalogAnswer(decode_catalog(body), "e1")
        finally:
            self.now -= 1


@asynccontextmanager
async def reaching(
    monkeypatch: pytest.MonkeyPatch, answers: Callable[[Address], Any], *named: Address
) -> AsyncIterator[tuple[Reach, Clients]]:
    clients = Clients(answers)
    monkeypatch.setattr(locality, "is_own", lambda host, found: False)
    reach = Reach(forgetful_node(), cast(Any, clients), Silent(), None, Network(named))
    try:
        yield reach, clients
    finally:
        await reach.polling.stop()


def announce(reach: Reach, address: Address, label: str = "") -> None:
    reach.polling.consider(Peer(label or str(address), "", (address.host,), address.port))


def flood(reach: Reach, *, hosts: int) -> None:
    for number in range(2 * DISCOVERY.peers):
        announce(reach, Address(f"192.0.2.{number % hosts}", 2000 + number))


async def all_heard(reach: Reach) -> None:
    """Wait until nobody is being asked."""
    while reach.looking:
        await asyncio.sleep(0.01)


async def heard(reach: Reach, within_s: float) -> None:
    """Wait for the honest peer."""
    async with asyncio.timeout(within_s):
        while not any(view.address == HONEST and view.manifests for view in reach.directory.nodes()):
            await asyncio.sleep(0.01)


@pytest.mark.slow
async def test_long_lists_are_cut_and_short_ones_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    async def everything(address: Address) -> list[Manifest]:
        return manifests(len(MANY), f"of-{address.host}-")

    limit = 64 * len(MANY[0].envelope)
    monkeypatch.setattr(directory, "LISTED_SIZE", limit)
    async with reaching(monkeypatch, everything, Address("192.0.2.5", 9)) as (reach, _):
        reach.polling.ask("named", (Address("192.0.2.5", 9),))
        announce(reach, HONEST)
        for number in range(10):
            announce(reach, Address(f"192.0.2.{number}", 8080))
        await all_heard(reach)
        views = {str(view.address): view for view in reach.directory.nodes()}
        assert len(views.pop("192.0.2.5:9").manifests) == len(MANY)
        assert len(views[str(HONEST)].manifests) == len(FEW)
        assert sum(view.size for view in views.values()) <= limit
        assert all(view.manifests for view in views.values())
    assert LISTED_SIZE <= 4 * MAX_CATALOG_SIZE


async def test_what_many_list_counts_once_and_is_verified_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def the_same(address: Address) -> list[Manifest]:
        return MANY

    verified: list[bytes] = []

    def verify(envelope: bytes) -> Manifest:
        verified.append(envelope)
        return open_envelope(envelope)

    monkeypatch.setattr(directory, "LISTED_SIZE", 3 * sum(len(manifest.envelope) for manifest in MANY))
    monkeypatch.setattr(intake, "open_envelope", verify)
    async with reaching(monkeypatch, the_same) as (reach, _):
        for number in range(10):
            announce(reach, Address(f"192.0.2.{number}", 8080))
            await all_heard(reach)
        assert [len(view.manifests) for view in reach.directory.nodes()] == 10 * [len(MANY)]
        assert len(verified) == len(MANY)


def test_what_is_listed_no_more_does_not_count() -> None:
    one, other = ({manifest.id: manifest for manifest in some} for some in (MANY[20:40], MANY[30:50]))
    listed = Listed()
    listed.add(one)
    before = listed.size
    listed.add(other)
    assert before < listed.size < 2 * before
    listed.remove(one)
    assert listed.size == before  # the second is as long
    listed.remove(other)
    assert listed.size == 0


@pytest.mark.slow
async def test_few_are_asked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def slowly(address: Address) -> list[Manifest]:
        await asyncio.sleep(0.001)
        return []

    async with reaching(monkeypatch, slowly) as (reach, clients):
        flood(reach, hosts=100)
        announce(reach, Address("192.0.3.1", 2001), "one too many")
        await all_heard(reach)
        assert clients.most <= module.LOOKING.places
        assert len(reach.directory.views) == 2 * DISCOVERY.peers


@pytest.mark.slow
async def test_who_is_known_is_asked_again_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    now: list[Manifest] = []

    async def list_now(address: Address) -> list[Manifest]:
        return now

    async with reaching(monkeypatch, list_now) as (reach, _):
        flood(reach, hosts=100)
        await all_heard(reach)
        now.extend(FEW)
        first = next(iter(reach.directory.views))
        reach.polling.consider(Peer(first, "", (reach.directory.views[first].address.host,), 2000, "r2"))
        await all_heard(reach)
        assert len(reach.directory.views[first].manifests) == len(FEW)


async def test_hosts_that_stall_hold_up_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    async def stall(address: Address) -> list[Manifest]:
        await asyncio.sleep(3600)
        return []

    monkeypatch.setattr(module, "LOOK_S", 3600.0)
    monkeypatch.setattr(module, "LOOKING", replace(module.LOOKING, place_s=0.05))
    async with reaching(monkeypatch, stall) as (reach, clients):
        flood(reach, hosts=4)
        while clients.now < module.LOOKS:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        reach.polling.leave(reach.directory.views.popitem()[0])  # all places are taken: one of them goes
        announce(reach, HONEST)
        await heard(reach, 2)
        assert clients.most <= module.LOOKS
        late = [view for view in reach.directory.views.values() if view.problem]
        assert late and all("too long" in view.problem for view in late)


async def test_who_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def stall(address: Address) -> list[Manifest]:
        await asyncio.sleep(3600)
        return []

    monkeypatch.setattr(module, "LOOK_S", 0.05)
    async with reaching(monkeypatch, stall) as (reach, _):
        announce(reach, Address("192.0.2.1", 2001))
        await all_heard(reach)
        assert "too long" in reach.directory.views["192.0.2.1:2001"].problem


async def test_a_host_that_refuses_is_heard_of_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(address: Address) -> list[Manifest]:
        raise PeerError("refused")

    async with reaching(monkeypatch, refuse) as (reach, _):
        flood(reach, hosts=200)
        await all_heard(reach)
        assert {view.problem for view in reach.directory.views.values()} == {"refused"}
        assert reach.directory.listings() == []


# -- one host with many names, or many peers that it tells of --------------------------------------------


class Greeted:
    """Stands for the client of a node that only shares."""

    def __init__(self) -> None:
        self.asked: list[Address] = []
        self.told: tuple[Address, ...] = ()

    async def peers(self, address: Address) -> tuple[Address, ...]:
        self.asked.append(address)
        return self.told


async def test_a_node_that_only_shares_asks_for_no_catalog_and_opens_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One host with a hundred names whose catalogs change all the time."""
    monkeypatch.setattr(locality, "is_own", lambda host, found: False)
    greeted = Greeted()
    reach = Reach(cast(Any, None), cast(Any, greeted), Silent(), None, Network(catalogs=False))
    for revision in range(50):
        for number in range(100):
            reach.polling.consider(Peer(f"n{number}", "", ("192.0.2.1",), 2000 + number, f"r{revision}"))
        reach.polling.consider(Peer("honest", "", (HONEST.host,), HONEST.port, "r1"))
        await all_heard(reach)
    assert len(greeted.asked) == FIRST_ASKS + 1
    assert HONEST in reach.directory.answering() and len(reach.directory.answering()) == FIRST_ASKS + 1
    assert reach.directory.listings() == []


async def test_a_host_with_changing_catalogs_is_asked_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Address] = []

    async def note(address: Address) -> list[Manifest]:
        asked.append(address)
        return []

    async with reaching(monkeypatch, note) as (reach, _):
        for revision in range(50):
            for number in range(100):
                reach.polling.consider(Peer(f"n{number}", "", ("192.0.2.1",), 2000 + number, f"r{revision}"))
            await all_heard(reach)
        assert len(asked) <= FIRST_ASKS + 2
        for revision in range(5):  # another host is asked at once
            reach.polling.consider(Peer("honest", "", (HONEST.host,), HONEST.port, f"r{revision}"))
            await all_heard(reach)
            assert reach.directory.views["honest"].revision == f"r{revision}"


async def test_addresses_of_a_host_that_was_asked_too_often_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who announces others' addresses beside his own makes nobody dial those for ever."""
    asked: list[Address] = []

    async def refuse(address: Address) -> list[Manifest]:
        asked.append(address)
        raise PeerError("refused")

    async with reaching(monkeypatch, refuse) as (reach, _):
        for number in range(3 * FIRST_ASKS):
            hosts = (f"192.0.2.{number % 100}", "192.0.2.222")
            reach.polling.consider(Peer(f"n{number}", "", hosts, 2000 + number))
        await all_heard(reach)
        assert sum(address.host == "192.0.2.222" for address in asked) <= FIRST_ASKS + 1


@pytest.mark.parametrize("port", [1, 22, 80, 443, 1023])
async def test_no_announcement_makes_us_dial_a_system_service(
    monkeypatch: pytest.MonkeyPatch, port: int
) -> None:
    async def nothing(address: Address) -> list[Manifest]:
        return []

    async with reaching(monkeypatch, nothing) as (reach, clients):
        announce(reach, Address("192.0.2.1", port))
        await all_heard(reach)
        assert clients.most == 0 and not reach.directory.views


async def test_a_peer_that_tells_of_many_on_one_host_makes_us_dial_few(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Address] = []
    named = Address("192.0.2.1", 40001)

    async def refuse(address: Address) -> list[Manifest]:
        asked.append(address)
        if address == named:
            return []
        raise PeerError("refused")

    async def told(address: Address) -> tuple[Address, ...]:
        return tuple(Address("192.0.2.222", port) for port in (22, 80, *range(2000, 2254)))

    monkeypatch.setattr(locality, "is_on_link", lambda host, found: True)
    async with reaching(monkeypatch, refuse, named) as (reach, clients):
        cast(Any, clients).peers = told
        await reach.polling.watch()
        await all_heard(reach)
        ports = [address.port for address in asked if address.host == "192.0.2.222"]
        assert sorted(ports) == list(range(2000, 2000 + TOLD_PORTS))


async def test_where_a_peer_answered_before_is_tried_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another announces the same name with an address of his own."""
    asked: list[str] = []
    gone: set[str] = set()

    async def note(address: Address) -> list[Manifest]:
        asked.append(address.host)
        return []

    async def peers(address: Address) -> tuple[Address, ...]:
        if address.host in gone:
            raise PeerError("refused")
        return ()

    async with reaching(monkeypatch, note) as (reach, clients):
        cast(Any, clients).peers = peers
        for host, revision in (("192.0.2.1", "r1"), ("192.0.2.66", "r2"), ("192.0.2.66", "r3")):
            if revision == "r3":
                gone.add("192.0.2.1")
            reach.polling.consider(Peer("honest", "", (host,), 40001, revision))
            await all_heard(reach)
        assert asked == ["192.0.2.1", "192.0.2.1", "192.0.2.66"]
        assert reach.directory.views["honest"].address.host == "192.0.2.66"


async def test_who_is_said_to_have_gone_is_asked() -> None:
    class Some(Greeted):
        async def peers(self, address: Address) -> tuple[Address, ...]:
            if address.host == "192.0.2.2":
                raise PeerError("refused")
            if address.host == "192.0.2.3":
                raise RuntimeError("nobody has thought of this")
            return await super().peers(address)

    greeted = Some()
    reach = Reach(cast(Any, None), cast(Any, greeted), Silent(), None)
    peers = [Peer(f"n{number}", "", (f"192.0.2.{number}",), 40001) for number in (1, 2, 3, 4)]
    for peer in peers[:3]:
        view = PeerView(Address(peer.addresses[0], peer.port), answered=True)
        reach.directory.views[peer.label] = view
    assert [await reach.polling.still_there(peer) for peer in peers] == [True, False, False, False]


async def test_a_node_that_has_moved_is_found_though_another_has_its_old_port(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old, new = Address("192.0.2.1", 40001), Address("192.0.2.1", 40002)
    keys = {old: b"a" * 32, new: b"b" * 32}

    async def nothing(address: Address) -> list[Manifest]:
        return []

    async with reaching(monkeypatch, nothing) as (reach, clients):

        async def catalog(address: Address, etag: str) -> CatalogAnswer:
            return CatalogAnswer(decode_catalog(encode_catalog(CatalogMessage(keys[address], "x", ()))), "")

        monkeypatch.setattr(clients, "catalog", catalog)
        announce(reach, old, "moving")
        await all_heard(reach)
        keys = {old: b"z" * 32, new: b"a" * 32}
        reach.polling.consider(Peer("moving", "", (new.host,), new.port, "r2"))
        await all_heard(reach)
        assert reach.directory.views["moving"].address == new
