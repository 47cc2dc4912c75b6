"""TLS for the private lane: version 1.3, a certificate that the node key signed, all of it within bounds.

The standard library cannot be asked to accept one key, so it checks no chain here: TLS itself shows that the
other side has the private half of its certificate's key, and :func:`shown_by` which node key has signed that.
The caller compares it before it sends anything. A client has none: it proves what it knows.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable, Coroutine, Sequence
from functools import cache
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from overlaysync.errors import DecodeError
from overlaysync.net.bounds import ServerBounds
from overlaysync.net.crowd import Crowd
from overlaysync.net.faults import Faults
from overlaysync.net.machine import machine_mark
from overlaysync.net.records import RecordSocket

if TYPE_CHECKING:
    from overlaysync.trust.certificate import Shown
    from overlaysync.trust.keys import NodeKey

SERVER_NAME = "overlaysync"
"""What clients send as the server's name, which goes in the clear: the same for all."""

_PAUSE_S = 0.1
_GRACE_S = 0.5
"""An honest handshake is over by then."""


def server_context(key: NodeKey) -> tuple[ssl.SSLContext, Shown]:
    """Return what a node's private lane answers with, and what that shows of it: a new key each time."""
    from overlaysync.trust.certificate import make_certificate

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0  # nothing is resumed: each connection shows the key anew
    pem, shown = make_certificate(key, machine_mark())
    # The library loads certificates from files only; this one, and its key, never are on a disk.
    descriptor = os.memfd_create("certificate")
    try:
        os.write(descriptor, pem)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
    return context, shown


@cache
def client_context() -> ssl.SSLContext:
    """Return what a client asks with."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # see above: shown_by says what counts
    return context


def shown_by(transport: asyncio.BaseTransport) -> Shown:
    """Return what the other side of a TLS connection has shown of itself.

    Raises:
        DecodeError: nothing.
    """
    from overlaysync.trust.certificate import read_certificate

    connection = transport.get_extra_info("ssl_object")
    certificate = connection.getpeercert(binary_form=True) if connection else None
    if certificate is None:
        raise DecodeError("no certificate")
    return read_certificate(certificate)


async def connect(host: str, port: int, records: int) -> RecordSocket:
    """Return a TCP connection on which TLS can be spoken.

    Raises:
        OSError: there is none.
    """
    loop = asyncio.get_running_loop()
    try:  # an address needs no thread
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    failure = OSError("no address")
    for family, kind, protocol, _, address in found:
        try:
            sock = RecordSocket(family, kind, protocol, records=records)
        except OSError as error:
            failure = error
            continue
        try:
            await loop.sock_connect(sock, address)
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure


def is_private(transport: asyncio.BaseTransport | None) -> bool:
    """Whether a connection came by TLS."""
    return transport is not None and transport.get_extra_info("ssl_object") is not None


class TlsListener:
    """Accepts connections, and hands on those whose handshake succeeds.

    asyncio's own TLS server tells nobody of those that never finish theirs, so they could not be bounded.

    Args:
        factory: makes the protocol of a connection.
        key: the node's.
        bounds: limits.
        faults: unexpected exceptions go there.

    Attributes:
        shown: what clients have been shown; None before the first.
    """

    def __init__(
        self, factory: Callable[[], asyncio.BaseProtocol], key: NodeKey, bounds: ServerBounds, faults: Faults
    ) -> None:
        self._faults = faults
        self._factory = factory
        self._key = key
        self._bounds = bounds
        self._context: ssl.SSLContext | None = None
        self.shown: Shown | None = None
        self._sockets: Sequence[socket.socket] = ()
        self._tasks: set[asyncio.Task[None]] = set()
        self._shaking: Crowd[asyncio.Task[None]] = Crowd()
        self._connections: WeakValueDictionary[asyncio.BaseProtocol, RecordSocket] = WeakValueDictionary()

    def start(self, sockets: Sequence[socket.socket]) -> None:
        """Accept on these listening sockets, which are closed at the end."""
        self._sockets = sockets
        for sock in sockets:
            sock.setblocking(False)
            self._start(self._accept(sock))

    async def stop(self) -> None:
        """Accept no more, and give up handshakes under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for sock in self._sockets:
            sock.close()

    def renew(self, protocol: asyncio.BaseProtocol) -> None:
        """Let the client send as much again: a request has come on this connection."""
        sock = self._connections.get(protocol)
        if sock is not None:
            sock.renew()

    def _start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, address = await loop.sock_accept(listener)
            except OSError:  # no descriptor is left, or the client has gone already
                await asyncio.sleep(_PAUSE_S)
                continue
            except Exception as error:
                self._faults.count(error, "accepting a connection")
                await asyncio.sleep(_PAUSE_S)
                continue
            host = str(address[0])
            if not self._make_room(host):
                sock.close()
                continue
            counting = RecordSocket(fileno=sock.detach(), records=self._bounds.records)
            shaking = self._start(self._shake(counting))
            self._shaking.add(shaking, host)
            shaking.add_done_callback(self._shaking.remove)

    def _make_room(self, address: str) -> bool:
        """Whether another handshake may begin, if need be instead of the oldest of the host with the most."""
        if self._shaking.count(address) >= self._bounds.connections_per_address:
            return False
        if len(self._shaking) < self._bounds.handshakes:
            return True
        oldest = self._shaking.first_of_largest()
        if oldest is None or not (
            self._shaking.gives_way(oldest, address) or self._shaking.age(oldest) > _GRACE_S
        ):
            return False
        self._shaking.remove(oldest)
        oldest.cancel()
        return True

    async def _shake(self, sock: RecordSocket) -> None:
        def protocol() -> asyncio.BaseProtocol:
            made = self._factory()
            self._connections[made] = sock
            return made

        try:
            if self._context is None:  # made when it is needed: most nodes never see a member of a team
                self._context, self.shown = server_context(self._key)
            await asyncio.get_running_loop().connect_accepted_socket(
                protocol,
                sock,
                ssl=self._context,
                ssl_handshake_timeout=self._bounds.handshake_s,
                ssl_shutdown_timeout=self._bounds.stop_s,
            )
        except OSError:  # not TLS 1.3, too slow, gone, too many records; no descriptor is left
            sock.close()
        except Exception as error:
            sock.close()
            self._faults.count(error, "shaking hands")
        except BaseException:
            sock.close()
            raise
