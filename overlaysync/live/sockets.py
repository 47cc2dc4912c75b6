"""Connect to Unix sockets, however long their paths are: the kernel takes 107 bytes."""

from __future__ import annotations

import os
import socket


def connect_unix(path: str, timeout_s: float) -> socket.socket:
    """Return a connection to the socket at ``path``.

    Raises:
        OSError: nothing listens there.
    """
    directory, name = os.path.split(os.path.abspath(path))
    folder = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(timeout_s)
        connection.connect(f"/proc/self/fd/{folder}/{name}")
    except BaseException:
        connection.close()
        raise
    finally:
        os.close(folder)
    return connection
