"""A node with a private lane in a test, and clients of it that can say anything."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from overlaysync.net.membership import encode_proof
from overlaysync.net.messages import PrivateAddress
from overlaysync.net.server import Server
from overlaysync.net.tls import client_context, shown_by
from overlaysync.ops.offer import Offer
from overlaysync.trust.certificate import Shown
from overlaysync.trust.envelope import sign_header
from overlaysync.trust.keys import NodeKey
from overlaysync.trust.teams import Binding, Role, Team
from tests.net.content_provider import Raw, make_offer

CLIENT_NONCE = b"c" * 32


def make_private(path: Path, content: bytes, key: NodeKey, team: Team) -> Offer:
    """As :func:`make_offer`, for a team."""
    offer = make_offer(path, content, key)
    offer.manifest = sign_header(msgspec.structs.replace(offer.manifest.header, team=team.name), key, team)
    return offer


@asynccontextmanager
async def listening(server: Server) -> AsyncIterator[Server]:
    """The server on free ports of the loopback."""
    await server.start(["127.0.0.1"])
    try:
        yield server
    finally:
        await server.stop()


def lane(server: Server, team: Team | str = "red", *, key: bytes = b"") -> PrivateAddress:
    return PrivateAddress("127.0.0.1", server.tls, team if isinstance(team, str) else team.name, key)


class RawTls(Raw):
    """A TLS connection on which anything can be said."""

    @property
    def shown(self) -> Shown:
        return shown_by(self.writer.transport)

    async def challenge(self, *, node: bytes = b"", lane: bytes = b"") -> Binding:
        """What a proof on this connection is bound to; to another ``node`` or ``lane`` if one is given."""
        status, _, nonce = await self.ask("/v1/nonce")
        assert status == 200 and len(nonce) == 32
        return Binding(node or self.shown.node, lane or self.shown.lane, nonce, CLIENT_NONCE)

    async def prove(self, team: Team, binding: Binding | None = None) -> tuple[int, dict[str, str], bytes]:
        binding = binding or await self.challenge()
        query = encode_proof(binding.client, team.prove(Role.CLIENT, binding))
        return await self.ask(f"/v1/proof?{query}")


@asynccontextmanager
async def connect_tls(port: int, *, context: ssl.SSLContext | None = None) -> AsyncIterator[RawTls]:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context or client_context(), server_hostname="overlaysync"
    )
    try:
        yield RawTls(reader, writer)
    finally:
        writer.close()
        try:
            async with asyncio.timeout(2):
                await writer.wait_closed()
        except (OSError, TimeoutError):
            pass
