"""File descriptors: a crowd of connections leaves enough of them for whoever asks, and says little."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from overlaysync.net.bounds import SERVER
from overlaysync.net.connections import MAX_DESCRIPTORS, fitting, raise_descriptor_limit
from overlaysync.net.faults import Faults
from overlaysync.net.messages import Address
from overlaysync.net.server import Server
from tests.net.content_provider import FakeShelf, connect, make_shelf, serving

_SERVE = """
import asyncio, resource, sys
from pathlib import Path
from overlaysync.net.faults import Faults
from overlaysync.net.server import Server
from tests.net.content_provider import make_shelf

async def main(directory, limit):
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    server = Server(make_shelf(Path(directory)), faults=Faults(lambda text: print(text, file=sys.stderr)))
    print(await server.start(["127.0.0.1"]), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop()

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


@pytest.fixture
def shelf(tmp_path: Path) -> FakeShelf:
    return make_shelf(tmp_path)


@contextmanager
def crowd(address: Address, *, hosts: int, each: int) -> Iterator[None]:
    """Connections that say nothing."""
    with ExitStack() as stack:
        for host in range(hosts):
            for _ in range(each):
                sock = stack.enter_context(socket.socket())
                sock.bind((f"127.0.1.{host + 1}", 0))
                sock.setblocking(False)
                assert sock.connect_ex(tuple(address)) in (0, errno.EINPROGRESS)
        yield


@pytest.mark.slow
async def test_a_crowd_does_not_use_up_the_descriptors(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE, str(tmp_path), "256"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout and process.stdin and process.stderr
    with process:
        address = Address("127.0.0.1", int(await asyncio.to_thread(process.stdout.readline)))
        with crowd(address, hosts=30, each=16):
            for _ in range(20):
                async with asyncio.timeout(5), connect(address) as raw:
                    assert (await raw.ask("/v1/catalog"))[0] == 200
        process.stdin.close()
        said = await asyncio.to_thread(process.stderr.read)
    assert process.returncode == 0
    assert said == ""


def test_the_limit_is_raised_as_far_as_it_may_be() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, before[1]))
        given = raise_descriptor_limit()
        assert given == resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(before[1], MAX_DESCRIPTORS)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_limit_that_cannot_be_raised_is_lived_with(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(resource, "getrlimit", lambda what: (300, 1 << 20))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert raise_descriptor_limit() == 300


@pytest.mark.parametrize("descriptors", [64, 128, 256, 1024, 4096, 65536])
def test_bounds_fit_the_descriptors(descriptors: int) -> None:
    fit = fitting(SERVER, descriptors)
    assert 0 < fit.connections <= SERVER.connections and 0 < fit.handshakes <= SERVER.handshakes
    assert descriptors < 128 or fit.connections + fit.handshakes + fit.bodies < descriptors
    assert descriptors < 1024 or fit == SERVER


async def test_a_server_without_descriptors_says_so_once_and_goes_on(
    shelf: FakeShelf, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something else in the process has taken them all."""
    monkeypatch.setattr("asyncio.constants.ACCEPT_RETRY_DELAY", 0.05)
    notes: list[str] = []
    faults = Faults(notes.append)
    async with serving(Server(shelf, faults=faults)) as address:
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        with socket.socket() as caller:
            caller.setblocking(False)
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (1, before[1]))
                caller.connect_ex(tuple(address))
                async with asyncio.timeout(5):
                    while faults.counts.total() < 20:
                        await asyncio.sleep(0.01)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, before)
        async with asyncio.timeout(5), connect(address) as raw:
            assert (await raw.ask("/v1/catalog"))[0] == 200
    assert len(notes) == 1 and "Too many open files" in notes[0]
    assert not caplog.records
