"""Who may see what: every role × object × verb × lane. "No" is byte for byte what "there is none" is.

What is absent is asked for in the same words before anything of a team is there, or by an id of nothing.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest

from overlaysync.net.membership import PrivateLane, encode_proof
from overlaysync.net.messages import Address, decode_catalog
from overlaysync.net.server import Server
from overlaysync.ops.offer import Offer
from overlaysync.trust.teams import Binding, Role, Team, new_team
from overlaysync.units import CHUNK
from tests.net.content_provider import FakeShelf, Raw, connect, make_offer, make_shelf
from tests.net.lane import CLIENT_NONCE, RawTls, connect_tls, listening, make_private

RED, BLUE = new_team("red"), new_team("blue")
OLD_RED, GREEN = new_team("red"), new_team("green")
CONTENT = os.urandom(3 * CHUNK)
VERBS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
LANES = ("plain", "tls")
OBJECTS = {
    "catalog": "/v1/catalog",
    "peers": "/v1/peers",
    "manifest": "/v1/manifests/{id}",
    "pages": "/v1/manifests/{id}/pages",
    "page": "/v1/manifests/{id}/pages/{digest}",
    "history": "/v1/manifests/{id}/history",
    "data": "/v1/manifests/{id}/data?slots=0-2",
    "part of the data": "/v1/manifests/{id}/data?slots=1-1",
    "no slots": "/v1/manifests/{id}/data?slots=x",
    "swarm": "/v1/manifests/{id}/swarm?held=0&since=0",
    "joining the swarm": "/v1/manifests/{id}/swarm?member=5f0c9d1e22ab7740&port=40007&by=x&held=1&since=0",
    "no path": "/v1/manifests/{id}/nonesuch",
}


async def _nothing(raw: RawTls) -> None:
    """Proves nothing."""


async def _relayed(raw: RawTls) -> None:
    """What a member proved to another node, which passes it on."""
    binding = await raw.challenge(node=b"m" * 32)
    assert (await raw.prove(RED, binding))[0] == 404


async def _relayed_by_a_clone(raw: RawTls) -> None:
    """What a member proved to another process with this node's key, which passes it on."""
    binding = await raw.challenge(lane=b"p" * 32)
    assert (await raw.prove(RED, binding))[0] == 404


async def _replayed(raw: RawTls) -> None:
    """What a member proved on another connection."""
    await raw.challenge()
    binding = Binding(raw.shown.node, raw.shown.lane, b"s" * 32, CLIENT_NONCE)
    assert (await raw.prove(RED, binding))[0] == 404


async def _reflected(raw: RawTls) -> None:
    """A proof of the kind that servers make."""
    binding = await raw.challenge()
    query = encode_proof(binding.client, RED.prove(Role.SERVER, binding))
    assert (await raw.ask(f"/v1/proof?{query}"))[0] == 404


def _proving(team: Team, status: int) -> Callable[[RawTls], Awaitable[None]]:
    async def prove(raw: RawTls) -> None:
        assert (await raw.prove(team))[0] == status

    return prove


ROLES: dict[str, Callable[[RawTls], Awaitable[None]]] = {
    "member": _proving(RED, 200),
    "member of another team": _proving(BLUE, 200),
    "member of a team elsewhere": _proving(GREEN, 404),
    "ex-member": _proving(OLD_RED, 404),
    "nobody": _nothing,
    "relay": _relayed,
    "relay with a copy of the key": _relayed_by_a_clone,
    "replayer": _replayed,
    "reflector": _reflected,
}
LISTED = {"member": {"red"}, "member of another team": {"blue"}}


@dataclass
class World:
    server: Server
    shelf: FakeShelf
    secret: Offer
    others: list[Offer]


@pytest.fixture
async def world(tmp_path: Path):
    shelf = make_shelf(tmp_path)
    shelf.known = ["192.0.2.7:80"]
    secret = make_private(tmp_path / "secret.raw", CONTENT, shelf.key, RED)
    others = [
        make_offer(tmp_path / "open.raw", os.urandom(CHUNK), shelf.key),
        make_private(tmp_path / "sea.raw", os.urandom(CHUNK), shelf.key, BLUE),
    ]
    server = Server(shelf, lane=PrivateLane(shelf.key, {"red": RED, "blue": BLUE}))
    async with listening(server):
        yield World(server, shelf, secret, others)


async def answer(raw: Raw, method: str, target: str) -> bytes:
    """A whole answer, but for the time in it."""
    raw.writer.write(f"{method} {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head = await raw.reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"Content-Length: (\d+)", head)
    body = await raw.reader.readexactly(int(length[1])) if length and method != "HEAD" else b""
    return re.sub(rb"Date: [^\r]+", b"Date: -", head) + body


def status(text: bytes) -> int:
    return int(text.split(b" ", 2)[1])


def body(text: bytes) -> bytes:
    return text.partition(b"\r\n\r\n")[2]


def target(name: str, manifest: bytes, offer: Offer) -> str:
    return OBJECTS[name].format(id=manifest.hex(), digest=offer.pages.digests[0].hex())


def expected(name: str, offer: Offer) -> bytes | None:
    """What a member is given; None where that is told otherwise."""
    return {
        "manifest": offer.manifest.envelope,
        "pages": offer.page_list,
        "page": offer.page(offer.pages.digests[0]),
        "data": CONTENT,
        "part of the data": CONTENT[CHUNK : 2 * CHUNK],
    }.get(name)


@pytest.mark.holds("N13")
@pytest.mark.red_without("N13", "manifests are shown to every client")
@pytest.mark.red_without("N13", "catalogs list everything")
@pytest.mark.red_without("N13", "a member of any team counts as a member of all teams")
@pytest.mark.red_without("N13", "the ETag covers entries that are not shown")
@pytest.mark.red_without("N13", '"not allowed" has another status than "does not exist"')
@pytest.mark.red_without("N13", "the private lane answers a client that has proved nothing")
@pytest.mark.red_without("N13", "any proof is accepted")
@pytest.mark.red_without("N13", "a proof is not bound to the TLS key of the process that is asked")
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.slow
async def test_every_cell(world: World, role: str) -> None:
    cells = 0
    shelf, secret = world.shelf, world.secret
    address = Address("127.0.0.1", world.server.port)
    async with connect(address) as plain, connect_tls(world.server.tls) as tls:
        await ROLES[role](tls)
        lanes: dict[str, Raw] = {"plain": plain, "tls": tls}

        async def ask(manifest: bytes) -> dict[tuple[str, str, str], bytes]:
            return {
                (name, verb, lane): await answer(lanes[lane], verb, target(name, manifest, secret))
                for name, verb, lane in product(OBJECTS, VERBS, LANES)
            }

        shelf.items = [*world.others]
        absent = await ask(secret.manifest.id)
        shelf.items = [secret, *world.others]
        found = await ask(secret.manifest.id)
        nowhere = await ask(os.urandom(32))

    for cell, text in found.items():
        name, verb, lane = cell
        cells += 1
        if verb != "GET":
            assert status(text) == 405, cell
            assert text == absent[cell] == nowhere[cell], cell
        elif role == "member" and lane == "tls":
            assert status(text) == {"no slots": 400, "no path": 404}.get(name, 200), cell
            if (content := expected(name, secret)) is not None:
                assert body(text) == content, cell
        else:
            assert text == absent[cell], cell
            if name in ("catalog", "peers"):
                open_to = lane == "plain" or role in LISTED
                assert status(text) == (200 if open_to else 404), cell
            else:
                assert status(text) == 404 and body(text) == b"", cell
                assert text == nowhere[cell], cell
    assert cells == len(OBJECTS) * len(VERBS) * len(LANES)
    if role != "member":
        assert not list(shelf.swarms.of(secret.manifest.id).current(0)), (
            "who may not see it is no member of it"
        )


@pytest.mark.red_without("N13", "public images are also shown to members on the private lane")
@pytest.mark.parametrize("role", ROLES)
async def test_catalogs_list_what_has_been_proven_and_no_more(world: World, role: str) -> None:
    world.shelf.items = [world.secret, *world.others]
    offers = {offer.manifest.header.team: offer.manifest.envelope for offer in world.shelf.items}
    async with connect(Address("127.0.0.1", world.server.port)) as plain:
        public = body(await answer(plain, "GET", "/v1/catalog"))
    assert decode_catalog(public).envelopes == (offers[""],)
    assert decode_catalog(public).tls == world.server.tls
    async with connect_tls(world.server.tls) as tls:
        await ROLES[role](tls)
        text = await answer(tls, "GET", "/v1/catalog")
    if role in LISTED:
        assert set(decode_catalog(body(text)).envelopes) == {offers[team] for team in LISTED[role]}
    else:
        assert status(text) == 404


async def test_who_proves_two_teams_sees_both(world: World) -> None:
    world.shelf.items = [world.secret, *world.others]
    async with connect_tls(world.server.tls) as tls:
        assert (await tls.prove(RED))[0] == (await tls.prove(BLUE))[0] == 200
        assert (await tls.prove(GREEN))[0] == 404
        items = json.loads((await tls.ask("/v1/catalog"))[2])["items"]
    assert len(items) == 2


async def test_a_wrong_proof_is_a_path_that_there_is_not(world: World) -> None:
    async with connect_tls(world.server.tls) as tls:
        nowhere = await answer(tls, "GET", "/v1/nonesuch")
        right = encode_proof(CLIENT_NONCE, RED.prove(Role.CLIENT, await tls.challenge()))
        wrong = encode_proof(CLIENT_NONCE, OLD_RED.prove(Role.CLIENT, await tls.challenge()))
        for query in (wrong, right, "", "nonce=", f"{right}0", right.upper(), f"{right}&x=1", f"x{right}"):
            assert await answer(tls, "GET", f"/v1/proof?{query}") == nowhere, query
        assert await answer(tls, "GET", "/v1/catalog") == nowhere


async def test_the_public_lane_knows_no_proofs(world: World) -> None:
    async with connect(Address("127.0.0.1", world.server.port)) as plain:
        nowhere = await answer(plain, "GET", "/v1/nonesuch")
        for path in ("/v1/nonce", f"/v1/proof?{encode_proof(CLIENT_NONCE, bytes(32))}"):
            assert await answer(plain, "GET", path) == nowhere


async def test_what_a_team_has_does_not_change_what_others_are_told(world: World) -> None:
    async def told() -> bytes:
        async with connect(Address("127.0.0.1", world.server.port)) as plain:
            return await answer(plain, "GET", "/v1/catalog")

    world.shelf.items = [*world.others]
    before = await told()
    world.shelf.items = [world.secret, *world.others]
    assert await told() == before
    world.shelf.items = [world.secret]
    assert await told() != before
