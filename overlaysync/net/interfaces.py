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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import ifaddr

from overlaysync.errors import UsageError
from overlaysync.model.names import printable
from overlaysync.net.bounds import LEAST_TOLD_PORT

Subnet: TypeAlias = ipaddress.IPv4Interface | ipaddress.IPv6Interface
"""An address together with its network."""

_VIRTUAL = re.compile(r"(docker|veth|virbr|vnet|tap).*|ovs-system|br-[0-9a-f]{12}")
_SYSFS = Path("/sys/class/net")
_UP = 0x1
_SIOCETHTOOL = 0x8946
_ETHTOOL_GDRVINFO = 0x3


@dataclass(frozen=True, slots=True)
class Interface:
    """Attributes:
    name: such as ``eth0``.
    addresses: its addresses with their networks.
    left_out: why it is not used unless named; "" when it is.
    """

    name: str
    addresses: tuple[Subnet, ...]
    left_out: str = ""

    @property
    def ipv4(self) -> tuple[str, ...]:
        """Its IPv4 addresses."""
        return tuple(str(subnet.ip) for subnet in self.addresses if subnet.version == 4)


def list_interfaces() -> tuple[Interface, ...]:
    """All interfaces that have an address."""
    adapters = sorted(ifaddr.get_adapters(), key=lambda adapter: adapter.index or 0)
    found = (_interface(adapter) for adapter in adapters)
    return tuple(interface for interface in found if interface.addresses)


def choose_interfaces(
    named: Sequence[str] = (), found: Iterable[Interface] | None = None
) -> tuple[Interface, ...]:
    """The interfaces to use: those ``named``, or all that are not left out.

    Raises:
        UsageError: a named one does not exist, or has no address.
    """
    known = {interface.name: interface for interface in (list_interfaces() if found is None else found)}
    for name in named:
        if name not in known:
            raise UsageError(
                f"There is no network interface '{printable(name)}' with an address",
                hint=f"choose from: {', '.join(known)}",
            )
    if named:
        return tuple(known[name] for name in dict.fromkeys(named))
    return tuple(interface for interface in known.values() if not interface.left_out)


def is_own(address: str, interfaces: Iterable[Interface]) -> bool:
    """Whether ``address`` is one of this machine's, which has these interfaces."""
    return address.startswith("127.") or any(
        address == str(subnet.ip) for interface in interfaces for subnet in interface.addresses
    )


def is_on_link(address: str, interfaces: Iterable[Interface]) -> bool:
    """Whether ``address`` is in a network of one of these interfaces."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if ip.is_multicast or ip.is_unspecified or (ip.version == 6 and ip.is_link_local):
        return False  # the last would need a scope, which no announcement carries
    return any(
        ip in subnet.network and ip != _broadcast(subnet)
        for interface in interfaces
        for subnet in interface.addresses
    )


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
    """What counts as one host: an IPv4 address, the /64 network of an IPv6 address, or a name."""
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


def _interface(adapter: ifaddr.Adapter) -> Interface:
    name = adapter.nice_name
    addresses = []
    for ip in adapter.ips:
        text = ip.ip if isinstance(ip.ip, str) else ip.ip[0]
        addresses.append(ipaddress.ip_interface(f"{text}/{ip.network_prefix}"))
    return Interface(name, tuple(addresses), _why_left_out(name))


def is_left_out(name: str) -> bool:
    """Whether the name is one that container and VM tools give (``br-`` and twelve digits: Docker)."""
    return bool(_VIRTUAL.fullmatch(name))


def _why_left_out(name: str) -> str:
    if not _is_up(name):
        return "down"
    if is_left_out(name):
        return "made by a container or VM tool"
    if _driver(name) == "openvswitch":
        return "internal port of Open vSwitch"
    return ""


def _is_up(name: str) -> bool:
    try:
        return bool(int((_SYSFS / name / "flags").read_text(), 16) & _UP)
    except (OSError, ValueError):
        return True


def _driver(name: str) -> str:
    """The kernel driver behind an interface (ETHTOOL_GDRVINFO of linux/ethtool.h), "" when it has none."""
    info = array.array("B", struct.pack("I192x", _ETHTOOL_GDRVINFO))
    address, _ = info.buffer_info()
    request = struct.pack("16sP", name.encode()[:15], address)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            fcntl.ioctl(sock, _SIOCETHTOOL, request)
        except OSError:
            return ""
    return info[4:36].tobytes().rstrip(b"\0").decode("ascii", "replace")
