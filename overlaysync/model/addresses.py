"""IP addresses as peers tell them: which mean the same everywhere, and which count as one host."""

from __future__ import annotations

import ipaddress

LEAST_TOLD_PORT = 1024  # of an address that another tells of or announces


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
