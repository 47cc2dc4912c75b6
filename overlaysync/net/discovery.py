"""Discovery by DNS-SD over multicast DNS: say that this node is here, hear who else is.

What is heard is a hint: an address to ask, nothing more. Anybody on the wire can make it up, so everything is
bounded, names are made safe to print, and addresses that no chosen interface reaches directly are dropped.
IPv4 multicast only; the HTTP port found by it may have IPv6 addresses as well.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from zeroconf import (
    DNSQuestionType,
    IPVersion,
    ServiceStateChange,
    Zeroconf,
)
from zeroconf import Error as ZeroconfError
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from overlaysync.errors import NetworkError
from overlaysync.model.names import one_field, printable
from overlaysync.net.bounds import DISCOVERY, DiscoveryBounds
from overlaysync.net.faults import Faults
from overlaysync.net.interfaces import Interface, choose_interfaces, is_on_link, list_interfaces
from overlaysync.net.tidy import BoundedBrowser, Sturdy, Tidy
from overlaysync.net.txt import Item, NodeText, decode_txt, encode_txt

__all__ = ["SERVICE", "Announcement", "Announcer", "Browser", "Item", "Multicast", "Peer"]

SERVICE = "_overlaysync._tcp.local."
_GROUP = "224.0.0.251"
_HINT = "--peer HOST:PORT works without discovery; 'overlaysync doctor' tests the network"
_log = logging.getLogger("overlaysync.net.discovery")


class Multicast:
    """The multicast sockets on some interfaces.

    Args:
        named: names of the interfaces to use; none for all that are usual.
        faults: unexpected exceptions go there.

    Attributes:
        interfaces: those that work.
    """

    def __init__(self, named: Sequence[str], faults: Faults) -> None:
        self._named = named
        self._faults = faults
        self.interfaces: tuple[Interface, ...] = ()
        self._own: frozenset[str] = frozenset()
        self._zeroconf: AsyncZeroconf | None = None

    @property
    def zeroconf(self) -> AsyncZeroconf:
        assert self._zeroconf is not None, "not started"
        return self._zeroconf

    async def start(self) -> None:
        """Open the sockets.

        Raises:
            NetworkError: multicast works on no interface.
            UsageError: a named interface does not exist.
        """
        found = list_interfaces()
        self._own = frozenset(address for interface in found for address in interface.ipv4)
        checked = {interface: why_unusable(interface) for interface in choose_interfaces(self._named, found)}
        self.interfaces = tuple(interface for interface, why in checked.items() if not why)
        addresses = [address for interface in self.interfaces for address in interface.ipv4]
        if not addresses:
            problems = (f"{interface.name}: {why}" for interface, why in checked.items())
            why = "; ".join(problems) or "there is no network interface to use"
            raise NetworkError("Discovery does not work here", why=why, hint=_HINT)
        try:
            zeroconf = Sturdy(self._faults, interfaces=addresses, ip_version=IPVersion.V4Only)
            self._zeroconf = AsyncZeroconf(zc=zeroconf)
            await zeroconf.async_wait_for_start()
            zeroconf.async_add_listener(Tidy(self._faults), None)
        except (OSError, RuntimeError, ZeroconfError) as error:
            await self.close()
            raise NetworkError("Discovery does not work here", why=str(error), hint=_HINT) from None

    def reaches(self, address: str) -> bool:
        """Whether ``address`` is reached without a router, or is this machine's own."""
        return address in self._own or is_on_link(address, self.interfaces)

    async def close(self) -> None:
        """Withdraw what is announced and close the sockets."""
        if self._zeroconf is not None:
            await self._zeroconf.async_close()
            self._zeroconf = None


def why_unusable(interface: Interface) -> str:
    """Why multicast does not work on ``interface``; "" when it does, or may."""
    if not interface.ipv4:
        return "no IPv4 address"
    own = socket.inet_aton(interface.ipv4[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(_GROUP) + own)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, own)
            sock.connect((_GROUP, 5353))  # sends nothing, but needs a route
        except OSError as error:
            return f"no multicast ({error.strerror})"
    return ""


# -- announcing --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a node says of itself.

    Attributes:
        port: where its server listens.
        node_id: its node id.
        revision: of its catalog.
        items: what it has for everybody, the most important first.
        tls: port of its private lane; 0 when it has none.
    """

    port: int
    node_id: str
    revision: str = ""
    items: tuple[Item, ...] = ()
    tls: int = 0


class Announcer:
    """Says that this node is here, and what it has.

    Args:
        label: ``user@host-abc234``; a suffix is added when another node has it.
        interfaces: names of the interfaces to use; none for all that are usual.
        faults: unexpected exceptions go there.
    """

    def __init__(
        self,
        label: str,
        *,
        interfaces: Sequence[str] = (),
        bounds: DiscoveryBounds = DISCOVERY,
        faults: Faults | None = None,
    ) -> None:
        self._bounds = bounds
        self._faults = faults or Faults()
        self._multicast = Multicast(interfaces, self._faults)
        self._name = instance_label(label, bounds.name_length - len("-99"))
        self._announced: Announcement | None = None
        self._info: AsyncServiceInfo | None = None
        self._updater: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    @property
    def name(self) -> str:
        """The instance name in use."""
        return _label(self._info.name) if self._info else self._name

    async def start(self, announcement: Announcement) -> str:
        """Find a name that nobody has, and announce it; returns the interfaces, for people.

        Raises:
            NetworkError: multicast works on no interface, or no name is free.
            UsageError: a named interface does not exist.
        """
        await self._multicast.start()
        self._announced = announcement
        self._info = self._make_info(announcement)
        try:
            sent = await self._multicast.zeroconf.async_register_service(self._info, allow_name_change=True)
        except (ZeroconfError, OSError) as error:
            await self._multicast.close()
            raise NetworkError("Cannot announce this node", why=str(error), hint=_HINT) from None
        self._updater = asyncio.create_task(self._send_updates(sent))
        return ", ".join(interface.name for interface in self._multicast.interfaces)

    async def update(self, announcement: Announcement) -> None:
        """Announce other content, soon: changes that follow each other quickly are sent as one.

        The same again is not sent: it would say that something has changed which is not for everybody.
        """
        if self._announced not in (None, announcement):
            self._announced = announcement
            self._changed.set()

    async def stop(self) -> None:
        """Say goodbye."""
        if self._updater is not None:
            self._updater.cancel()
            await asyncio.gather(self._updater, return_exceptions=True)
        await self._multicast.close()
        self._info = self._announced = None

    async def _send_updates(self, sent: Awaitable[None]) -> None:
        """Send each announcement to its end before the next: repeats of an older one would undo it."""
        while True:
            try:
                await sent
                await asyncio.sleep(self._bounds.updates_s)
                await self._changed.wait()
                self._changed.clear()
                assert self._announced is not None
                self._info = self._make_info(self._announced)
                sent = await self._multicast.zeroconf.async_update_service(self._info)
            except Exception as error:
                self._faults.count(error, "announcing this node")
                sent = asyncio.sleep(0)

    def _make_info(self, said: Announcement) -> AsyncServiceInfo:
        text = NodeText(said.node_id, said.revision, said.items, said.tls)
        return AsyncServiceInfo(
            SERVICE,
            f"{self.name}.{SERVICE}",
            port=said.port,
            properties=encode_txt(text),
            server=f"overlaysync-{said.node_id.replace('-', '')[:12]}-{said.port}.local.",
            parsed_addresses=self._addresses(),
        )

    def _addresses(self) -> list[str]:
        """Where to find us; the loopback only when there is nothing else: elsewhere it is another host."""
        every = [address for interface in self._multicast.interfaces for address in interface.ipv4]
        return [address for address in every if not address.startswith("127.")] or every


def instance_label(label: str, size: int) -> str:
    """``label`` as one DNS label of at most ``size`` bytes; a dot would end it."""
    safe = printable(label).replace(".", "-")
    return safe.encode("utf-8")[:size].decode("utf-8", "ignore") or "node"


# -- browsing ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Peer:
    """A node that somebody announced.

    Attributes:
        label: its instance name, safe to print.
        node_id: the node id it claims, or "".
        addresses: IP addresses to try, the most promising first.
        port: the port to try.
        revision: of its catalog, or "".
        items: what it says it has.
    """

    label: str
    node_id: str
    addresses: tuple[str, ...]
    port: int
    revision: str = ""
    items: tuple[Item, ...] = ()


class Browser:
    """Keeps the peers that are announced.

    When there is no place for another, the one that was heard of longest ago goes, unless it has been
    confirmed: a flood of made-up peers pushes out neither those that answered nor those that come later.
    One host may answer by any number of names, so only some of each host are kept for having answered.
    Anybody can say that a peer has gone, so one is dropped only when it does not answer any more.

    Args:
        interfaces: names of the interfaces to use; none for all that are usual.
        faults: unexpected exceptions go there.

    Attributes:
        peers: by instance name.
        still_there: asks a peer whether it has gone; without it, what is said of it is believed.
    """

    def __init__(
        self,
        *,
        interfaces: Sequence[str] = (),
        bounds: DiscoveryBounds = DISCOVERY,
        faults: Faults | None = None,
    ) -> None:
        self._bounds = bounds
        self._faults = faults or Faults()
        self._multicast = Multicast(interfaces, self._faults)
        self.peers: OrderedDict[str, Peer] = OrderedDict()
        self._own: set[tuple[str, int]] = set()
        self._confirmed: dict[str, str] = {}  # label → host that answered
        self._pending: OrderedDict[str, None] = OrderedDict()
        self._wanted = asyncio.Semaphore(0)
        self._workers: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()
        self._browser: BoundedBrowser | None = None
        self.still_there: Callable[[Peer], Awaitable[bool]] | None = None
        self._doubts: dict[str, asyncio.Task[None]] = {}
        self._asked_at: dict[str, float] = {}
        self._doubting = asyncio.Semaphore(bounds.doubts)

    async def start(self) -> None:
        """Ask who is there, and listen.

        Raises:
            NetworkError: multicast works on no interface.
            UsageError: a named interface does not exist.
        """
        await self._multicast.start()
        self._workers = [asyncio.create_task(self._work()) for _ in range(self._bounds.resolves)]
        # Multicast answers: a unicast one would reach only one of several nodes on this host.
        self._browser = BoundedBrowser(
            self._multicast.zeroconf.zeroconf,
            SERVICE,
            handlers=[self._heard],
            question_type=DNSQuestionType.QM,
            faults=self._faults,
        )

    async def stop(self) -> None:
        """Listen no longer; the peers stay."""
        if self._browser is not None:
            await self._browser.async_cancel()
        tasks = (*self._workers, *self._doubts.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._multicast.close()

    def ignore(self, label: str, port: int) -> None:
        """This is our own announcement, not a peer."""
        self._own.add((label, port))
        if label in self.peers and self.peers[label].port == port:
            self._drop(label)

    @property
    def where(self) -> str:
        """The interfaces that it listens on, for people."""
        return ", ".join(interface.name for interface in self._multicast.interfaces)

    def found(self) -> tuple[Peer, ...]:
        """The peers at this moment."""
        return tuple(self.peers.values())

    async def changed(self) -> None:
        """Wait for the next change of the peers."""
        await self._changed.wait()

    def confirm(self, peer: Peer, host: str) -> None:
        """The peer has answered at ``host``: keep it, however many others are announced."""
        of_host = sum(other == host for other in self._confirmed.values())
        if peer.label in self.peers and of_host < self._bounds.confirmed:
            self._confirmed[peer.label] = host

    # -- inside --------------------------------------------------------------------------------------

    def _heard(
        self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        try:
            self._take_note(name, state_change)
        except Exception as error:
            self._faults.count(error, "hearing of a peer")

    def _take_note(self, name: str, state_change: ServiceStateChange) -> None:
        if state_change is ServiceStateChange.Removed:
            self._doubt(_label(name))
            return
        if (doubt := self._doubts.pop(_label(name), None)) is not None:
            doubt.cancel()
        known = name in self._pending
        self._pending[name] = None
        self._pending.move_to_end(name)
        if len(self._pending) > self._bounds.pending:
            self._pending.popitem(last=False)
        elif not known:
            self._wanted.release()

    async def _work(self) -> None:
        """Resolve what is pending, the newest first: what a flood brought earlier may never be looked at."""
        while True:
            await self._wanted.acquire()
            if self._pending:
                name, _ = self._pending.popitem()
                try:
                    await self._resolve(name)
                except (ZeroconfError, OSError, ValueError) as error:
                    _log.debug("cannot resolve a peer: %s", error)
                except Exception as error:
                    self._faults.count(error, "resolving a peer")
                await asyncio.sleep(self._bounds.pace_s)

    async def _resolve(self, name: str) -> None:
        info = AsyncServiceInfo(SERVICE, name)
        if not await info.async_request(
            self._multicast.zeroconf.zeroconf, self._bounds.resolve_s * 1000, DNSQuestionType.QM
        ):
            return
        text = decode_txt(info.properties)
        label = _label(name)
        if text is None or not info.port or (label, info.port) in self._own:
            return
        addresses = self._reachable(info)
        if addresses:
            self._keep(Peer(label, text.node_id, addresses, info.port, text.revision, text.items))
        else:
            self._doubt(label)

    def _reachable(self, info: AsyncServiceInfo) -> tuple[str, ...]:
        """The announced addresses in our networks, the loopback last."""
        addresses = sorted(
            {text for text in info.parsed_addresses() if self._multicast.reaches(text)},
            key=lambda text: (text.startswith("127.") or text == "::1", text),
        )
        return tuple(addresses[: self._bounds.addresses])

    def _keep(self, peer: Peer) -> None:
        if self.peers.get(peer.label) == peer:
            self.peers.move_to_end(peer.label)
            return
        self.peers[peer.label] = peer
        self.peers.move_to_end(peer.label)
        if len(self.peers) > self._bounds.peers:
            unconfirmed = (label for label in self.peers if label not in self._confirmed)
            self._drop(next(unconfirmed, next(iter(self.peers))))
        self._notify()

    def _doubt(self, label: str) -> None:
        """A peer is said to have gone, or to be where it cannot be reached: drop it unless it answers."""
        if label not in self.peers or label in self._doubts:
            return
        if self.still_there is None:
            self._drop(label)
            return
        self._doubts[label] = asyncio.create_task(self._resolve_doubt(label, self.still_there))
        self._doubts[label].add_done_callback(lambda task: self._no_more_doubt(label, task))

    def _no_more_doubt(self, label: str, task: asyncio.Task[None]) -> None:
        if self._doubts.get(label) is task:
            del self._doubts[label]
        if not task.cancelled() and (error := task.exception()) is not None:
            self._faults.count(error, "asking whether a peer has gone")

    async def _resolve_doubt(self, label: str, still_there: Callable[[Peer], Awaitable[bool]]) -> None:
        """Ask a doubted peer until it does not answer; who is announced anew is doubted no longer."""
        loop = asyncio.get_running_loop()
        while label in self.peers:
            if label in self._asked_at:
                await asyncio.sleep(self._asked_at[label] + self._bounds.doubt_s - loop.time())
            async with self._doubting:
                peer = self.peers.get(label)
                there = peer is not None and await still_there(peer)
            self._asked_at[label] = loop.time()
            if not there:
                self._drop(label)
            elif self._browser is not None:
                self._browser.ask_again_soon()  # it will announce anew what was withdrawn in its name

    def _drop(self, label: str) -> None:
        self._confirmed.pop(label, None)
        self._asked_at.pop(label, None)
        if self.peers.pop(label, None) is not None:
            self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _label(name: str) -> str:
    return one_field(name.removesuffix("." + SERVICE))
