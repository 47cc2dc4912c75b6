"""Peers that lie: no wrong byte ever has a name, and one honest peer is enough."""

from __future__ import annotations

import asyncio
import time
from base64 import b64decode, b64encode
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from json import dumps, loads
from pathlib import Path

import pytest
from aiohttp import web

from overlaysync.units import KIB, MIB
from tests.e2e import disks
from tests.e2e.nodes import NETWORK, NO_BASE, NOT_FOUND, NOT_VERIFIED, Lab, Node
from tests.e2e.recorded import Answer, RecordedPeer, Recording, honestly, record

pytestmark = pytest.mark.qemu


# -- lies --------------------------------------------------------------------------------------------


async def flip(request: web.Request, kind: str, body: bytes) -> web.StreamResponse:
    """One bit of the body is wrong."""
    wrong = bytearray(body)
    wrong[len(body) // 2] ^= 1
    return web.Response(body=bytes(wrong))


async def zeros(request: web.Request, kind: str, body: bytes) -> web.StreamResponse:
    """The right length, and nothing in it."""
    return web.Response(body=bytes(len(body)))


async def shorter(request: web.Request, kind: str, body: bytes) -> web.StreamResponse:
    """Less than was asked for, and that is said."""
    return web.Response(body=body[:-1])


async def longer(request: web.Request, kind: str, body: bytes) -> web.StreamResponse:
    """More than was asked for, and that is said."""
    return web.Response(body=body + b"\0")


async def cut(request: web.Request, kind: str, body: bytes) -> web.StreamResponse:
    """The connection ends within the body."""
    await _begin(request, body[: len(body) // 2], len(body))
    return _broken_off(request)


async def endless(request: web.Request, kind: str, body: bytes) -> web.StreamResponse:
    """A body without length or end."""
    response = await _begin(request, body, None)
    while True:
        await response.write(bytes(64 * KIB))


async def enormous(request: web.Request, kind: str, body: bytes) -> web.StreamResponse:
    """A body that is said to have a tebibyte."""
    await _begin(request, body, 1 << 40)
    return _broken_off(request)


async def stall(request: web.Request, kind: str, body: bytes) -> web.StreamResponse:
    """The body begins, and never goes on."""
    await _begin(request, body[:100], len(body))
    await asyncio.sleep(3600)
    raise AssertionError("nobody waits for so long")


async def elsewhere(request: web.Request, kind: str, body: bytes) -> web.StreamResponse:
    """A redirect to another place on this machine."""
    return web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"})


async def zipped(request: web.Request, kind: str, body: bytes) -> web.StreamResponse:
    """A body in an encoding that nobody asked for."""
    return web.Response(body=body, headers={"Content-Encoding": "gzip"})


async def broken(request: web.Request, kind: str, body: bytes) -> web.StreamResponse:
    """An error of the server."""
    return web.Response(status=500)


async def _begin(request: web.Request, body: bytes, length: int | None) -> web.StreamResponse:
    response = web.StreamResponse()
    response.content_length = length
    await response.prepare(request)
    await response.write(body)
    return response


def _broken_off(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


LIES: tuple[Answer, ...] = (flip, zeros, shorter, longer, cut, endless, enormous, elsewhere, zipped, broken)
WRONG_BYTES: tuple[Answer, ...] = (flip, zeros)


# -- the scene ---------------------------------------------------------------------------------------


class Scene:
    """An honest share that was recorded, a liar with that recording, and a node that fetches."""

    def __init__(self, lab: Lab, stack: ExitStack) -> None:
        self.lab = lab
        self.stack = stack
        self.name = lab.name("vm")
        self.teacher, self.student = lab.node("teacher"), lab.node("student")
        master = disks.make_master(
            self.teacher.place / f"{lab.name('master')}.qcow2", size=8 * MIB, data=4 * MIB
        )
        self.overlay = disks.make_overlay(
            self.teacher.place / f"{self.name}.qcow2", master, (MIB, MIB), (7 * MIB, 100 * KIB)
        )
        share = self.teacher.share(self.overlay)
        self.recording = record(share.port)
        share.stop()

    def peer(self, answer: Answer = honestly, kind: str = "", recording: Recording | None = None) -> str:
        """The address of a peer that lies about ``kind``."""
        peer = RecordedPeer(recording or self.recording, answer, kind=kind)
        return self.stack.enter_context(peer).address

    def fetch(self, node: Node, *peers: str) -> tuple[int, float]:
        """Fetch the overlay from these peers: exit code, and how long it took."""
        started = time.monotonic()
        addresses = [word for peer in peers for word in ("--peer", peer)]
        result = node.run("fetch", self.name, *addresses, "--wait", "3")
        return result.code, time.monotonic() - started

    def arrived(self, node: Node) -> bool:
        """Whether the overlay is there, and right; whatever is there must be right."""
        for path in node.place.glob("[!.]*"):
            assert disks.identical(path, self.teacher.place / path.name)
        return (node.place / self.overlay.name).exists()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    lab = Lab(tmp_path_factory.mktemp("lies"))
    try:
        with ExitStack() as stack:
            yield Scene(lab, stack)
    finally:
        lab.close()


@pytest.fixture
def student(scene: Scene, tmp_path: Path) -> Iterator[Node]:
    lab = Lab(tmp_path)
    try:
        yield lab.node("student")
    finally:
        lab.close()


@pytest.mark.parametrize("lie", WRONG_BYTES, ids=lambda lie: lie.__name__)
@pytest.mark.parametrize("kind", ["list", "page", "data"])
def test_wrong_bytes_are_never_an_image(scene: Scene, student: Node, lie: Answer, kind: str) -> None:
    code, _ = scene.fetch(student, scene.peer(lie, kind))
    assert code == NOT_VERIFIED
    assert student.files() == set()
