"""Connect to Unix sockets, however long their paths are (the kernel takes 107 bytes); see whose they are."""

from __future__ import annotations

import errno
import os
import socket
import struct
import time

_CREDENTIALS = struct.Struct("@iII")
"""struct ucred: pid, uid, gid."""


def connect_unix(path: str, timeout_s: float, owner: int = 0) -> socket.socket:
    """Return a connection to the socket at ``path``.

    Args:
        path: of the socket.
        timeout_s: of everything that is done with it.
        owner: id of the process that is to have made it; 0 for any.

    Raises:
        OSError: nothing listens there, or another process has made it.
    """
    directory, name = os.path.split(os.path.abspath(path))
    folder = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(timeout_s)
        connection.connect(f"/proc/self/fd/{folder}/{name}")
        if owner and peer_of(connection) not in (0, owner):
            raise ConnectionRefusedError(errno.ECONNREFUSED, "another process has made this socket")
    except BaseException:
        connection.close()
        raise
    finally:
        os.close(folder)
    return connection


def peer_of(connection: socket.socket) -> int:
    """Return the id of the process that made the socket at the other end; 0 if it cannot be seen."""
    size = _CREDENTIALS.size
    pid, _, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return int(pid)


def receive(connection: socket.socket, deadline: float) -> bytes:
    """Return what comes before a moment of the monotonic clock; b"" at the end.

    Raises:
        OSError: nothing comes until then, or that moment has passed, however much there still is.
    """
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("no answer in time")
    connection.settimeout(left_s)
    return connection.recv(65536)
