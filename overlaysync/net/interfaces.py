"""Network interfaces: which there are, which to use, and which addresses are reached without a router.

Left out unless named by the user: what container and VM tools make (one host may have a hundred taps, and
guests behind them can speak mDNS). The loopback counts, so that several nodes on one host find each other.
"""

from __future__ import annotations

import array
import fcntl
import ipaddress
import re
import socket
import struct
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import ifaddr

from overlaysync.errors import UsageError
from overlaysync.model.names import printable
from overlaysync.net.bounds import LEAST_TOLD_PORT

Subnet: TypeAlias = ipaddress.IPv4Interface | ipaddress.IPv6Interface
"""An address together with its network."""

_VIRTUAL = re.compile(r"(docker|veth|virbr|vnet|tap).*|ovs-system|br-[0-9a-f]{12}")
_IF_INET6 = Path("/proc/net/if_inet6")
_UP, _RUNNING = 0x1, 0x40
_FLEETING = 0x01 | 0x20  # temporary, deprecated
_UNCHECKED = 0x08 | 0x40  # a duplicate, or tentative: nothing can be sent from it
_DRIVERS = 1024
_LINKS, _IPV4_ADDRESSES, _IPV6_ADDRESSES = 0x1, 0x10, 0x100  # RTMGRP_* of linux/rtnetlink.h
_NEWS_AT_ONCE = 1024
_SIOCGIFFLAGS = 0x8913
_SIOCETHTOOL = 0x8946
_ETHTOOL_GDRVINFO = 0x3


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface.

    Attributes:
        name: such as ``eth0``.
        addresses: its addresses with their networks, without those that the kernel still checks for
            duplicates.
        left_out: why it is not used unless named; "" when it is.
        index: the kernel's number of it; another interface of this name has another one.
    fleeting: IPv6 addresses that are replaced from time to time, or about to go.
    """

    name: str
    addresses: tuple[Subnet, ...]
    left_out: str = ""
    index: int = 0
    fleeting: frozenset[str] = frozenset()

    @property
    def ipv4(self) -> tuple[str, ...]:
        """Its IPv4 addresses."""
        return tuple(str(subnet.ip) for subnet in self.addresses if subnet.version == 4)

    @property
    def link_local(self) -> str:
        """Its link-local IPv6 address, without the scope; "" when there is none, as on the loopback."""
        found = (str(subnet.ip) for subnet in self.addresses if is_link_local(str(subnet.ip)))
        return next(found, "")

    @property
    def versions(self) -> tuple[int, ...]:
        """Of IP, in which multicast may work on it: IPv6 needs a link-local address."""
        return (*((4,) if self.ipv4 else ()), *((6,) if self.link_local else ()))

    @property
    def lasting(self) -> tuple[str, ...]:
        """The addresses to tell others of: IPv4, then IPv6 ones that last, the link-local one at the end.

        IPv6 only where it works on the link, which is where there is a link-local address.
        """
        ipv6 = [str(subnet.ip) for subnet in self.addresses if subnet.version == 6] if self.link_local else []
        kept = dict.fromkeys(address for address in ipv6 if address not in self.fleeting)
        return (*self.ipv4, *sorted(kept, key=is_link_local))


def list_interfaces() -> tuple[Interface, ...]:
    """All interfaces that have an address."""
    adapters = sorted(ifaddr.get_adapters(), key=lambda adapter: adapter.index or 0)
    flags = _ipv6_flags()
    found = (_interface(adapter, flags) for adapter in adapters)
    return tuple(interface for interface in found if interface.addresses)


def choose_interfaces(
    named: Sequence[str] = (), found: Iterable[Interface] | None = None, *, missing_ok: bool = False
) -> tuple[Interface, ...]:
    """Return the interfaces to use: those ``named``, or all that are not left out.

    Args:
        named: names; one that is unplugged, or has no address yet, may be there later (``missing_ok``).
        found: the interfaces there are.
        missing_ok: whether to pass over named ones that cannot be used at present.

    Raises:
        UsageError: a named one does not exist, or has no address.
    """
    known = {interface.name: interface for interface in (list_interfaces() if found is None else found)}
    for name in named:
        if name not in known and not missing_ok:
            raise UsageError(
                f"There is no network interface '{printable(name)}' with an address",
                hint=f"choose from: {', '.join(known)}",
            )
    if named:
        return tuple(known[name] for name in dict.fromkeys(named) if name in known)
    return tuple(interface for interface in known.values() if not interface.left_out)


def check_names(names: Iterable[str]) -> None:
    """Check that there are interfaces of these names, whether they have addresses or not.

    Raises:
        UsageError: one does not exist.
    """
    known = [name for _, name in socket.if_nameindex()]
    for name in names:
        if name not in known:
            raise UsageError(
                f"There is no network interface '{printable(name)}'", hint=f"choose from: {', '.join(known)}"
            )


class LinkNews:
    """Says whether the kernel has told of a change of interfaces or addresses (rtnetlink(7)).

    What has changed is not read: a list of all interfaces says it. That costs 30 ms where a hundred are,
    so it is made only when there is news. Where no such socket is allowed there always is.
    """

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        with suppress(OSError):
            self._socket = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
            self._socket.bind((0, _LINKS | _IPV4_ADDRESSES | _IPV6_ADDRESSES))

    def any(self) -> bool:
        """Whether there is news since the last time."""
        if self._socket is None:
            return True
        for told in range(_NEWS_AT_ONCE):
            try:
                self._socket.recv(1)  # the rest of the message is dropped
            except BlockingIOError:
                return told > 0
            except OSError:  # there was so much that some of it is lost
                continue
        return True

    def close(self) -> None:
        """Listen no longer."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def is_own(address: str, interfaces: Iterable[Interface]) -> bool:
    """Whether ``address`` is one of this machine's, which has these interfaces."""
    host, _, scope = address.partition("%")
    return host.startswith("127.") or any(
        host == str(subnet.ip) and (not scope or _is_scope(scope, interface))
        for interface in interfaces
        for subnet in interface.addresses
    )


def is_on_link(address: str, interfaces: Iterable[Interface]) -> bool:
    """Whether ``address`` is in a network of one of these interfaces; a link-local one needs a scope."""
    host, _, scope = address.partition("%")
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return False
    if ip.is_multicast or ip.is_unspecified:
        return False
    if is_link_local(host):
        return any(interface.link_local and _is_scope(scope, interface) for interface in interfaces)
    return any(
        ip in subnet.network and ip != _broadcast(subnet)
        for interface in interfaces
        for subnet in interface.addresses
    )


def is_link_local(host: str) -> bool:
    """Whether ``host`` is an IPv6 address that means something on one link only."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return False
    return ip.version == 6 and ip.is_link_local


def heard_from(host: str, teller: str) -> str:
    """Return the address ``host`` as the peer at ``teller`` must have meant it.

    A link-local address has the scope of the link that the peer is on, whatever it says.
    """
    if not is_link_local(host):
        return host
    bare, (_, mark, scope) = host.partition("%")[0], teller.partition("%")
    return f"{bare}{mark}{scope}"


def told_to(host: str, asker: str) -> str:
    """Return the address ``host`` as it is told to ``asker``; "" when it would mean nothing there.

    A link-local address means something on its own link alone, and its scope on this machine alone.
    """
    if not is_link_local(host):
        return host
    bare, _, scope = host.partition("%")
    return bare if scope and scope == asker.partition("%")[2] else ""


def is_one_host(address: str, *, far: bool) -> bool:
    """Whether an IP address is one host's for all: not just on this machine, nor (``far``) on one link."""
    ip = ipaddress.ip_address(address)
    if ip.version == 6 and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    special = ip.is_loopback or ip.is_unspecified or ip.is_multicast or ip.is_reserved
    return not (special or (far and ip.is_link_local))


def is_told_port(port: int) -> bool:
    """Whether a port that another told or announced may be dialled: no system service's."""
    return LEAST_TOLD_PORT <= port < 1 << 16


def host_key(address: str) -> str:
    """Return what counts as one host: an IPv4 address, the /64 network of an IPv6 address, or a name."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if ip.version == 6 and ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ip) if ip.version == 4 else str(ipaddress.ip_network((ip, 64), strict=False))


def _broadcast(subnet: Subnet) -> object:
    network = subnet.network
    return network.broadcast_address if network.version == 4 and network.prefixlen < 31 else None


def _is_scope(scope: str, interface: Interface) -> bool:
    return scope in (interface.name, str(interface.index))


def _interface(adapter: ifaddr.Adapter, flags: Mapping[tuple[str, str], int]) -> Interface:
    name = adapter.nice_name
    addresses, fleeting = [], set()
    for ip in adapter.ips:
        text = ip.ip if isinstance(ip.ip, str) else ip.ip[0].partition("%")[0]
        flag = flags.get((name, text), 0)
        if flag & _UNCHECKED:
            continue
        if flag & _FLEETING:
            fleeting.add(text)
        addresses.append(ipaddress.ip_interface(f"{text}/{ip.network_prefix}"))
    index = adapter.index or 0
    return Interface(name, tuple(addresses), _why_left_out(name, index), index, frozenset(fleeting))


def _ipv6_flags() -> dict[tuple[str, str], int]:
    """Return what the kernel says of each (interface name, IPv6 address): IFA_F_* of linux/if_addr.h."""
    try:
        lines = _IF_INET6.read_text().splitlines()
    except OSError:  # a kernel without IPv6
        return {}
    rows = (line.split() for line in lines)
    return {(row[5], str(ipaddress.IPv6Address(int(row[0], 16)))): int(row[4], 16) for row in rows}


def is_left_out(name: str) -> bool:
    """Whether the name is one that container and VM tools give (``br-`` and twelve digits: Docker)."""
    return bool(_VIRTUAL.fullmatch(name))


def _why_left_out(name: str, index: int) -> str:
    if is_left_out(name):
        return "made by a container or VM tool"
    flags = _flags(name)
    if not flags & _UP:
        return "down"
    if not flags & _RUNNING:
        return "no cable, or no link"
    if _driver(name, index) == "openvswitch":
        return "internal port of Open vSwitch"
    return ""


def _flags(name: str) -> int:
    """IFF_* of linux/if.h."""
    try:
        answer = _ask(_SIOCGIFFLAGS, struct.pack("16sH22x", name.encode()[:15], 0))
    except OSError:  # it has just gone
        return 0
    return int(struct.unpack_from("H", answer, 16)[0])


def _ask(question: int, request: bytes) -> bytes:
    """Ask the kernel of an interface (netdevice(7))."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        return fcntl.ioctl(sock, question, request)


@lru_cache(_DRIVERS)
def _driver(name: str, _index: int) -> str:
    """Return the kernel driver of an interface (ETHTOOL_GDRVINFO of linux/ethtool.h), "" for none.

    Another interface of the same name has another index, and may have another driver.
    """
    info = array.array("B", struct.pack("I192x", _ETHTOOL_GDRVINFO))
    address, _ = info.buffer_info()
    try:
        _ask(_SIOCETHTOOL, struct.pack("16sP", name.encode()[:15], address))
    except OSError:
        return ""
    return info[4:36].tobytes().rstrip(b"\0").decode("ascii", "replace")
