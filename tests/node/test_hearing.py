"""What a running share asks of others: little, of few, and no more often than that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pytest

from overlaysync.discovery.browser import Peer
from overlaysync.discovery.txt import Item
from overlaysync.net.client import CatalogAnswer
from overlaysync.net.messages import Address, CatalogMessage, Endpoint, PrivateAddress
from overlaysync.net.refusals import GoneError
from overlaysync.node import hearing as module
from overlaysync.node.hearing import Hearing
from overlaysync.node.views import PeerView
from overlaysync.trust.envelope import Manifest, open_envelope
from tests.node.stand_ins import forgetful_node

pytestmark = pytest.mark.holds("A2")

HERE, PORT, TLS = "192.0.2.20", 40001, 40002
MINE, ANOTHER = b"\1" * 32, b"\2" * 32
ASKED_PUBLIC, ASKED_RED = ("", ""), ("red", "")


class Clock:
    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        patch.setattr(module, "monotonic", lambda: self.now)


class Asked:
    """A client that notes what it is asked for: team and ETag."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.members = True

    async def catalog(self, where: Endpoint, etag: str = "") -> CatalogAnswer:
        team = where.team if isinstance(where, PrivateAddress) else ""
        self.asked.append((team, etag))
        if team and not self.members:
            raise GoneError("not in that team")
        return CatalogAnswer(None if etag else CatalogMessage(b"", "bob", (), tls=TLS), "e")

    def taken(self) -> list[tuple[str, str]]:
        found, self.asked = self.asked, []
        return found


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def client() -> Asked:
    return Asked()


def hearing(client: Asked, names: dict[tuple[str, str], frozenset[bytes]]) -> Hearing:
    return Hearing(forgetful_node(teams=["red", "blue"]), cast(Any, client), lambda: names, lambda: None)


async def ask(hearing: Hearing, view: PeerView, peer: Peer | None, *, beside: int = 1) -> None:
    async def learn(view: PeerView, found: Mapping[bytes, Manifest], where: Endpoint) -> None:
        pass

    await hearing.ask(view, peer, beside=beside, opened=open_envelope, learn=learn)


def announced(*items: Item, revision: str = "r") -> Peer:
    return Peer("bob", "", (HERE,), PORT, revision, items, TLS)


def view() -> PeerView:
    return PeerView(Address(HERE, PORT))


async def test_a_team_s_catalog_is_asked_for_from_time_to_time_with_its_etag(
    client: Asked, clock: Clock
) -> None:
    names = {("red", "web"): frozenset({MINE})}
    share, bob = hearing(client, names), view()
    await ask(share, bob, announced())
    assert client.taken() == [ASKED_RED], "nothing public, and no team that nothing is shared with"
    await ask(share, bob, announced())
    assert client.taken() == []
    clock.now += 5
    await ask(share, bob, announced())
    assert client.taken() == [("red", "e")]
    names["red", "db"] = frozenset({MINE})
    await ask(share, bob, announced())
    assert client.taken() == [ASKED_RED], "what it lists of a new name is not known yet"
    clock.now += 5
    await ask(share, bob, announced(), beside=8)
    clock.now += 10
    await ask(share, bob, announced(), beside=8)
    assert client.taken() == [("red", "e")], "of eight nodes on one host each is asked more seldom"


async def test_who_is_in_no_team_of_this_node_is_left_alone_for_a_while(client: Asked, clock: Clock) -> None:
    client.members = False
    share, bob = hearing(client, {("red", "web"): frozenset({MINE})}), view()
    for _ in range(11):
        await ask(share, bob, announced())
        clock.now += 5
    assert client.taken() == [ASKED_RED]
    clock.now += 5
    await ask(share, bob, announced())
    assert client.taken() == [ASKED_RED]


async def test_only_another_version_of_a_public_name_is_a_reason_to_ask(client: Asked, clock: Clock) -> None:
    share, bob = hearing(client, {("", "web"): frozenset({MINE})}), view()
    same, other = Item("overlay", "web", MINE[:4]), Item("overlay", "db", ANOTHER[:4])
    await ask(share, bob, announced(same, other))
    assert client.taken() == []
    clash = Item("overlay", "web", ANOTHER[:4])
    for revision, asked in (("1", [ASKED_PUBLIC]), ("1", []), ("2", [("", "e")])):
        await ask(share, bob, announced(clash, revision=revision))
        assert client.taken() == asked
        clock.now += 5


async def test_hosts_with_ever_new_nodes_are_asked_less_and_less(client: Asked, clock: Clock) -> None:
    share = hearing(client, {("red", "web"): frozenset({MINE})})
    for _ in range(200):
        await ask(share, view(), announced())
    assert len(client.taken()) == 64
