"""Writes every packet that this network namespace sees into a file, until it is interrupted.

    python -m tests.e2e.sniffer FILE

Prints a line when it has begun. Frames are joined as they are, each after a few bytes that are no part of it.
"""

from __future__ import annotations

import signal
import socket
import sys
from contextlib import suppress

_ALL = 0x0003  # ETH_P_ALL
_OUTGOING = 4  # PACKET_OUTGOING
_BUFFER = 256 << 20
_FRAME = 1 << 18
_BETWEEN = b"\n--\n"


def main(path: str) -> None:
    """Capture into ``path``."""
    with (
        open(path, "wb", buffering=0) as file,
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL)) as sock,
    ):
        sock.setsockopt(socket.SOL_SOCKET, 33, _BUFFER)  # SO_RCVBUFFORCE
        print('{"began": true}', flush=True)
        while True:
            frame, (_, _, direction, *_) = sock.recvfrom(_FRAME)
            if direction != _OUTGOING:  # of a loopback each frame is seen twice
                file.write(frame + _BETWEEN)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs in the background ignores it
    with suppress(KeyboardInterrupt):
        main(*sys.argv[1:])
