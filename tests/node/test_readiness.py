"""A guest decides what comes through its ports: none of it ends the wait for it, or fills memory."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import SimpleNamespace
from typing import Any

import pytest

from overlaysync.node.readiness import Waiting
from overlaysync.ops.drill.probes import Probe, ProbeKind

LOOKS_S = 0.2


@contextmanager
def guest(says: bytes, *, again: bool) -> Iterator[socket.socket]:
    """The other end of a guest that says this, once or without end, and reads nothing."""
    ours, theirs = socket.socketpair()

    def say() -> None:
        with suppress(OSError):
            theirs.sendall(says)
            while again:
                theirs.sendall(says)

    speaker = threading.Thread(target=say)
    speaker.start()
    try:
        yield ours
    finally:
        theirs.shutdown(socket.SHUT_RDWR)
        speaker.join()
        theirs.close()


async def waits(ours: socket.socket) -> tuple[bool, int, int]:
    """Wait for a guest for a moment: whether it is ready, how often it was asked, what is to be sent."""
    reader, writer = await asyncio.open_connection(sock=ours)
    vm: Any = SimpleNamespace(agent=(reader, writer))
    waiting = Waiting(vm, "web", Probe(ProbeKind.AGENT))
    try:
        async with asyncio.timeout(LOOKS_S):
            await waiting.ready()
        return True, waiting.attempts, 0
    except TimeoutError:
        return False, waiting.attempts, writer.transport.get_write_buffer_size()
    finally:
        writer.transport.abort()


@pytest.mark.parametrize(
    "says",
    [
        b"[]\n",
        b"1\n",
        b"null\n",
        b'"return"\n',
        b'{"return": {}}\n',
        b'{"return": true}\n',
        b"[" * 60000 + b"\n",
        b"\xff\xfe\n",
        b"x" * 200000 + b"\n",
        b"1" * 6000 + b"\n",
        b"\n",
    ],
    ids=range(11),
)
@pytest.mark.parametrize("again", [False, True], ids=["once", "endless"])
async def test_an_agent_that_says_anything_else_is_not_ready(says: bytes, again: bool) -> None:
    with guest(says, again=again) as ours:
        ready, attempts, unsent = await waits(ours)
    assert not ready
    assert attempts < 10, "it is not asked as often as it speaks"
    assert unsent < 4096
