"""The sockets of multicast DNS, IPv4 and IPv6, on the interfaces as they come, change and go.

The loopback has no IPv6 multicast: where nothing else is up, nodes on one machine find each other by IPv4.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections import deque
from collections.abc import Iterable, Sequence

from zeroconf import Error as ZeroconfError
from zeroconf import Zeroconf
from zeroconf.asyncio import AsyncZeroconf

from overlaysync.errors import NetworkError, OverlaysyncError
from overlaysync.net.bounds import DISCOVERY
from overlaysync.net.faults import Faults
from overlaysync.net.interfaces import (
    Interface,
    LinkNews,
    check_names,
    choose_interfaces,
    is_link_local,
    is_on_link,
    list_interfaces,
)
from overlaysync.net.tidy import Sturdy, Tidy

HINT = "--peer HOST works without discovery; 'overlaysync doctor' tests the network"
FOLLOW_S = 2.0
"""How often the kernel is asked whether interfaces or addresses have changed."""

_GROUP, _GROUP_6 = "224.0.0.251", "ff02::fb"
PORT = 5353
_TTL = 255  # RFC 6762, 11
_IP_MULTICAST_ALL, _IPV6_MULTICAST_ALL = 49, 29  # linux/in.h, linux/in6.h


class Multicast:
    """Multicast DNS on some interfaces, which are looked at again with :meth:`look`.

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
        self._found: tuple[Interface, ...] = ()
        self._own: frozenset[str] = frozenset()
        self._problems: dict[str, str] = {}
        self._wanted: dict[str | int, int] = {}
        self._indexes: dict[str | int, int] = {}
        self._news: LinkNews | None = None
        self._zeroconf: AsyncZeroconf | None = None

    @property
    def zeroconf(self) -> AsyncZeroconf:
        assert self._zeroconf is not None, "not started"
        return self._zeroconf

    async def start(self, *, patient: bool = False) -> None:
        """Open the sockets.

        Args:
            patient: whether it is enough that multicast may work later.

        Raises:
            NetworkError: multicast works on no interface.
            UsageError: a named interface does not exist.
        """
        if patient:
            check_names(self._named)
        self._news = LinkNews()  # before they are listed, so that no change is missed
        try:
            self._choose(list_interfaces(), missing_ok=patient)
            if not self.interfaces and not patient:
                raise NetworkError("Discovery does not work here", why=self.problem, hint=HINT)
            zeroconf = Sturdy(self._faults, interfaces=list(self._wanted))
            self._zeroconf, self._indexes = AsyncZeroconf(zc=zeroconf), self._wanted
            await zeroconf.async_wait_for_start()
            _hear_only_joined(zeroconf)
            zeroconf.async_add_listener(Tidy(self._faults), None)
        except OverlaysyncError:
            await self.close()
            raise
        except (OSError, RuntimeError, ZeroconfError) as error:
            await self.close()
            raise NetworkError("Discovery does not work here", why=str(error), hint=HINT) from None

    @property
    def problem(self) -> str:
        """Why there is no interface that works."""
        problems = (f"{name}: {why}" for name, why in self._problems.items())
        return "; ".join(problems) or "there is no network interface to use"

    def look(self) -> bool:
        """Look at the interfaces anew; return whether others are used now, or other addresses of them."""
        before = self.interfaces
        found = list_interfaces() if self._news is None or self._news.any() else self._found
        if found != self._found or self._problems:
            self._choose(found, missing_ok=True)
        return self.interfaces != before

    async def adapt(self) -> None:
        """Open and close sockets until they are those of the interfaces; what stays is not touched."""
        zeroconf, sockets = self.zeroconf.zeroconf, self._wanted
        if sockets == self._indexes and len(zeroconf.engine.senders) >= len(sockets):
            return
        # An interface that was unplugged between two looks is another one, even if it looks the same.
        same = [place for place, index in sockets.items() if self._indexes.get(place, index) == index]
        self._indexes = sockets
        if len(same) < len(sockets):
            await zeroconf.async_update_interfaces(same)
        await zeroconf.async_update_interfaces(list(sockets))
        _hear_only_joined(zeroconf)

    def reaches(self, address: str) -> bool:
        """Whether ``address`` is reached without a router, or is this machine's own."""
        return address in self._own or is_on_link(address, self.interfaces)

    def reachable(self, addresses: Iterable[str]) -> tuple[str, ...]:
        """Return those of the announced ``addresses`` that are reached directly, the most promising first.

        IPv4 comes first: such an address can be told to others and typed, a link-local one cannot. The
        loopback comes last. The scope of a link-local address is the interface it was heard on.
        """
        named = {self._named_scope(address) for address in addresses}
        reached = sorted(filter(self.reaches, named), key=lambda address: (_rank(address), address))
        return tuple(reached[: DISCOVERY.addresses])

    async def close(self) -> None:
        """Withdraw what is announced and close the sockets."""
        if self._news is not None:
            self._news.close()
            self._news = None
        if self._zeroconf is not None:
            await self._zeroconf.async_close()
            self._zeroconf = None

    def _choose(self, found: tuple[Interface, ...], *, missing_ok: bool) -> None:
        chosen = choose_interfaces(self._named, found, missing_ok=missing_ok)
        checked = {interface: why_unusable(interface) for interface in chosen}
        self._problems = {interface.name: why for interface, why in checked.items() if why}
        self.interfaces = tuple(interface for interface, why in checked.items() if not why)
        self._found = found
        every = {str(subnet.ip) for interface in found for subnet in interface.addresses}
        self._own = frozenset(address for address in every if not is_link_local(address))
        self._wanted = self._sockets()

    def _sockets(self) -> dict[str | int, int]:
        """Return what the library calls the sockets, and the index of the interface that each is for.

        For IPv6 it takes an address, or an index, for which it takes the first address of that interface.
        Only from a link-local address others know where an announcement comes from, but interfaces with one
        hardware address (VLANs) may have the same.
        """
        link_local = [interface.link_local for interface in self._found]
        sockets: dict[str | int, int] = {}
        for interface in self.interfaces:
            if not _why_no_ipv4(interface):
                sockets[interface.ipv4[0]] = interface.index
            if not _why_no_ipv6(interface):
                alone = link_local.count(interface.link_local) == 1
                sockets[interface.link_local if alone else interface.index] = interface.index
        return sockets

    def _named_scope(self, address: str) -> str:
        """Return the address with the interface's name for its number.

        Without a scope that is none of ours.
        """
        host, _, scope = address.partition("%")
        names = (interface.name for interface in self.interfaces if str(interface.index) == scope)
        name = next(names, "") if is_link_local(host) else ""
        return f"{host}%{name}" if name else host


class Repeats:
    """What is done again a few times after a change: a switch may pass nothing on for half a minute."""

    _AFTER_S = (2.0, 8.0, 32.0)

    def __init__(self) -> None:
        self._due: deque[float] = deque()

    def begin(self, now: float) -> None:
        """Something has changed."""
        self._due = deque(now + after for after in self._AFTER_S)

    def due(self, now: float) -> bool:
        """Whether it is time to do it again."""
        if not self._due or now < self._due[0]:
            return False
        self._due.popleft()
        return True


def _hear_only_joined(zeroconf: Zeroconf) -> None:
    """Take no packets of groups that other sockets of this machine have joined.

    Linux passes these on as well. A node would answer on interfaces that were not chosen, or with the
    loopback's address where it does not know the network yet.
    """
    for reader in zeroconf.engine.readers:
        sock = reader.transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL, 0)


def why_unusable(interface: Interface) -> str:
    """Why multicast does not work on ``interface``; "" when it does, or may."""
    no_ipv4, no_ipv6 = _why_no_ipv4(interface), _why_no_ipv6(interface)
    if not no_ipv4 or not no_ipv6:
        return ""
    return no_ipv4 if interface.ipv4 else no_ipv6


def open_socket(interface: Interface, version: int) -> tuple[socket.socket, tuple[object, ...]]:
    """Return a socket that sends on ``interface``, from a port of its own, and the group's address for it.

    Args:
        interface: one that has an address of this version.
        version: of IP, 4 or 6.

    Raises:
        OSError: multicast does not work there.
    """
    family, group = (socket.AF_INET, _GROUP) if version == 4 else (socket.AF_INET6, _GROUP_6)
    index = struct.pack("@I", interface.index)
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        if version == 4:
            own = socket.inet_aton(interface.ipv4[0])
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(group) + own)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, own)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, _TTL)
            return sock, (group, PORT)
        member = socket.inet_pton(family, group) + index
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, member)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, _TTL)
        sock.bind((interface.link_local, 0, 0, interface.index))
        return sock, (group, PORT, 0, interface.index)
    except OSError:
        sock.close()
        raise


def _why_no_ipv4(interface: Interface) -> str:
    return _why_not_sent(interface, 4) if interface.ipv4 else "no IPv4 address"


def _why_no_ipv6(interface: Interface) -> str:
    if not interface.link_local:
        return "neither an IPv4 nor a link-local IPv6 address"
    return _why_not_sent(interface, 6)


def _why_not_sent(interface: Interface, version: int) -> str:
    try:
        sock, group = open_socket(interface, version)
        with sock:
            sock.connect(group)  # sends nothing, but needs a route
    except OSError as error:
        return f"no multicast ({error.strerror})"
    return ""


def _rank(address: str) -> int:
    ip = ipaddress.ip_address(address)
    if ip.is_loopback:
        return 3
    return (ip.version == 6) + is_link_local(address)
