"""aiohttp's low-level server with a bound on connections, in all and for each client address.

When there is no place left, a connection that is idle makes room (an honest client just opens a new one),
first the longest idle one of the host with the most; when none is idle, the oldest of that host, if the
newcomer's has fewer; else the newcomer is told to come back. A connection counts until it is gone:
one that was closed while its client takes nothing still has its descriptor and its memory. How many places
there are depends on the descriptors that the process may have: a server that has none left answers nobody.
"""

from __future__ import annotations

import asyncio
import logging
import random
import resource
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from aiohttp import web

from overlaysync.net.bounds import ServerBounds
from overlaysync.net.crowd import Crowd

MAX_DESCRIPTORS = 65536
"""Open files to ask the system for; more would not be used."""

_OTHER_DESCRIPTORS = 256
"""What a node needs besides connections that it has accepted: images, the catalog, its own questions."""

_LEAST_CONNECTIONS = 8

_quiet = logging.getLogger("overlaysync.http")
_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: %d\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
)
_quiet.setLevel(logging.CRITICAL)  # whatever strangers send is no event; our own errors are logged elsewhere


def retry_after(bounds: ServerBounds) -> int:
    """Seconds after which to come back: clients sent away together should not come back together."""
    return bounds.retry_s + random.randint(0, bounds.retry_s)


def reset(transport: asyncio.Transport) -> None:
    """End a connection now; what its client has not taken goes as well.

    Else the kernel keeps that for minutes, and megabytes of it.
    """
    with suppress(OSError):
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def raise_descriptor_limit() -> int:
    """Let this process have as many open files as it may, within reason; return how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # a sandbox may forbid it
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return MAX_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft


def fitting(bounds: ServerBounds, descriptors: int) -> ServerBounds:
    """Return ``bounds`` with no more connections and handshakes than so many file descriptors allow."""
    room = max(_LEAST_CONNECTIONS, descriptors - bounds.bodies - min(_OTHER_DESCRIPTORS, descriptors // 4))
    handshakes = min(bounds.handshakes, room // 4)
    return replace(bounds, connections=min(bounds.connections, room - handshakes), handshakes=handshakes)


class BoundedServer(web.Server):
    """Counts connections by what aiohttp calls when one opens or closes."""

    def __init__(
        self, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], bounds: ServerBounds
    ) -> None:
        super().__init__(
            handler,
            handler_cancellation=True,  # who has gone does not stay in line
            access_log=None,
            logger=_quiet,
            keepalive_timeout=bounds.keepalive_s,
            max_line_size=bounds.line_size,
            max_field_size=bounds.field_size,
            max_headers=bounds.fields,
            lingering_time=0,
            auto_decompress=False,
        )
        self._bounds = bounds
        self._open: Crowd[web.RequestHandler] = Crowd()
        self._transports: dict[web.RequestHandler, asyncio.Transport] = {}
        self._idle: dict[web.RequestHandler, None] = {}  # in the order they became idle

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        peer = transport.get_extra_info("peername")
        address = str(peer[0]) if peer else ""
        if not self._make_room(address):
            transport.write(_BUSY % (retry_after(self._bounds)))
            transport.close()
            return
        self._transports[handler] = transport
        self._limit_silence(transport)
        self._open.add(handler, address)
        self._idle[handler] = None

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self._forget(handler)

    def _limit_silence(self, transport: asyncio.Transport) -> None:
        """Let the kernel end the connection when its client takes nothing for too long, closed or not."""
        with suppress(OSError):
            sock = transport.get_extra_info("socket")
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self._bounds.write_s * 1000))

    @contextmanager
    def busy(self, request: web.BaseRequest) -> Iterator[None]:
        """While a request is answered, its connection is not idle."""
        handler = request.protocol
        self._idle.pop(handler, None)
        try:
            yield
        finally:
            if handler in self._open:
                self._idle[handler] = None

    def _make_room(self, address: str) -> bool:
        if self._open.count(address) >= self._bounds.connections_per_address:
            return self._close_idle(one for one in self._idle if self._open.is_of(one, address))
        if len(self._open) < self._bounds.connections:
            return True
        longest = self._open.first_of_largest(self._idle)
        return self._close_idle(self._idle if longest is None else [longest]) or self._break_off(address)

    def _close_idle(self, idle: Iterable[web.RequestHandler]) -> bool:
        """Close the first of these, if there is one."""
        for handler in idle:
            transport = self._transports[handler]
            self._forget(handler)
            handler.force_close()
            if transport.get_write_buffer_size():  # closing waits for a client that takes nothing
                reset(transport)
            return True
        return False

    def _break_off(self, address: str) -> bool:
        """End the oldest connection of the host with the most, if that of ``address`` has fewer."""
        oldest = self._open.first_of_largest()
        if oldest is None or not self._open.gives_way(oldest, address):
            return False
        transport = self._transports[oldest]
        self._forget(oldest)
        reset(transport)
        return True

    def _forget(self, handler: web.RequestHandler) -> None:
        self._idle.pop(handler, None)
        self._transports.pop(handler, None)
        self._open.remove(handler)
