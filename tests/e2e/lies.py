"""Lies that a peer may tell, and a peer that tells them on a host of a room.

    python -m tests.e2e.lies HOST:PORT ADDRESS LIE KIND...

records what the share at HOST:PORT serves, then serves the same at ADDRESS, but answers requests of these
kinds by the lie. It prints a line of JSON when it can be asked: ``{"peer": "HOST:PORT"}``.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from contextlib import suppress

from aiohttp import web

from overlaysync.units import KIB
from tests.e2e.recorded import Answer, RecordedPeer, honestly, record

OWN_PORT = 40002
"""Where :func:`misdirect` has people look on their own loopback."""


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


async def hang(request: web.Request, kind: str, body: bytes) -> web.StreamResponse:
    """No answer at all."""
    await asyncio.sleep(3600)
    raise AssertionError("nobody waits for so long")


async def drip(request: web.Request, kind: str, body: bytes) -> web.StreamResponse:
    """A byte in a second."""
    response = web.StreamResponse()
    response.content_length = len(body)
    with suppress(ConnectionError):
        await response.prepare(request)
        for byte in body:
            await response.write(bytes([byte]))
            await asyncio.sleep(1)
    return response


async def elsewhere(request: web.Request, kind: str, body: bytes) -> web.StreamResponse:
    """A redirect to another place on this machine."""
    return web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"})


async def misdirect(request: web.Request, kind: str, body: bytes) -> web.StreamResponse:
    """Beside the peers it knows, something that who asks has for itself alone."""
    own = (f"{loopback}:{OWN_PORT}" for loopback in ("127.0.0.1", "[::1]"))
    return web.json_response({"peers": [*own, *json.loads(body)["peers"]]})


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


WRONG_BYTES: tuple[Answer, ...] = (flip, zeros)
OTHER_LIES: tuple[Answer, ...] = (shorter, longer, cut, endless, enormous, elsewhere, zipped, broken)
KINDS = ("catalog", "list", "page", "data")


# -- a process -----------------------------------------------------------------------------------------


def main(share: str, address: str, lie: str, *kinds: str) -> None:
    """Lie until somebody ends this process."""
    told = (honestly, flip, stall, hang, drip, misdirect)
    answers: dict[str, Answer] = {answer.__name__: answer for answer in told}
    host, _, port = share.rpartition(":")
    recording = record(int(port), host)
    with RecordedPeer(recording, answers[lie], *kinds, host=address, peers=[share]) as peer:
        print(json.dumps({"peer": peer.address}), flush=True)
        signal.pause()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main(*sys.argv[1:])
