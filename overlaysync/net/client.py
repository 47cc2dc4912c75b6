"""The HTTP client: asks one node for one thing, and believes nothing about it.

Its connections: :mod:`.pool` and :mod:`.dialling`. How an answer is received: :mod:`.receiving`.
What came is bounded here; signatures and ids are checked by the caller, page digests here. Every failure that
is the peer's is a PeerError, so that a transfer can go on with the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from blake3 import blake3

from overlaysync.errors import DecodeError, PeerError
from overlaysync.model.addresses import heard_from
from overlaysync.model.companions import CompanionFile
from overlaysync.model.pages import page_digest
from overlaysync.net.bounds import (
    CLIENT,
    MAX_CATALOG_SIZE,
    MAX_COMPRESSED_BODY,
    MAX_HISTORY_SIZE,
    MAX_PAGE_LIST_SIZE,
    MAX_PAGE_SIZE,
    MAX_PEERS_SIZE,
    MAX_SWARM_SIZE,
    ClientBounds,
)
from overlaysync.net.compression import decompress, decompress_at_most
from overlaysync.net.messages import (
    Address,
    CatalogMessage,
    Endpoint,
    PrivateAddress,
    Runs,
    decode_catalog,
    decode_history,
    decode_peers,
)
from overlaysync.net.pool import Pool, Request
from overlaysync.net.rate import RateLimit
from overlaysync.net.receiving import NOT_MODIFIED, Head
from overlaysync.net.refusals import TakenError, check_status
from overlaysync.net.requests import request_for
from overlaysync.net.swarm_messages import (
    Claim,
    SwarmAnswer,
    SwarmQuestion,
    decode_swarm,
    decode_taken,
    encode_data_query,
    encode_question,
)
from overlaysync.net.vault_wire import MAX_LIST_SIZE, POSSESSION_SIZE, VaultOffer, decode_heads, decode_offer
from overlaysync.swarm.link import Compression, Link
from overlaysync.trust.teams import Team
from overlaysync.vault.objects import Kind, Stored

if TYPE_CHECKING:
    from overlaysync.trust.certificate import Shown


_MAX_NUMBER = 20
"""Bytes of a number in an answer."""

_TAKEN = 409


@dataclass(frozen=True, slots=True)
class CatalogAnswer:
    """A peer's answer to the question for its catalog.

    Attributes:
        catalog: the catalog; None when it is still the one with the ETag that was sent.
        etag: to be sent the next time; "" when the peer gave none.
    """

    catalog: CatalogMessage | None
    etag: str


class Client:
    """Asks peers. Close it with :meth:`close`, or use it as an asynchronous context manager.

    Args:
        limit: a rate for all image data received.
        compression: whether image data are asked for compressed; pages always, but for ``NEVER``.
        bounds: limits.
        teams: those that this node is in, by name.
    """

    def __init__(
        self,
        *,
        limit: RateLimit | None = None,
        compression: Compression = Compression.AUTO,
        bounds: ClientBounds = CLIENT,
        teams: Mapping[str, Team] | None = None,
    ) -> None:
        self._link = Link(compression)
        self._packs_pages = compression is not Compression.NEVER
        self._limit = limit or RateLimit(None)
        self._pool = Pool(bounds, self._limit, self._link, teams or {})

    @property
    def rate(self) -> int | None:
        """Bytes per second that all image data together may have."""
        return self._limit.rate

    @property
    def arrived(self) -> int:
        """Bytes of image data that have come so far, with those that wait in the kernel to be read."""
        return self._link.total + self._pool.waiting_size

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection."""
        self._pool.close()

    # -- small things --------------------------------------------------------------------------------

    async def catalog(self, address: Endpoint, etag: str = "") -> CatalogAnswer:
        """Return what the peer serves to everybody or to a team.

        Nothing when its catalog still has this ETag.

        Raises:
            GoneError: one of the two is not in the team.
        """
        head, body = await self._small(address, "catalog", MAX_CATALOG_SIZE, etag=etag)
        if head.status == NOT_MODIFIED:
            return CatalogAnswer(None, etag)
        return CatalogAnswer(decode_catalog(body), head.etag)

    async def private_catalog(self, address: PrivateAddress) -> CatalogMessage:
        """Return what the peer serves to a team that both are in.

        Raises:
            GoneError: they are not.
        """
        answer = await self.catalog(address)
        assert answer.catalog is not None
        return answer.catalog

    async def peers(self, address: Endpoint) -> tuple[Address, ...]:
        """Return the peers that the peer knows."""
        told = decode_peers(await self._body(address, "peers", MAX_PEERS_SIZE))
        return tuple(Address(heard_from(host, address.host), port) for host, port in told)

    async def page_list(self, address: Endpoint, manifest_id: bytes, size: int) -> bytes:
        """Return an encoded page list, which must have ``size`` bytes."""
        if not 0 < size <= MAX_PAGE_LIST_SIZE:
            raise DecodeError(f"a page list cannot have {size} bytes")
        body = await self._body(address, f"manifests/{manifest_id.hex()}/pages", size)
        if len(body) != size:
            raise PeerError(f"{address} sent a page list of {len(body)} bytes instead of {size}")
        return body

    async def page(self, address: Endpoint, manifest_id: bytes, digest: bytes) -> tuple[bytes, int]:
        """Return a page, verified, and how many bytes it had on the wire."""
        path = f"manifests/{manifest_id.hex()}/pages/{digest.hex()}"
        head, body = await self._small(address, path, MAX_PAGE_SIZE, compress=self._packs_pages)
        page = decompress_at_most(body, MAX_PAGE_SIZE) if head.compressed else body
        if page_digest(page) != digest:
            raise PeerError(f"{address} sent a page with another digest")
        return page, len(body)

    async def companion(self, address: Endpoint, manifest_id: bytes, wanted: CompanionFile) -> bytes:
        """Return a companion of a manifest, verified.

        Raises:
            GoneError: the peer does not have it.
            PeerError: it sent something else.
        """
        path = f"manifests/{manifest_id.hex()}/companions/{wanted.digest}"
        _, data = await self._small(address, path, max(1, wanted.size), data=True)
        if len(data) != wanted.size or blake3(data).hexdigest() != wanted.digest:
            raise PeerError(f"{address} sent another file than was asked for")
        return data

    async def history(self, address: Endpoint, manifest_id: bytes) -> tuple[bytes, ...]:
        """Return the unopened envelopes of the versions before one that the peer serves, newest first."""
        path = f"manifests/{manifest_id.hex()}/history"
        return decode_history(await self._body(address, path, MAX_HISTORY_SIZE))

    async def swarm(
        self, address: Endpoint, manifest_id: bytes, pieces: int, question: SwarmQuestion
    ) -> SwarmAnswer:
        """Return what the peer has of a content of so many pieces, and who else fetches it."""
        path = f"manifests/{manifest_id.hex()}/swarm?{encode_question(question)}"
        answer = decode_swarm(await self._body(address, path, MAX_SWARM_SIZE), pieces)
        members = (replace(one, host=heard_from(one.host, address.host)) for one in answer.members)
        return replace(answer, members=tuple(members))

    # -- vaults --------------------------------------------------------------------------------------

    async def vault(self, address: Endpoint) -> VaultOffer:
        """Return what the peer says of its vault.

        Raises:
            GoneError: it serves none.
        """
        return decode_offer(await self._body(address, "vault", MAX_LIST_SIZE))

    async def vault_heads(self, address: Endpoint, tag: str, kind: Kind = Kind.HEAD) -> list[Stored]:
        """Return the heads that the peer has of a space, or the records of drills."""
        return decode_heads(await self._body(address, f"vault/{tag}/{kind}", MAX_LIST_SIZE), tag, kind)

    async def vault_size(self, address: Endpoint, name: str) -> int:
        """Return the size of an object that the peer keeps.

        Raises:
            GoneError: it does not keep it.
        """
        body = await self._body(address, f"vault/{name}?size", _MAX_NUMBER)
        if not body.isdigit():
            raise PeerError(f"{address} sent no size")
        return int(body)

    async def vault_read(self, address: Endpoint, name: str, offset: int, buffer: memoryview) -> int:
        """Fill ``buffer`` with an object from ``offset`` on; returns the bytes, fewer at its end.

        Nothing is verified. After an error or a cancellation what the buffer holds is undefined.

        Raises:
            GoneError: the peer does not keep it.
        """
        path = f"vault/{name}?from={offset}&length={len(buffer)}"
        request = Request(request_for(address, path), buffer, at_most=True)
        head = await self._pool.ask(address, request, small=False)
        check_status(address, head.status, str(head.retry_after))
        return head.length

    async def vault_proof(self, address: Endpoint, name: str, nonce: bytes) -> bytes:
        """Return what the peer says to show that it has a pack.

        Raises:
            GoneError: it does not have it, or has proven much lately.
        """
        return await self._body(address, f"vault/{name}?proof={nonce.hex()}", POSSESSION_SIZE)

    async def _body(self, address: Endpoint, path: str, limit: int) -> bytes:
        """Return a small body, of at most ``limit`` bytes."""
        return (await self._small(address, path, limit))[1]

    async def _small(
        self,
        address: Endpoint,
        path: str,
        limit: int,
        *,
        etag: str = "",
        compress: bool = False,
        data: bool = False,
    ) -> tuple[Head, bytes]:
        """Return what is answered with status 200, or 304 when ``etag`` is still good.

        At most ``limit`` bytes; ``data``: on a connection of those for image data.
        """
        buffer = memoryview(bytearray(limit))
        text = request_for(address, path, etag=etag, compress=compress)
        head = await self._pool.ask(address, Request(text, buffer, compress, at_most=True), small=not data)
        if not (etag and head.status == NOT_MODIFIED):
            check_status(address, head.status, str(head.retry_after))
        return head, bytes(buffer[: head.length])

    # -- image data ----------------------------------------------------------------------------------

    async def read_slots(
        self,
        address: Endpoint,
        manifest_id: bytes,
        runs: Runs,
        buffer: memoryview,
        *,
        claim: Claim | None = None,
        pieces: int = 0,
    ) -> int:
        """Fill ``buffer`` with the bytes of these (first slot, count) runs, in order; nothing is verified.

        The buffer must have exactly the length of the data. After an error or a cancellation what it holds is
        undefined, and it is not written to again.

        Args:
            address, manifest_id, runs, buffer: what is asked of whom, and where it goes.
            claim: says that this node will pass it on.
            pieces: pieces there are, when there is a claim.

        Returns:
            bytes of the body on the wire: fewer than the buffer has when they came compressed.

        Raises:
            BusyError: the peer serves too many others.
            TakenError: it has handed this to another who claimed it.
            GoneError: it does not serve this manifest, or its image has changed.
            PeerError: it sent too little, too much, too slowly, or nothing.
        """
        path = f"manifests/{manifest_id.hex()}/data?{encode_data_query(runs, claim)}"
        compress = self._link.compress and len(buffer) <= MAX_COMPRESSED_BODY
        text = request_for(address, path, compress=compress)
        head = await self._pool.ask(address, Request(text, buffer, compress))
        if claim and head.status == _TAKEN:
            raise TakenError(f"{address} has handed that to others", decode_taken(head.taken, pieces))
        check_status(address, head.status, str(head.retry_after))
        if head.compressed:
            await _unpack(address, buffer, head.length)
        return head.length

    # -- the private lane ----------------------------------------------------------------------------

    async def shown(self, address: PrivateAddress) -> Shown:
        """Return what the process behind a private lane shows of itself in a handshake; nothing is asked.

        Raises:
            PeerError: there is no connection, or no certificate that can be judged.
        """
        return await self._pool.dialler.shown(address)


async def _unpack(address: Endpoint, buffer: memoryview, length: int) -> None:
    """Replace the compressed body at the beginning of ``buffer`` by what it holds."""
    # The thread has bytes of its own: after a cancellation the buffer is used for something else.
    packed = bytes(buffer[:length])
    try:
        buffer[:] = await asyncio.to_thread(decompress, packed, len(buffer))
    except PeerError as error:
        raise PeerError(f"No data from {address}", why=str(error)) from None
