"""Answers with image data and other bytes: who may have which, whose turn it is, and how they go out.

Leaves out who may see what, which :mod:`.server` has decided before.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TypeVar

from aiohttp import web

from overlaysync.errors import NotFoundError
from overlaysync.net.answers import Answer, abort, asker_of, takes_zstd
from overlaysync.net.bounds import ServerBounds
from overlaysync.net.claims import TakenError, claimed
from overlaysync.net.compression import ENCODING, Compressor
from overlaysync.net.connections import retry_after
from overlaysync.net.rate import RateLimit
from overlaysync.net.sending import BodySender, Piece, PieceReader, Sender, StalledError, TlsSender
from overlaysync.net.swarm_messages import decode_data_query, encode_taken
from overlaysync.net.tls import is_private
from overlaysync.net.upload_slots import NoSlotError, UploadSlots
from overlaysync.net.vault_wire import VaultProvider, answer
from overlaysync.ops.offer import FileSegment, Offer
from overlaysync.swarm.members import Swarms
from overlaysync.units import KIB

_BINARY = "application/octet-stream"
_LEAST_SHARE = 64 * KIB  # bytes per second a body should get under a rate limit, else there are fewer
_UNSENT = 64 * KIB  # of a body over TLS, so that a client that takes nothing is soon noticed
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Uploads:
    """How image data is given.

    Attributes:
        limit: a rate for all of it together; None for no limit.
        sent: called after each body with manifest id, client address, bytes sent, and the slots asked for.
    """

    limit: RateLimit | None = None
    sent: Callable[[bytes, str, int, Sequence[tuple[int, int]]], None] | None = None


class Bodies:
    """Sends image data.

    Args:
        swarms: who fetches what is served.
        threads: read images.
        uploads: how image data is given.
        bounds: limits.
    """

    def __init__(
        self,
        swarms: Callable[[], Swarms],
        threads: ThreadPoolExecutor,
        *,
        uploads: Uploads,
        bounds: ServerBounds,
    ) -> None:
        self._swarms = swarms
        self._threads = threads
        self._limit = uploads.limit or RateLimit(None)
        self._sent = uploads.sent
        self._bounds = bounds
        most = bounds.bodies
        if self._limit.rate is not None:
            most = max(1, min(most, self._limit.rate // _LEAST_SHARE))
        self._slots = UploadSlots(bounds, most)
        self._compressor = Compressor(bounds.compressed_size)

    @property
    def in_line(self) -> int:
        """Requests that wait for their turn."""
        return self._slots.in_line

    def close(self) -> None:
        """Compress nothing any more."""
        self._compressor.close()

    async def get(self, request: web.BaseRequest, offer: Offer) -> web.StreamResponse:
        """Answer a request for data of ``offer``."""
        runs, asking = decode_data_query(request.rel_url.raw_query_string)
        if sum(runs[-1]) > offer.data.count:
            raise Answer(400)
        if offer.log is not None and not all(piece in offer.log.held for piece in offer.pieces.touched(runs)):
            raise Answer(416)
        response = web.StreamResponse(headers={"Server": "overlaysync", "X-Content-Type-Options": "nosniff"})
        response.content_type = _BINARY
        length = sum(offer.data.span(first, count) for first, count in runs)
        packed = self._compressor.body(offer, runs, length) if takes_zstd(request) else nullcontext()
        claiming = claimed(self._swarms(), offer, runs, asking, asker_of(request))
        try:
            with claiming as claim:
                async with self._slots.place(asker_of(request), lambda: abort(request)), packed as body:
                    claim.sending()
                    tls = is_private(request.transport)
                    reader = PieceReader(() if body else offer.segments(runs), sendfile=not tls)
                    # Read before the head is sent: an image that has changed is still a clean 410.
                    batch: list[Piece] = [body] if body else await self._read(reader.read)
                    if body:
                        response.headers["Content-Encoding"], length = ENCODING, len(body)
                    response.content_length = length
                    await response.prepare(request)
                    sender = self._sender(request, response, tls=tls)
                    try:
                        if await self._send_data(request, reader, batch, sender, length):
                            claim.sent()
                    finally:
                        if self._sent is not None:
                            self._sent(offer.manifest.id, asker_of(request), sender.sent, runs)
        except NoSlotError:
            raise Answer(503, Retry_After=str(retry_after(self._bounds))) from None
        except TakenError as error:
            raise Answer(409, Taken=encode_taken(error.news)) from None
        return response

    def _sender(self, request: web.BaseRequest, response: web.StreamResponse, *, tls: bool) -> Sender:
        if request.transport is None:
            raise ConnectionResetError("the client has gone")
        if tls:
            request.transport.set_write_buffer_limits(_UNSENT)
            return TlsSender(response.write, self._bounds, self._limit)
        return BodySender(request.transport.get_extra_info("socket").dup(), self._bounds, self._limit)

    async def _send_data(
        self,
        request: web.BaseRequest,
        reader: PieceReader,
        batch: list[Piece],
        sender: Sender,
        length: int,
    ) -> bool:
        """Send the whole body; whether it could be: else it ends with its connection."""
        try:
            while batch:
                for piece in batch:
                    await sender.send(piece)
                batch = await self._read(reader.read) if reader.more else []
            if sender.sent != length:
                raise NotFoundError("the image gave other bytes than were promised")
            return True
        except (StalledError, NotFoundError, OSError):
            abort(request)
            return False
        except BaseException:
            abort(request)
            raise
        finally:
            sender.close()

    # -- other files ---------------------------------------------------------------------------------

    async def get_companion(
        self, request: web.BaseRequest, offer: Offer, digest: bytes
    ) -> web.StreamResponse:
        """Answer a request for a small file that belongs to ``offer``."""
        try:
            async with self._slots.place(asker_of(request), lambda: abort(request)):
                found = await self._read(lambda: offer.companion(digest))
                if found is None:
                    raise Answer(404)
                try:
                    return await self._send_segment(request, found)
                finally:
                    os.close(found.fd)
        except NoSlotError:
            raise Answer(503, Retry_After=str(retry_after(self._bounds))) from None

    async def get_vault(
        self, request: web.BaseRequest, vault: VaultProvider, path: list[str]
    ) -> web.StreamResponse:
        """Answer a request for an object of a vault."""
        asker, query = asker_of(request), request.rel_url.raw_query_string
        heavy = query.startswith(("from=", "proof="))
        try:
            async with self._slots.place(asker, lambda: abort(request)) if heavy else nullcontext():
                found = await self._read(lambda: answer(vault, path, query, asker))
                if isinstance(found, bytes):
                    return web.Response(body=found, content_type=_BINARY)
                try:
                    return await self._send_segment(request, found)
                finally:
                    os.close(found.fd)
        except NotFoundError:
            raise Answer(404) from None
        except NoSlotError:
            raise Answer(503, Retry_After=str(retry_after(self._bounds))) from None

    async def _send_segment(self, request: web.BaseRequest, segment: FileSegment) -> web.StreamResponse:
        if not segment.length:
            return web.Response(body=b"", content_type=_BINARY)
        response = web.StreamResponse(headers={"Server": "overlaysync", "X-Content-Type-Options": "nosniff"})
        response.content_type, response.content_length = _BINARY, segment.length
        tls = is_private(request.transport)
        reader = PieceReader((segment,), sendfile=not tls)
        batch = await self._read(reader.read)
        await response.prepare(request)
        sender = self._sender(request, response, tls=tls)
        await self._send_data(request, reader, batch, sender, segment.length)
        return response

    async def _read(self, read: Callable[[], _T]) -> _T:
        """Read from an image in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, read)
