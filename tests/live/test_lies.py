"""What answers instead of a QEMU, or of an agent, and lies: it costs a moment, and is not believed."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from overlaysync.errors import OverlaysyncError
from overlaysync.formats.image import Format
from overlaysync.live import job_session, leftovers, monitor
from overlaysync.live.capture import capture
from overlaysync.live.monitor import GoneError, QmpMonitor, RefusedError
from overlaysync.live.running import Running
from overlaysync.live.sockets import connect_unix
from overlaysync.live.targets import Source
from overlaysync.units import MIB

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


# -- QEMU itself -------------------------------------------------------------------------------------

_SAID = st.sampled_from(["id", "status", "node-name", "drv", "file", "raw", "running", "concluded", "fds"])
_SAYS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _SAID,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_SAID, inner, max_size=4),
    max_leaves=8,
)


class Liar:
    """A monitor that answers as QEMU does, until it says anything.

    Args:
        disk: that it says it writes to.
        honest: so many answers are true.
        lies: the others, one after the other.
    """

    def __init__(self, disk: Path, honest: int, lies: list[Any]) -> None:
        self._disk, self._honest, self._lies = disk, honest, lies
        self._answers: dict[str, Any] = {
            "query-named-block-nodes": [{"node-name": "n", "drv": "raw", "file": str(disk)}],
            "query-status": {"status": "running"},
            "query-jobs": [],
            "query-fdsets": [],
            "add-fd": {"fdset-id": 1},
        }

    async def ask(
        self, command: str, arguments: Mapping[str, Any] | None = None, *, file: int | None = None
    ) -> Any:
        self._honest -= 1
        if self._honest >= 0 or not self._lies:
            return self._answers.get(command, {})
        lie = self._lies.pop()
        if lie is None:
            raise RefusedError("no")
        return lie

    async def close(self) -> None:
        pass


@pytest.mark.holds("D5")
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(honest=st.integers(0, 12), lies=st.lists(_SAYS, max_size=12))
def test_whatever_a_monitor_answers_is_an_error_of_ours_at_most(
    tmp_path: Path, honest: int, lies: list[Any]
) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(4096))
    status = disk.stat()
    source = Source(str(disk), (status.st_dev, status.st_ino), Format.RAW, Format.RAW, 4096)

    async def connect() -> Liar:
        return Liar(disk, honest, lies)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leftovers, "_WAIT_S", 0.02)
        patch.setattr(job_session, "_STALLED_S", 0.02)
        with suppress(OverlaysyncError):
            for copy in capture([Running("vm", (source,), connect)], tmp_path, lambda _: None).files.values():
                os.close(copy.file)


def eventful(connection: socket.socket) -> None:
    """A monitor that greets, and then reports events without end."""
    connection.sendall(b'{"QMP": {"version": {}, "capabilities": []}}\n')
    asked = json.loads(connection.recv(65536))
    answer = {"return": {}} | ({"id": asked["id"]} if "id" in asked else {})
    connection.sendall(json.dumps(answer).encode() + b"\n")
    event = {"event": "E", "data": {"x": "y" * 2000}, "timestamp": {"seconds": 1, "microseconds": 1}}
    endless(json.dumps(event).encode() + b"\n")(connection)


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_events_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "_ANSWER_S", 1.0)
    with served(tmp_path / "socket", eventful) as path:
        found = await QmpMonitor.connect(str(path))
        before = resident()
        with pytest.raises(GoneError):
            await found.ask("query-status")
        assert resident() - before < 30 * MIB
        await found.close()
