"""The connections of a client, by peer: a bounded number to each, used again while they are open.

Small things (catalog, manifests, pages) and image data have connections of their own to each peer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from overlaysync.errors import PeerError
from overlaysync.net.bounds import ClientBounds
from overlaysync.net.dialling import Dialler
from overlaysync.net.messages import Endpoint, PrivateAddress
from overlaysync.net.rate import RateLimit
from overlaysync.net.receiving import ConnectionLostError, DataConnection, Head
from overlaysync.net.records import RecordSocket
from overlaysync.net.refusals import no_data
from overlaysync.swarm.link import Link
from overlaysync.trust.teams import Team


@dataclass(frozen=True, slots=True)
class Request:
    """A question to a peer.

    Attributes:
        text: as it is sent.
        buffer: where the body of the answer goes.
        compress: whether the body may come compressed.
        at_most: whether the body may be shorter than the buffer.
    """

    text: bytes
    buffer: memoryview
    compress: bool = False
    at_most: bool = False


@dataclass(slots=True)
class _Host:
    """Connections to one address."""

    places: asyncio.Semaphore
    idle: list[DataConnection] = field(default_factory=list)
    users: int = 0


class Pool:
    """Connections to peers.

    Args:
        bounds: limits.
        limit: a rate for all image data received.
        link: is told what comes.
        teams: those that this node is in, by name.

    Attributes:
        dialler: connects.
    """

    def __init__(self, bounds: ClientBounds, limit: RateLimit, link: Link, teams: Mapping[str, Team]) -> None:
        def made(sock: RecordSocket | None) -> DataConnection:
            return DataConnection(bounds, limit, link, sock)

        self._bounds = bounds
        self.dialler = Dialler(bounds, teams, made)
        self._hosts: dict[tuple[Endpoint, bool], _Host] = {}
        self._answering: set[DataConnection] = set()
        self._sweeping: asyncio.TimerHandle | None = None

    @property
    def waiting_size(self) -> int:
        """Bytes that have come on all connections and wait in the kernel to be read."""
        return sum(connection.waiting_size for connection in self._answering)

    def close(self) -> None:
        """Close every connection."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        for host in self._hosts.values():
            for connection in host.idle:
                connection.abort()
        self._hosts.clear()

    async def ask(self, address: Endpoint, request: Request, *, small: bool = False) -> Head:
        """Ask a peer when a place for it is free; the body of the answer is in the request's buffer then.

        Raises:
            PeerError: there is no answer.
        """
        async with self._place(address, small=small) as host:
            return await self._exchange(address, host, request)

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

    async def _exchange(self, address: Endpoint, host: _Host, request: Request) -> Head:
        """Send the request on a connection that is open already, or else on a new one."""
        while host.idle:
            connection = host.idle.pop()
            if not connection.usable or connection.idle_for > self._bounds.idle_s:
                connection.abort()
                continue
            try:
                return await self._ask(host, connection, _begin(connection, request))
            except ConnectionLostError:
                continue  # closed by the peer while it was idle: no reason to doubt the peer
        if isinstance(address, PrivateAddress):
            connection = await self.dialler.open_private(address)
            answer = _begin(connection, request)
        else:
            connection = self.dialler.unconnected()
            answer = _begin(connection, request)
            await self.dialler.connect(address, connection)
        try:
            return await self._ask(host, connection, answer)
        except PeerError as error:
            raise no_data(address, error) from None

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


def _begin(connection: DataConnection, request: Request) -> asyncio.Future[Head]:
    return connection.begin(request.text, request.buffer, compress=request.compress, at_most=request.at_most)
