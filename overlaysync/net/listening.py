"""Listening sockets: one port on several addresses, all of them or as many as the machine has."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence

from overlaysync.errors import NetworkError

_TRIES = 8
"""Free ports tried: one that is free for IPv4 may be taken for IPv6."""


def listen(addresses: Sequence[str], port: int, queue: int, *, all_needed: bool) -> list[socket.socket]:
    """Open listening sockets on one port of these IP addresses.

    Args:
        addresses: IP addresses.
        port: the port; 0 for a free one.
        queue: pending connections in the kernel.
        all_needed: whether each address must be had; otherwise one is enough (a machine without IPv6).

    Raises:
        NetworkError: there is none, or the port is taken on one of them.
    """
    for _ in range(_TRIES if not port else 1):
        try:
            return _listen_once(addresses, port, queue, all_needed=all_needed)
        except OSError as error:
            failure = error
    raise NetworkError(
        f"Cannot listen on port {port}" if port else "Cannot listen on any port",
        why=failure.strerror or str(failure),
        hint="choose another --port, or none" if port else "",
    )


def _listen_once(addresses: Sequence[str], port: int, queue: int, *, all_needed: bool) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            sock = socket.create_server((address, port), family=family, backlog=queue)
        except OSError as error:
            # A port that is free for IPv4 and taken for IPv6 would answer with two voices.
            if sockets and not all_needed and error.errno != errno.EADDRINUSE:
                continue
            for other in sockets:
                other.close()
            raise
        sockets.append(sock)
        port = sock.getsockname()[1]
    return sockets
