"""The room itself: hosts hear each other, links have the rate they were given, a cable can be pulled."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from overlaysync.units import MIB
from tests.e2e.nodes import until
from tests.e2e.room import MBIT, Host, Room, room

pytestmark = pytest.mark.lan

_PORT = 40001
_LISTEN = """
import socket
with socket.create_server(("", {port})) as server:
    print("ready", flush=True)
    client, _ = server.accept()
    with client:
        client.sendall(bytes({size}))
"""
_READ = """
import socket
with socket.create_connection(("{address}", {port}), timeout=20) as sock:
    size = 0
    while part := sock.recv(1 << 20):
        size += len(part)
    print(size)
"""


@pytest.fixture
def three() -> Iterator[Room]:
    with room(3, rate=40 * MBIT) as made:
        yield made


def transfer(source: Host, target: Host, size: int) -> float:
    """Seconds that bytes take from one host to another."""
    listen = _LISTEN.format(port=_PORT, size=size)
    read = _READ.format(address=source.address, port=_PORT)
    with subprocess.Popen([*source.prefix, sys.executable, "-c", listen], stdout=subprocess.PIPE) as sender:
        assert sender.stdout and sender.stdout.readline() == b"ready\n"
        started = time.monotonic()
        received = subprocess.check_output([*target.prefix, sys.executable, "-c", read])
    assert int(received) == size
    return time.monotonic() - started


def reaches(source: Host, target: Host) -> bool:
    code = f"import socket; socket.create_connection(({target.address!r}, 9), timeout=0.3)"
    done = subprocess.run(
        [*source.prefix, sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    return "ConnectionRefusedError" in done.stderr  # nobody listens there, but somebody answers


def test_a_link_has_its_rate_and_can_get_another(three: Room) -> None:
    first, second, _ = three.hosts
    before = first.sent(), second.received()

    assert 0.8 < transfer(first, second, 4 * MIB) < 3  # 0.84 s at 40 Mbit/s
    assert first.sent() - before[0] > 4 * MIB
    assert second.received() - before[1] > 4 * MIB

    three.shape(second, 10 * MBIT)
    assert transfer(first, second, 4 * MIB) > 3


def test_a_cable_can_be_pulled_and_plugged_in_again(three: Room) -> None:
    first, second, third = three.hosts
    assert reaches(first, second)

    three.cut(second)
    assert not reaches(first, second)
    assert reaches(first, third)

    three.heal(second)
    until(lambda: reaches(first, second), what="the link's return")
