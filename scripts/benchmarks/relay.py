"""A relay that counts: every byte between two programs that goes through it, in both directions."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_STEP = 1 << 16


class Relay:
    """Passes on what comes to :attr:`address` to the port of another program, and the answers back.

    Args:
        port: of the other program, on this machine.

    Attributes:
        passed: bytes that went through it, in both directions.
    """

    def __init__(self, port: int) -> None:
        self.passed = 0
        self._port = port
        self._lock = threading.Lock()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._server.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._server.accept()
                server = socket.create_connection(("127.0.0.1", self._port))
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=self._pass, args=(source, target), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(_STEP):
                with self._lock:
                    self.passed += len(data)
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)


@contextmanager
def relay(peer: str) -> Iterator[Relay]:
    """A relay to ``peer``, as long as the context lasts."""
    one = Relay(int(peer.rpartition(":")[2]))
    try:
        yield one
    finally:
        one.close()
