"""What answers instead of a QEMU, or of an agent, and lies: it costs a moment, and is not believed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from overlaysync.live.sockets import connect_unix

ENDS_S = 8.0
"""An agent has two seconds to answer, and the process has to start."""


@contextmanager
def served(path: Path, says: Callable[[socket.socket], None]) -> Iterator[Path]:
    """A socket at which everybody who connects is told something."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, suppress(OSError):
                        says(connection)

        server = threading.Thread(target=serve, daemon=True)
        server.start()
        yield path
        listener.shutdown(socket.SHUT_RDWR)
        server.join()


def endless(line: bytes) -> Callable[[socket.socket], None]:
    def say(connection: socket.socket) -> None:
        while True:
            connection.sendall(line * 1000)

    return say


def watched(*words: str) -> str:
    """What the process that holds a guest still says, once nobody wants anything of it."""
    program = "import sys; from overlaysync.live.watch import main; main(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=ENDS_S,
    )
    return done.stdout.strip()


@pytest.mark.parametrize("line", [b"\n", b'{"return": 1}\n', b"\xff", b"\xff[]\n", b"[" * 9000 + b"\n"])
@pytest.mark.parametrize("kind", ["agent", "human"])
def test_who_speaks_without_end_is_given_up(tmp_path: Path, kind: str, line: bytes) -> None:
    with served(tmp_path / "socket", endless(line)) as path:
        assert watched(kind, str(path), str(os.getpid())) == "none"


def test_a_socket_that_another_process_has_made_is_not_asked(tmp_path: Path) -> None:
    """It might say that a VM is stopped which runs on."""
    with served(tmp_path / "socket", lambda connection: connection.sendall(b"(qemu) ")) as path:
        connect_unix(str(path), 1.0, os.getpid()).close()
        with pytest.raises(ConnectionRefusedError):
            connect_unix(str(path), 1.0, os.getppid())
        assert watched("human", str(path), str(os.getppid())) == "none"
