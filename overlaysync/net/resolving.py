"""Names of hosts that a user wrote, resolved: asked of the system, and never for a name that a peer tells."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from itertools import islice

from overlaysync.net.bounds import CLIENT, DISCOVERY
from overlaysync.net.interfaces import is_link_local
from overlaysync.net.messages import Address


async def resolve(address: Address) -> tuple[Address, ...]:
    """Return the IP addresses of a name, in the order of announcements.

    What cannot be resolved stays as it is.
    """
    if _is_ip(address.host):
        return (address,)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CLIENT.connect_s):
            found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # whoever asks there says why
        return (address,)
    every = dict.fromkeys(str(where[0]) for *_, where in found)
    hosts = sorted(every, key=lambda host: (":" in host, is_link_local(host)))
    usable = (host for host in hosts if "%" in host or not is_link_local(host))
    addresses = (Address(host, address.port) for host in usable)
    return tuple(islice(addresses, DISCOVERY.addresses)) or (address,)


def _is_ip(host: str) -> bool:
    try:
        return bool(ipaddress.ip_address(host))
    except ValueError:
        return False
