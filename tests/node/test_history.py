"""The past of what peers list: asked for where it is unknown, and kept only where it is really followed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pytest

from overlaysync.errors import DecodeError, PeerError
from overlaysync.model.history import History
from overlaysync.model.manifest import manifest_id
from overlaysync.net import messages
from overlaysync.net.bounds import MAX_HISTORY_ITEMS, MAX_HISTORY_SIZE
from overlaysync.net.client import Client
from overlaysync.net.membership import PrivateLane
from overlaysync.net.messages import Address, CatalogMessage, Endpoint, encode_catalog, encode_history
from overlaysync.net.refusals import GoneError
from overlaysync.net.server import Server
from overlaysync.node import intake as module
from overlaysync.node.network import Network
from overlaysync.node.node import Node
from overlaysync.node.observer import Silent
from overlaysync.node.reach import Reach
from overlaysync.ops.manifest_rows import manifest_row
from overlaysync.ops.offer import Offer
from overlaysync.trust.envelope import Manifest, open_envelope, sign_header
from overlaysync.trust.keys import NodeKey
from overlaysync.trust.teams import Team, new_team
from overlaysync.units import CHUNK
from tests.net.content_provider import FakeShelf, make_offer, make_shelf, ok, says, scripted

pytestmark = pytest.mark.holds("B1")

RED, OLD_RED = new_team("red"), new_team("red")


@dataclass
class Peer:
    """A node that serves versions with the pasts that a test gives them."""

    shelf: FakeShelf
    directory: Path
    count: int = 0

    @property
    def key(self) -> NodeKey:
        return self.shelf.key

    def version(self, *after: Manifest, name: str = "web", team: Team | None = None, **more: str) -> Manifest:
        """A version of any content, by this node, that comes after those."""
        self.count += 1
        content = f"{self.count} {more}".encode().ljust(CHUNK)
        header = make_offer(self.directory / "any.raw", content, self.key).manifest.header
        changes = {
            "name": name,
            "team": team.name if team else "",
            "version": 1 + max((one.header.version for one in after), default=0),
            "follows": tuple(sorted(one.id.hex() for one in after)),
        }
        return sign_header(msgspec.structs.replace(header, **changes), self.key, team)

    def serve(self, manifest: Manifest, *past: bytes) -> Offer:
        """List a version, and tell that past of it."""
        offer = make_offer(self.directory / f"{len(self.shelf.items)}.raw", os.urandom(CHUNK), self.key)
        offer.manifest, offer.past = manifest, past
        self.shelf.items.append(offer)
        return offer

    def line(self, count: int, **more: Team) -> list[Manifest]:
        """Versions that follow each other."""
        made: list[Manifest] = []
        for _ in range(count):
            made.append(self.version(*made[-1:], team=more.get("team")))
        return made


class Asking(Client):
    """A client that notes whose history it asks for."""

    def __init__(self, node: Node) -> None:
        super().__init__(teams=node.teams)
        self.asked: list[bytes] = []

    async def history(self, address: Endpoint, manifest_id: bytes) -> tuple[bytes, ...]:
        self.asked.append(manifest_id)
        return await super().history(address, manifest_id)


@pytest.fixture
def peer(tmp_path: Path) -> Peer:
    return Peer(make_shelf(tmp_path), tmp_path)


@pytest.fixture
def node(tmp_path: Path) -> Iterable[Node]:
    made = Node.open({"OVERLAYSYNC_HOME": str(tmp_path / "home")})
    yield replace(made, teams={"red": RED})
    made.close()


@asynccontextmanager
async def served(peer: Peer) -> AsyncIterator[Address]:
    server = Server(peer.shelf, lane=PrivateLane(peer.key, {"red": RED}))
    port = await server.start(["127.0.0.1"])
    try:
        yield Address("127.0.0.1", port)
    finally:
        await server.stop()


async def look(node: Node, *peers: Address, catalogs: bool = True) -> tuple[Reach, list[bytes]]:
    """A reach that has asked these peers, and the ids whose history it asked for."""
    async with Asking(node) as client:
        reach = Reach(node, client, Silent(), None, Network(peers, catalogs=catalogs))
        watching = asyncio.create_task(reach.polling.watch())  # where only shared, it goes on for good
        await asyncio.sleep(0)
        await quiet(reach)
        watching.cancel()
        assert isinstance(client, Asking)
        return reach, client.asked


def versions(node: Node, name: str = "web", team: str = "") -> list[int]:
    return [row.version for row in node.catalog.manifests.versions(team, name)]


def envelopes(*manifests: Manifest) -> tuple[bytes, ...]:
    return tuple(manifest.envelope for manifest in manifests)


# -- what is learnt ----------------------------------------------------------------------------------


async def test_the_past_of_what_is_listed_is_known_afterwards(node: Node, peer: Peer) -> None:
    first, second, third = peer.line(3)
    peer.serve(third, *envelopes(second, first))
    async with served(peer) as address:
        reach, asked = await look(node, address)
    assert [listing.manifest for listing in reach.directory.listings()] == [third]
    assert asked == [third.id]
    known = node.catalog.manifests.versions("", "web")
    assert known == [manifest_row(one) for one in (third, second, first)]
    assert History(known).is_before(first.id, third.id)
    assert node.catalog.manifests.matching() == [], "only headers, of things that are not here"


async def test_a_node_that_only_shares_does_not_ask(node: Node, peer: Peer) -> None:
    first, second = peer.line(2)
    peer.serve(second, first.envelope)
    async with served(peer) as address:
        _, asked = await look(node, address, catalogs=False)
    assert asked == [] and versions(node) == []


@pytest.mark.parametrize("known", ["nothing before it", "all before it", "it does not follow anything"])
async def test_nobody_is_asked_for_what_is_known(node: Node, peer: Peer, known: str) -> None:
    first, second = peer.line(2)
    if known == "all before it":
        node.catalog.manifests.note_seen([manifest_row(first)], at="")
    peer.serve(first if known == "it does not follow anything" else second, first.envelope)
    async with served(peer) as address:
        _, asked = await look(node, address)
    assert asked == ([second.id] if known == "nothing before it" else [])


async def test_a_peer_is_asked_for_so_many_pasts_the_highest_versions_first(
    node: Node, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HISTORIES", 3)
    listed = []
    for number in range(6):
        *before, last = peer.line(2 + number)
        listed.append(last)
        peer.serve(last, *envelopes(*before))
    async with served(peer) as address:
        _, asked = await look(node, address)
    assert asked == [one.id for one in listed[:2:-1]]


async def test_two_peers_complete_each_other(node: Node, peer: Peer, tmp_path: Path) -> None:
    """One has forgotten what the other knows."""
    (tmp_path / "other").mkdir()
    other = Peer(make_shelf(tmp_path / "other"), tmp_path / "other")
    first, second, third = peer.line(3)
    peer.serve(third, second.envelope)
    other.serve(second, first.envelope)
    async with served(peer) as one, served(other) as two:
        await look(node, one, two)
    assert versions(node) == [3, 2, 1]


# -- what is not believed ----------------------------------------------------------------------------


async def test_what_is_not_followed_is_dropped(node: Node, peer: Peer) -> None:
    first, second, third = peer.line(3)
    strange = [peer.version(), peer.version(first), peer.version(third), peer.version(peer.version())]
    peer.serve(third, *envelopes(*strange, second, first))
    async with served(peer) as address:
        await look(node, address)
    assert {row.id for row in node.catalog.manifests.versions("", "web")} == {first.id, second.id, third.id}


async def test_what_hangs_on_nothing_is_dropped(node: Node, peer: Peer) -> None:
    """The version in between is left out: nothing shows that the first belongs there."""
    first, _, third = peer.line(3)
    peer.serve(third, first.envelope)
    async with served(peer) as address:
        await look(node, address)
    assert versions(node) == [3]


async def test_other_names_and_teams_are_dropped_even_when_they_are_followed(node: Node, peer: Peer) -> None:
    other, private = peer.version(name="other"), peer.version(team=RED)
    mine = peer.version()
    last = peer.version(other, private, mine)
    peer.serve(last, *envelopes(other, private, mine))
    async with served(peer) as address:
        await look(node, address)
    assert versions(node) == [2, 1]
    assert versions(node, "other") == versions(node, "web", "red") == []


async def test_damaged_headers_are_dropped_and_their_neighbours_are_not(node: Node, peer: Peer) -> None:
    first, second, third = peer.line(3)
    forged = second.envelope[:-3] + b"x" + second.envelope[-2:]
    peer.serve(third, b"nonsense", forged, second.envelope, first.envelope[:50], first.envelope)
    async with served(peer) as address:
        await look(node, address)
    assert versions(node) == [3, 2, 1]


@pytest.mark.red_without(
    "N1", "all signatures in a history are verified, and a host that sent a wrong one is asked again"
)
async def test_signatures_that_nobody_has_promised_are_not_verified(
    node: Node, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verifying takes much longer than sending: a thousand envelopes in each answer would keep us busy."""
    verified = count_verified(monkeypatch)
    first, second = peer.line(2)
    strange = [peer.version(name=f"n{number}").envelope for number in range(99)]
    peer.serve(second, *strange[:50], first.envelope, *strange[50:])
    async with served(peer) as address:
        await look(node, address)
    assert versions(node) == [2, 1]
    assert [one for one in verified if one != second.envelope] == [first.envelope]


@pytest.mark.red_without(
    "N1", "all signatures in a history are verified, and a host that sent a wrong one is asked again"
)
async def test_a_wrong_history_is_the_last_that_the_host_is_asked_for(
    node: Node, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified = count_verified(monkeypatch)
    wrong = []
    for version in peer.line(9):
        wrong.append(version.envelope[:60] + bytes([version.envelope[60] ^ 1]) + version.envelope[61:])
    for number in range(4):
        header = peer.version(name=f"n{number}").header
        follows = tuple(sorted(manifest_id(one).hex() for one in wrong))
        followed = msgspec.structs.replace(header, version=10, follows=follows[:8])
        peer.serve(sign_header(followed, peer.key), *wrong)
    asked: list[bytes] = []
    async with served(peer) as one, served(peer) as two, Asking(node) as client:
        reach = Reach(node, client, Silent(), None, Network((one, two)))
        await reach.polling.watch()
        for _ in range(3):
            await quiet(reach)
            reach.polling.ask_again()
        await quiet(reach)
        assert isinstance(client, Asking)
        asked = client.asked
    assert len(asked) in (1, 2), "the other port may have been asked at the same moment"
    assert len([one for one in verified if one in wrong]) == len(asked)
    assert len(reach.directory.listings()) == 4, "what it lists counts all the same"


@pytest.mark.red_without("N1", "a peer that does not know a history is asked for it again and again")
async def test_nobody_is_asked_again_for_a_past_that_it_does_not_know(node: Node, peer: Peer) -> None:
    _, second = peer.line(2)
    peer.serve(second)
    async with served(peer) as address, Asking(node) as client:
        reach = Reach(node, client, Silent(), None, Network((address,)))
        await reach.polling.watch()
        await quiet(reach)
        reach.polling.ask_again()
        await quiet(reach)
        assert isinstance(client, Asking) and client.asked == [second.id]


async def quiet(reach: Reach) -> None:
    """Wait until no peer is being asked."""
    while await reach.another(wait_s=5):
        pass


def count_verified(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The envelopes whose signatures are verified from now on."""
    verified: list[bytes] = []

    def verify(envelope: bytes) -> Manifest:
        verified.append(envelope)
        return open_envelope(envelope)

    monkeypatch.setattr(module, "open_envelope", verify)
    return verified


BODIES = {
    "not there": b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
    "no history": ok(b'{"items":7}'),
    "too many": ok(b'{"items":[' + b",".join([b'"eA=="'] * (MAX_HISTORY_ITEMS + 1)) + b"]}"),
    "too long": ok(b'{"items":[]}'.ljust(MAX_HISTORY_SIZE + 1)),
    "longer than it says": ok(b"", length=MAX_HISTORY_SIZE + 1),
    "cut off": ok(b'{"items":["eA=="', length=99),
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
async def test_a_peer_that_tells_no_past_is_a_peer_all_the_same(node: Node, peer: Peer, body: bytes) -> None:
    first, second = peer.line(2)
    sent: list[bytes] = []
    catalog = encode_catalog(CatalogMessage(peer.key.public, "x", [second.envelope]))

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answer = ok(catalog) if not sent else body if len(sent) == 1 else ok(b'{"peers":[]}')
        sent.append(answer)
        await says(answer, then_close=answer is body)(reader, writer)

    async with scripted(script) as address:
        reach, asked = await look(node, address)
    assert asked == [second.id] and body in sent
    assert [listing.manifest for listing in reach.directory.listings()] == [second]
    assert versions(node) == [2] and first.header.version == 1


async def test_a_client_takes_no_more_than_a_history_may_have(node: Node) -> None:
    async with Asking(node) as client:
        for name, error in (("too many", DecodeError), ("too long", PeerError), ("not there", GoneError)):
            async with scripted(says(BODIES[name], then_close=True)) as address:
                with pytest.raises(error):
                    await client.history(address, bytes(32))


async def test_a_server_sends_no_more_than_a_history_may_have(
    node: Node, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "MAX_HISTORY_ITEMS", 2)
    made = peer.line(4)
    offer = peer.serve(made[3], *envelopes(*made[2::-1]))
    assert len(offer.past) == 3
    async with served(peer) as address, Asking(node) as client:
        assert await client.history(address, made[3].id) == envelopes(made[2], made[1])
        body = encode_history([])
        assert await client.history(address, peer.serve(made[0]).manifest.id) == ()
        assert body == b'{"items":[]}'


# -- teams -------------------------------------------------------------------------------------------


async def test_a_team_s_past_comes_by_its_lane(node: Node, peer: Peer) -> None:
    first, second = peer.line(2, team=RED)
    peer.serve(second, first.envelope)
    async with served(peer) as address:
        reach, asked = await look(node, address)
    assert [listing.manifest for listing in reach.directory.listings()] == [second]
    assert asked == [second.id] and versions(node, team="red") == [2, 1]


@pytest.mark.parametrize("where", ["listed", "in a past"])
@pytest.mark.parametrize("who", ["a former member", "somebody who has seen it"])
async def test_who_has_not_the_team_s_key_injects_nothing(
    node: Node, peer: Peer, who: str, where: str
) -> None:
    """A member passes it on in good faith; or the one who made it has got into a member's shelf."""
    first, second = peer.line(2, team=RED)
    header = msgspec.structs.replace(second.header, by="mallory")
    if who == "a former member":
        forged = sign_header(header, peer.key, OLD_RED)
    else:
        voucher = second.envelope[100:132]
        bare = sign_header(header, peer.key, new_team("red")).envelope
        forged = open_envelope(bare[:100] + voucher + bare[132:])
    assert not forged.belongs({"red": RED})
    if where == "listed":
        peer.serve(forged, first.envelope)
    else:
        third = peer.version(forged, second, team=RED)
        peer.serve(third, forged.envelope, second.envelope, first.envelope)
    async with served(peer) as address:
        reach, _ = await look(node, address)
    known = [row.id for row in node.catalog.manifests.versions("red", "web")]
    assert forged.id not in known
    assert forged.id not in {listing.manifest.id for listing in reach.directory.listings()}
    assert len(known) == (0 if where == "listed" else 3)


async def test_what_a_team_has_is_not_believed_in_public(node: Node, peer: Peer) -> None:
    """Not even with the voucher of a member: it was listed to everybody."""
    (first,) = peer.line(1, team=RED)
    script = says(ok(encode_catalog(CatalogMessage(peer.key.public, "x", [first.envelope]))))
    async with scripted(script) as address:
        reach, _ = await look(node, address)
    assert reach.directory.listings() == [] and versions(node, team="red") == []
