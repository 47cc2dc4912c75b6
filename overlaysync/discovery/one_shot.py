"""A question to all nodes whose answers come straight back to this process (RFC 6762, 5.1 and 6.7).

A node multicasts the same answer once a second at most, so in a busy room a new asker may wait for more than
that; and all processes of a machine hear what is multicast, or flooded, through buffers of the same port. A
question from a port of its own is answered at once, to that port.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial

from zeroconf import (  # type: ignore[attr-defined] # not all in its __all__
    DNSIncoming,
    DNSOutgoing,
    DNSQuestion,
    Zeroconf,
    current_time_millis,
)

from overlaysync.discovery.interfaces import Interface
from overlaysync.discovery.multicast import PORT, open_socket
from overlaysync.model.addresses import is_link_local
from overlaysync.net.faults import Faults

_AGAIN_S = 1.0
_LISTEN_S = 3.0
_QUERY, _PTR, _IN = 0, 12, 1
_PACKET_SIZE = 9000
"""Of the longest packet of multicast DNS (RFC 6762, 17)."""


class OneShot:
    """Asks on all interfaces, twice, and listens for a moment.

    Args:
        service: the type of service that is asked for.
        reaches: whether an address is on a network of ours; answers from elsewhere are dropped.
        faults: unexpected exceptions go there.
    """

    def __init__(self, service: str, reaches: Callable[[str], bool], faults: Faults) -> None:
        self._service = service
        self._reaches = reaches
        self._faults = faults
        self._task: asyncio.Task[None] | None = None

    def ask(self, interfaces: Iterable[Interface], zeroconf: Zeroconf) -> None:
        """Ask in the background; who answered an earlier question is not listened to any more.

        Args:
            interfaces: where.
            zeroconf: takes the answers.
        """
        self.stop()
        self._task = asyncio.create_task(self._ask(tuple(interfaces), zeroconf))

    def stop(self) -> None:
        """Listen no longer."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _ask(self, interfaces: tuple[Interface, ...], zeroconf: Zeroconf) -> None:
        loop = asyncio.get_running_loop()
        endpoints: list[tuple[asyncio.DatagramTransport, tuple[object, ...]]] = []
        try:
            for interface in interfaces:
                for version in interface.versions:
                    with suppress(OSError):
                        sock, group = open_socket(interface, version)
                        listener = partial(Listener, zeroconf, self._reaches, interface, self._faults)
                        transport, _ = await loop.create_datagram_endpoint(listener, sock=sock)
                        endpoints.append((transport, group))
            for pause_s in (_AGAIN_S, _LISTEN_S):
                for transport, group in endpoints:
                    transport.sendto(self._packet(), group)
                await asyncio.sleep(pause_s)
        except Exception as error:
            self._faults.count(error, "asking for nodes")
        finally:
            for transport, _ in endpoints:
                transport.close()

    def _packet(self) -> bytes:
        """Return a question unlike all others: the same packet within a second would not be answered."""
        question = DNSOutgoing(_QUERY, multicast=False, id_=secrets.randbelow(1 << 16))
        question.add_question(DNSQuestion(self._service, _PTR, _IN))
        return question.packets()[0]


class Listener(asyncio.DatagramProtocol):
    """Hands answers on, as if they had been multicast.

    Args:
        zeroconf: takes them.
        reaches: whether an address is on a network of ours.
        interface: where they come from.
        faults: unexpected exceptions go there.
    """

    def __init__(
        self, zeroconf: Zeroconf, reaches: Callable[[str], bool], interface: Interface, faults: Faults
    ) -> None:
        self._zeroconf = zeroconf
        self._reaches = reaches
        self._interface = interface
        self._faults = faults

    def datagram_received(self, data: bytes, source: tuple[str, int]) -> None:
        """Take in an answer."""
        host, port = source[0].partition("%")[0], source[1]
        scope = f"%{self._interface.name}" if is_link_local(host) else ""
        if port != PORT or len(data) > _PACKET_SIZE or not self._reaches(host + scope):
            return
        try:
            index = self._interface.index if scope else None
            message = DNSIncoming(data, (host, port), index, current_time_millis())
            if message.valid and not message.is_query():
                self._zeroconf.record_manager.async_updates_from_response(message)
        except Exception as error:
            self._faults.count(error, "looking at an answer to a question")
