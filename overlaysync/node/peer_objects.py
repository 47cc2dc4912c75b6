"""The vault of a peer as a place of objects: read only, and asked over the network."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from overlaysync.errors import NotAllowedError, PeerError, StoppedError
from overlaysync.net.client import Client
from overlaysync.net.messages import Endpoint
from overlaysync.net.refusals import GoneError
from overlaysync.store.direct import aligned_buffer
from overlaysync.units import KIB
from overlaysync.vault.objects import LIMITS, Kind, Part, Stored, missing, parse_name

_T = TypeVar("_T")
_PART = LIMITS[Kind.STATE]
"""Bytes that are asked for at a time: what is pulled from many peers at once must fit into memory."""
_REQUEST_S = 30.0
"""A request may take so long ..."""
_LEAST_RATE = 64 * KIB
"""... and longer for what comes at this many bytes per second: who is slower is left to others."""


class PeerObjects:
    """What one peer keeps. Called from threads, never from the one of the event loop.

    Args:
        client: asks.
        address: of the peer.
        loop: the event loop of the client, which runs meanwhile.
    """

    def __init__(self, client: Client, address: Endpoint, loop: asyncio.AbstractEventLoop) -> None:
        self._client = client
        self._address = address
        self._loop = loop
        self._under_way: set[Future[Any]] = set()
        self._stopped = False

    def stop(self) -> None:
        """Break off what is being read, and whatever is asked for later. Called from any thread."""
        self._stopped = True
        for future in list(self._under_way):
            future.cancel()

    def put(self, name: str, data: bytes) -> bool:
        raise self._read_only()

    def store(self, name: str, parts: Iterable[Part]) -> bool:
        raise self._read_only()

    def parts(self, name: str) -> Iterator[Part]:
        buffer, offset = aligned_buffer(_PART), 0
        while True:
            size = self._read(name, offset, buffer)
            yield buffer[:size]
            offset += size
            if size < _PART:
                return

    def delete(self, name: str) -> bool:
        raise self._read_only()

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        named = parse_name(name)
        assert named is not None, name
        most = LIMITS[named.kind] + 1 if length is None else length
        if most > LIMITS[Kind.STATE]:
            size = self.size(name)
            if size is None:
                raise missing(name)
            most = min(most, max(0, size - offset))
        if not most:
            return b""
        buffer = memoryview(bytearray(most))
        return bytes(buffer[: self._read(name, offset, buffer)])

    def _read(self, name: str, offset: int, buffer: memoryview) -> int:
        """Fill ``buffer`` from ``offset`` on; after a failure it must not be used any more."""
        try:
            work = self._client.vault_read(self._address, name, offset, buffer)
            return self._run(work, _REQUEST_S + len(buffer) / _LEAST_RATE)
        except GoneError:
            raise missing(name) from None

    def size(self, name: str) -> int | None:
        try:
            return self._run(self._client.vault_size(self._address, name))
        except GoneError:
            return None

    def list(self, prefix: str) -> Iterator[Stored]:
        """Yield the heads of a space, or its records of drills: nothing else of a peer can be listed."""
        tag, _, rest = prefix.strip("/").partition("/")
        kind = next((kind for kind in (Kind.HEAD, Kind.DRILL) if rest.startswith(kind)), None)
        if kind is None:
            raise ValueError("a peer lists only heads and drills of its vault")
        try:
            heads = self._run(self._client.vault_heads(self._address, tag, kind))
        except GoneError:
            return
        yield from sorted(head for head in heads if head.name.startswith(prefix))

    def _run(self, work: Coroutine[Any, Any, _T], patience_s: float = _REQUEST_S) -> _T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        self._under_way.add(future)
        if self._stopped:  # looked at when the future is there to be cancelled
            future.cancel()
        try:
            return future.result(patience_s)
        except TimeoutError:
            future.cancel()
            raise PeerError(f"{self._address} takes too long") from None
        except CancelledError:
            raise StoppedError("stopped") from None
        finally:
            self._under_way.discard(future)

    def _read_only(self) -> NotAllowedError:
        return NotAllowedError(
            f"Cannot change the vault of {self._address}",
            why="peers only give",
            hint="overlaysync keep TEAM, on that machine",
        )
