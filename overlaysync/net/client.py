"""The HTTP client: asks one node for one thing, and believes nothing about it.

Small things (catalog, manifests, pages) and image data have connections of their own to each peer; on the
private lane each begins with a proof of membership. How an answer is received: :mod:`.receiving`.
What came is bounded here; signatures and ids are checked by the caller, page digests here. Every failure that
is the peer's is a PeerError, so that a transfer can go on with the others.
"""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from blake3 import blake3

from overlaysync.errors import DecodeError, OverlaysyncError, PeerError
from overlaysync.model.addresses import heard_from
from overlaysync.model.companions import CompanionFile
from overlaysync.model.names import printable
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
from overlaysync.net.compression import ENCODING, decompress, decompress_at_most
from overlaysync.net.membership import encode_proof
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
from overlaysync.net.rate import RateLimit
from overlaysync.net.receiving import NOT_MODIFIED, ConnectionLostError, DataConnection, Head, SilentError
from overlaysync.net.swarm_messages import (
    Claim,
    SwarmAnswer,
    SwarmQuestion,
    decode_swarm,
    decode_taken,
    encode_data_query,
    encode_question,
)
from overlaysync.net.tls import SERVER_NAME, client_context, connect, shown_by
from overlaysync.net.vault_wire import MAX_LIST_SIZE, POSSESSION_SIZE, VaultOffer, decode_heads, decode_offer
from overlaysync.swarm.handed import News
from overlaysync.swarm.link import Compression, Link
from overlaysync.trust.teams import NONCE_SIZE, PROOF_SIZE, Binding, Role, Team, proven
from overlaysync.vault.objects import Stored

if TYPE_CHECKING:
    from overlaysync.trust.certificate import Shown


_MAX_NUMBER = 20
"""Bytes of a number in an answer."""

_TAKEN = 409
_NEXT_ADDRESS_S = 0.25
"""Of a name with several addresses the next is tried after so long, as RFC 8305 has it."""


class BusyError(PeerError):
    """The peer is busy; ``retry_after`` seconds later it may not be."""

    def __init__(self, what: str, retry_after: float) -> None:
        super().__init__(what)
        self.retry_after = retry_after


class TakenError(PeerError):
    """The peer has handed this to others, who are about to pass it on: ``news`` says what."""

    def __init__(self, what: str, news: News) -> None:
        super().__init__(what)
        self.news = news


class GoneError(PeerError):
    """The peer does not serve this, or no longer."""


@dataclass(frozen=True, slots=True)
class CatalogAnswer:
    """A peer's answer to the question for its catalog.

    Attributes:
        catalog: the catalog; None when it is still the one with the ETag that was sent.
        etag: to be sent the next time; "" when the peer gave none.
    """

    catalog: CatalogMessage | None
    etag: str


@dataclass(slots=True)
class _Host:
    """Connections to one address."""

    places: asyncio.Semaphore
    idle: list[DataConnection] = field(default_factory=list)
    users: int = 0


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
        self._bounds = bounds
        self._teams = teams or {}
        self._link = Link(compression)
        self._packs_pages = compression is not Compression.NEVER
        self._limit = limit or RateLimit(None)
        self._hosts: dict[tuple[Endpoint, bool], _Host] = {}
        self._answering: set[DataConnection] = set()
        self._sweeping: asyncio.TimerHandle | None = None

    @property
    def rate(self) -> int | None:
        """Bytes per second that all image data together may have."""
        return self._limit.rate

    @property
    def arrived(self) -> int:
        """Bytes of image data that have come so far, with those that wait in the kernel to be read."""
        return self._link.total + sum(connection.waiting_size for connection in self._answering)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        for host in self._hosts.values():
            for connection in host.idle:
                connection.abort()
        self._hosts.clear()

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

    async def vault_heads(self, address: Endpoint, tag: str) -> list[Stored]:
        """Return the heads that the peer has of a space."""
        return decode_heads(await self._body(address, f"vault/{tag}/heads", MAX_LIST_SIZE), tag)

    async def vault_size(self, address: Endpoint, name: str) -> int:
        """Return the size of an object that the peer keeps.

        Raises:
            GoneError: it does not keep it.
        """
        body = await self._body(address, f"vault/{name}?size", _MAX_NUMBER)
        if not body.isdigit():
            raise PeerError(f"{address} sent no size")
        return int(body)

    async def vault_bytes(self, address: Endpoint, name: str, offset: int, length: int) -> bytes:
        """Return ``length`` bytes of an object from ``offset`` on, fewer at its end; nothing is verified.

        Raises:
            GoneError: the peer does not keep it.
        """
        path = f"vault/{name}?from={offset}&length={length}"
        return (await self._small(address, path, length, data=True))[1]

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
        request = _request(address, path, etag=etag, compress=compress)
        async with self._place(address, small=not data) as host:
            head = await self._exchange(address, host, request, buffer, compress=compress, at_most=True)
        if not (etag and head.status == NOT_MODIFIED):
            _check_status(address, head.status, str(head.retry_after))
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
        request = _request(address, path, compress=compress)
        async with self._place(address) as host:
            head = await self._exchange(address, host, request, buffer, compress=compress)
        if claim and head.status == _TAKEN:
            raise TakenError(f"{address} has handed that to others", decode_taken(head.taken, pieces))
        _check_status(address, head.status, str(head.retry_after))
        if head.compressed:
            await _unpack(address, buffer, head.length)
        return head.length

    @asynccontextmanager
    async def _place(self, address: Endpoint, *, small: bool = False) -> AsyncIterator[_Host]:
        """One of the places for connections to ``address``, which is forgotten when nobody uses it.

        Small things have places of their own: they do not wait for image data.
        """
        key = address, small
        host = self._hosts.get(key)
        if host is None:
            host = self._hosts[key] = _Host(asyncio.Semaphore(self._bounds.connections_per_host))
        host.users += 1
        try:
            async with host.places:
                yield host
        finally:
            host.users -= 1
            if not host.users and not host.idle:
                self._hosts.pop(key, None)

    async def _exchange(
        self,
        address: Endpoint,
        host: _Host,
        request: bytes,
        buffer: memoryview,
        *,
        compress: bool = False,
        at_most: bool = False,
    ) -> Head:
        """Send the request on a connection that is open already, or else on a new one."""
        while host.idle:
            connection = host.idle.pop()
            if not connection.usable or connection.idle_for > self._bounds.idle_s:
                connection.abort()
                continue
            answer = connection.begin(request, buffer, compress=compress, at_most=at_most)
            try:
                return await self._ask(host, connection, answer)
            except ConnectionLostError:
                continue  # closed by the peer while it was idle: no reason to doubt the peer
        if isinstance(address, PrivateAddress):
            connection = await self._open_private(address)
            answer = connection.begin(request, buffer, compress=compress, at_most=at_most)
        else:
            connection = DataConnection(self._bounds, self._limit, self._link)
            answer = connection.begin(request, buffer, compress=compress, at_most=at_most)
            await self._connect(address, connection)
        try:
            return await self._ask(host, connection, answer)
        except PeerError as error:
            raise _no_data(address, error) from None

    async def _connect(self, address: Address, connection: DataConnection) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with _connecting(address, self._bounds.connect_s):
                await loop.create_connection(
                    lambda: connection, address.host, address.port, happy_eyeballs_delay=_NEXT_ADDRESS_S
                )
        except BaseException:
            connection.abort()
            raise

    async def _connect_tls(self, address: PrivateAddress) -> DataConnection:
        async with _connecting(address, self._bounds.connect_s):
            sock = await connect(address.host, address.port, self._bounds.records)
        connection = DataConnection(self._bounds, self._limit, self._link, sock)
        try:
            async with _connecting(address, self._bounds.handshake_s):
                await asyncio.get_running_loop().create_connection(
                    lambda: connection,
                    sock=sock,
                    ssl=client_context(),
                    server_hostname=SERVER_NAME,
                    ssl_handshake_timeout=self._bounds.handshake_s,
                    ssl_shutdown_timeout=self._bounds.connect_s,
                )
        except BaseException:
            connection.abort()
            sock.close()
            raise
        return connection

    # -- the private lane ----------------------------------------------------------------------------

    async def shown(self, address: PrivateAddress) -> Shown:
        """Return what the process behind a private lane shows of itself in a handshake; nothing is asked.

        Raises:
            PeerError: there is no connection, or no certificate that can be judged.
        """
        connection = await self._connect_tls(address)
        try:
            return _shown_behind(address, connection)
        finally:
            connection.abort()

    async def _open_private(self, address: PrivateAddress) -> DataConnection:
        """Connect, see who answers, and prove to each other to be in the team; nothing else is said before.

        Raises:
            GoneError: this node or the other is not in the team.
            PeerError: another key answers than was expected, or there is no connection.
        """
        team = self._teams.get(address.team)
        if team is None:
            raise GoneError(f"this machine is not in the team of {address}")
        connection = await self._connect_tls(address)
        try:
            shown = _shown_behind(address, connection)
            if address.key not in (b"", shown.node):
                raise PeerError(f"{address} is another node than was expected")
            await self._prove(address, connection, team, shown)
            return connection
        except (PeerError, DecodeError) as error:
            connection.abort()
            raise _no_data(address, error) from None
        except BaseException:
            connection.abort()
            raise

    async def _prove(
        self, address: PrivateAddress, connection: DataConnection, team: Team, shown: Shown
    ) -> None:
        nonce = memoryview(bytearray(NONCE_SIZE))
        head = await connection.begin(_request(address, "nonce"), nonce)
        _check_status(address, head.status, str(head.retry_after))
        binding = Binding(shown.node, shown.lane, bytes(nonce), secrets.token_bytes(NONCE_SIZE))
        query = encode_proof(binding.client, team.prove(Role.CLIENT, binding))
        proof = memoryview(bytearray(PROOF_SIZE))
        head = await connection.begin(_request(address, f"proof?{query}"), proof)
        _check_status(address, head.status, str(head.retry_after))
        if not proven(Role.SERVER, (team,), binding, bytes(proof)):
            raise GoneError(f"{address} is not in the team")

    async def _ask(self, host: _Host, connection: DataConnection, answer: asyncio.Future[Head]) -> Head:
        self._answering.add(connection)
        try:
            head = await answer
        except BaseException:
            connection.abort()
            raise
        finally:
            self._answering.discard(connection)
        if connection.usable:
            host.idle.append(connection)
            self._sweep_later()
        return head

    def _sweep_later(self) -> None:
        if self._sweeping is None:
            loop = asyncio.get_running_loop()
            self._sweeping = loop.call_later(self._bounds.idle_s, self._sweep)

    def _sweep(self) -> None:
        """Close connections that will not be used again: of those once asked, many are not asked any more."""
        self._sweeping = None
        for key, host in list(self._hosts.items()):
            for connection in host.idle:
                if not connection.usable or connection.idle_for >= self._bounds.idle_s:
                    connection.abort()
            host.idle = [connection for connection in host.idle if connection.usable]
            if host.idle:
                self._sweep_later()
            elif not host.users:
                del self._hosts[key]


@asynccontextmanager
async def _connecting(address: Endpoint, limit_s: float) -> AsyncIterator[None]:
    """Make of what fails inside, or takes longer, what it says of the peer.

    Raises:
        PeerError: nothing was connected.
    """
    try:
        async with asyncio.timeout(limit_s):
            yield
    except (TimeoutError, ConnectionAbortedError):  # the latter is how a handshake ends that takes too long
        raise SilentError(f"{address} does not answer") from None
    except ssl.SSLError:
        raise PeerError(f"{address} does not answer", why="it does not speak TLS 1.3") from None
    except OSError as error:
        raise _unreachable(address, error) from None


def _shown_behind(address: PrivateAddress, connection: DataConnection) -> Shown:
    """Return what the peer has shown of itself.

    Raises:
        PeerError: nothing, or a certificate that cannot even be judged.
    """
    assert connection.transport is not None
    try:
        return shown_by(connection.transport)
    except Exception as error:
        raise PeerError(f"{address} shows no usable certificate", why=printable(str(error))) from None


def _no_data(address: Endpoint, error: OverlaysyncError) -> PeerError:
    """Return the failure of a new connection, with the address.

    Of what a caller tells apart the kind is kept.
    """
    if isinstance(error, BusyError | GoneError):
        return error
    kind = SilentError if isinstance(error, SilentError) else PeerError
    return kind(f"No data from {address}", why=str(error))


def _unreachable(address: Endpoint, error: OSError) -> PeerError:
    """Why there is no connection: somebody refused it, or nobody is there at present."""
    silent = error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT, errno.ENETDOWN)
    return (SilentError if silent else PeerError)(f"{address} does not answer", why=_reason(error))


async def _unpack(address: Endpoint, buffer: memoryview, length: int) -> None:
    """Replace the compressed body at the beginning of ``buffer`` by what it holds."""
    # The thread has bytes of its own: after a cancellation the buffer is used for something else.
    packed = bytes(buffer[:length])
    try:
        buffer[:] = await asyncio.to_thread(decompress, packed, len(buffer))
    except PeerError as error:
        raise PeerError(f"No data from {address}", why=str(error)) from None


def _reason(error: OSError) -> str:
    """Why a connection failed, without the address that asyncio repeats."""
    if isinstance(error, socket.gaierror):
        missing = error.errno in (socket.EAI_NONAME, socket.EAI_NODATA)
        return "no such host" if missing else f"its name cannot be looked up ({error.strerror})"
    return os.strerror(error.errno).lower() if error.errno else printable(str(error))


def _host_field(address: Endpoint) -> str:
    """Return the Host field: a scope is this machine's own (RFC 6874, section 4)."""
    return str(Address(address.host.partition("%")[0], address.port))


def _request(address: Endpoint, path: str, *, etag: str = "", compress: bool = False) -> bytes:
    fields = [f"GET /v1/{path} HTTP/1.1", f"Host: {_host_field(address)}", "User-Agent: overlaysync"]
    if etag:
        fields.append(f"If-None-Match: {etag}")
    if compress:
        fields.append(f"Accept-Encoding: {ENCODING}")
    return "\r\n".join([*fields, "", ""]).encode("ascii")


def _check_status(address: Endpoint, status: int, retry_after: str) -> None:
    if status == 200:
        return
    if status == 503:
        seconds = int(retry_after) if retry_after.isdecimal() and len(retry_after) < 7 else 1
        raise BusyError(f"{address} is busy", min(max(seconds, 1), CLIENT.max_retry_s))
    if status in (404, 410):
        raise GoneError(f"{address} does not serve this" + (" any more" if status == 410 else ""))
    raise PeerError(f"{address} answers {status}")
