"""Peers by the hundred, with all they may list: what is kept is bounded, and who is honest is heard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from overlaysync.errors import PeerError
from overlaysync.net.bounds import DISCOVERY, MAX_CATALOG_SIZE
from overlaysync.net.client import CatalogAnswer
from overlaysync.net.discovery import Peer
from overlaysync.net.messages import Address, decode_catalog, encode_catalog
from overlaysync.node import nearness
from overlaysync.node import reach as module
from overlaysync.node.listed import Listed
from overlaysync.node.observer import Silent
from overlaysync.node.reach import LISTED_SIZE, Reach
from overlaysync.trust.envelope import Manifest, open_envelope, sign_header
from overlaysync.trust.keys import NodeKey
from tests.net.fuzzing_decoders import MASTER

HONEST = Address("192.0.2.200", 80)
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
            body = encode_catalog(bytes(32), "x", (manifest.envelope for manifest in envelopes))
            return CatalogAnswer(decode_catalog(body), "e1")
        finally:
            self.now -= 1


@asynccontextmanager
async def reaching(
    monkeypatch: pytest.MonkeyPatch, answers: Callable[[Address], Any], *named: Address
) -> AsyncIterator[tuple[Reach, Clients]]:
    catalog = SimpleNamespace(note_manifests=lambda rows, at: None, find_manifest=lambda id: None)
    node = SimpleNamespace(teams={}, catalog=catalog)
    clients = Clients(answers)
    monkeypatch.setattr(nearness, "is_own", lambda host, found: False)
    reach = Reach(cast(Any, node), cast(Any, clients), Silent(), None, named=named)
    try:
        yield reach, clients
    finally:
        for task in reach._asking.values():
            task.cancel()
        await asyncio.gather(*reach._asking.values(), return_exceptions=True)


def announce(reach: Reach, address: Address, label: str = "") -> None:
    reach._consider(Peer(label or str(address), "", (address.host,), address.port))


def flood(reach: Reach, *, hosts: int) -> None:
    for number in range(2 * DISCOVERY.peers):
        announce(reach, Address(f"192.0.2.{number % hosts}", 1000 + number))


async def all_heard(reach: Reach) -> None:
    """Wait until nobody is being asked."""
    while reach.looking:
        await asyncio.sleep(0.01)


async def heard(reach: Reach, within_s: float) -> None:
    """Wait for the honest peer."""
    async with asyncio.timeout(within_s):
        while not any(view.address == HONEST and view.manifests for view in reach.nodes()):
            await asyncio.sleep(0.01)


async def test_long_lists_are_cut_and_short_ones_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    async def everything(address: Address) -> list[Manifest]:
        return manifests(len(MANY), f"of-{address.host}-")

    monkeypatch.setattr(module, "LISTED_SIZE", 64 * len(MANY[0].envelope))
    async with reaching(monkeypatch, everything, Address("192.0.2.5", 9)) as (reach, _):
        reach._ask("named", (Address("192.0.2.5", 9),))
        announce(reach, HONEST)
        for number in range(10):
            announce(reach, Address(f"192.0.2.{number}", 80))
        await all_heard(reach)
        views = {str(view.address): view for view in reach.nodes()}
        assert len(views.pop("192.0.2.5:9").manifests) == len(MANY)
        assert len(views[str(HONEST)].manifests) == len(FEW)
        assert sum(view.size for view in views.values()) <= module.LISTED_SIZE
        assert all(view.manifests for view in views.values())
    assert LISTED_SIZE <= 4 * MAX_CATALOG_SIZE


async def test_what_many_list_counts_once_and_is_verified_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def the_same(address: Address) -> list[Manifest]:
        return MANY

    verified: list[bytes] = []

    def verify(envelope: bytes) -> Manifest:
        verified.append(envelope)
        return open_envelope(envelope)

    monkeypatch.setattr(module, "LISTED_SIZE", 3 * sum(len(manifest.envelope) for manifest in MANY))
    monkeypatch.setattr(module, "open_envelope", verify)
    async with reaching(monkeypatch, the_same) as (reach, _):
        for number in range(10):
            announce(reach, Address(f"192.0.2.{number}", 80))
            await all_heard(reach)
        assert [len(view.manifests) for view in reach.nodes()] == 10 * [len(MANY)]
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


async def test_few_are_asked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def slowly(address: Address) -> list[Manifest]:
        await asyncio.sleep(0.001)
        return []

    async with reaching(monkeypatch, slowly) as (reach, clients):
        flood(reach, hosts=100)
        announce(reach, Address("192.0.3.1", 1), "one too many")
        await all_heard(reach)
        assert clients.most <= module._LOOKING.places
        assert len(reach.views) == 2 * DISCOVERY.peers


async def test_who_is_known_is_asked_again_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    now: list[Manifest] = []

    async def list_now(address: Address) -> list[Manifest]:
        return now

    async with reaching(monkeypatch, list_now) as (reach, _):
        flood(reach, hosts=100)
        await all_heard(reach)
        now.extend(FEW)
        first = next(iter(reach.views))
        reach._consider(Peer(first, "", (reach.views[first].address.host,), 1000, "r2"))
        await all_heard(reach)
        assert len(reach.views[first].manifests) == len(FEW)


async def test_hosts_that_stall_hold_up_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    async def stall(address: Address) -> list[Manifest]:
        await asyncio.sleep(3600)
        return []

    monkeypatch.setattr(module, "_LOOK_S", 3600.0)
    async with reaching(monkeypatch, stall) as (reach, clients):
        reach._places._bounds = replace(module._LOOKING, place_s=0.05)
        flood(reach, hosts=4)
        while clients.now < module._LOOKS:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        reach._asking.popitem()[1].cancel()  # all places for views are taken: one of them goes
        reach.views.popitem()
        announce(reach, HONEST)
        await heard(reach, 2)
        assert clients.most <= module._LOOKS
        late = [view for view in reach.views.values() if view.problem]
        assert late and all("too long" in view.problem for view in late)


async def test_who_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def stall(address: Address) -> list[Manifest]:
        await asyncio.sleep(3600)
        return []

    monkeypatch.setattr(module, "_LOOK_S", 0.05)
    async with reaching(monkeypatch, stall) as (reach, _):
        announce(reach, Address("192.0.2.1", 1))
        await all_heard(reach)
        assert "too long" in reach.views["192.0.2.1:1"].problem


async def test_a_host_that_refuses_is_heard_of_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(address: Address) -> list[Manifest]:
        raise PeerError("refused")

    async with reaching(monkeypatch, refuse) as (reach, _):
        flood(reach, hosts=200)
        await all_heard(reach)
        assert {view.problem for view in reach.views.values()} == {"refused"}
        assert reach.listings() == []
