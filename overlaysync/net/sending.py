"""Image data on their way out: segments gathered into pieces, pieces sent as fast as the client takes them.

A long stretch of a file goes by sendfile and is never copied; short stretches and bytes are gathered into
buffers, because a system call for each 4 KiB granule would cost more than the copy. Both go to a duplicate of
the connection's socket: the event loop lets nobody wait for a socket that belongs to a transport, and its own
sendfile shows no progress, so a client that stalls in the middle could not be told from a slow one.
Over TLS everything is gathered, and written a buffer at a time.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Protocol, TypeAlias

from overlaysync.errors import NotFoundError, PeerError
from overlaysync.net.bounds import ServerBounds
from overlaysync.net.rate import RateLimit
from overlaysync.ops.offer import FileSegment, Segment
from overlaysync.units import KIB, MIB

BUFFER_SIZE = 256 * KIB
SENDFILE_MIN = 128 * KIB
WRITE_SIZE = 256 * KIB
"""Over TLS: a client that takes less than this within the time for it has stalled."""
BATCH_SIZE = 16 * MIB
BATCH_MEMORY = 2 * BUFFER_SIZE
"""Of a batch, in buffers: a client that takes nothing holds it, and there may be dozens of them."""

Piece: TypeAlias = FileSegment | bytes | bytearray


def gather(segments: Iterable[Segment], *, sendfile: bool = True) -> Iterator[Piece]:
    """Yield the same bytes in few pieces: long file segments as they are, the rest in buffers. Blocking.

    Without ``sendfile`` there are buffers only.

    Raises:
        NotFoundError: a file is shorter than a segment says.
    """
    buffer = bytearray()
    for segment in _joined(segments) if sendfile else _cut(segments):
        if sendfile and isinstance(segment, FileSegment) and segment.length >= SENDFILE_MIN:
            if buffer:
                yield buffer
                buffer = bytearray()
            yield segment
            continue
        buffer += read_segment(segment) if isinstance(segment, FileSegment) else segment
        if len(buffer) >= BUFFER_SIZE:
            yield buffer
            buffer = bytearray()
    if buffer:
        yield buffer


class PieceReader:
    """Reads the pieces of one body, a batch at a time.

    Attributes:
        more: whether another batch may follow.
    """

    def __init__(self, segments: Iterable[Segment], *, sendfile: bool = True) -> None:
        self._pieces = gather(segments, sendfile=sendfile)
        self.more = True

    def read(self) -> list[Piece]:
        """Return the next pieces, some 16 MiB of them, but little in memory.

        Blocking: here the image is read.
        """
        batch: list[Piece] = []
        size = memory = 0
        for piece in self._pieces:
            batch.append(piece)
            if isinstance(piece, FileSegment):
                size += piece.length
                # The event loop will call sendfile, which waits for a cold disk: start the reading here.
                os.posix_fadvise(piece.fd, piece.offset, piece.length, os.POSIX_FADV_WILLNEED)
            else:
                memory += len(piece)
            if size > BATCH_SIZE or memory >= BATCH_MEMORY:
                return batch
        self.more = False
        return batch


def _joined(segments: Iterable[Segment]) -> Iterator[Segment]:
    """Neighbouring segments of one file made one."""
    held: FileSegment | None = None
    for segment in segments:
        if not isinstance(segment, FileSegment):
            if held:
                yield held
                held = None
            yield segment
        elif held and held.fd == segment.fd and held.offset + held.length == segment.offset:
            held = FileSegment(held.fd, held.offset, held.length + segment.length)
        else:
            if held:
                yield held
            held = segment
    if held:
        yield held


def _cut(segments: Iterable[Segment]) -> Iterator[Segment]:
    """Yield the same, no file segment longer than a buffer."""
    for segment in segments:
        if isinstance(segment, FileSegment):
            for at in range(0, segment.length, BUFFER_SIZE):
                size = min(BUFFER_SIZE, segment.length - at)
                yield FileSegment(segment.fd, segment.offset + at, size)
        else:
            yield segment


def read_segment(segment: FileSegment) -> bytes:
    """Return the bytes of a segment. Blocking.

    Raises:
        NotFoundError: the file is shorter than the segment says.
    """
    data = os.pread(segment.fd, segment.length, segment.offset)
    if len(data) != segment.length:
        raise NotFoundError("the image has become shorter")
    return data


class StalledError(PeerError):
    """The client does not take what it asked for."""


class Sender(Protocol):
    """Sends one body."""

    sent: int

    async def send(self, piece: Piece) -> None:
        """Send one piece."""
        ...

    def close(self) -> None:
        """Give back what was needed for it."""
        ...


class TlsSender:
    """Sends one body over a TLS connection.

    Args:
        write: writes to the connection, and returns when it takes more.
        bounds, limit: as for :class:`BodySender`.
    """

    def __init__(
        self, write: Callable[[memoryview], Awaitable[None]], bounds: ServerBounds, limit: RateLimit
    ) -> None:
        self._write = write
        self._bounds = bounds
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._late = self._loop.time() + bounds.write_s
        self.sent = 0

    def close(self) -> None:
        """Nothing is held."""

    async def send(self, piece: Piece) -> None:
        """Send one piece, which is no file segment.

        Raises:
            StalledError: the client takes nothing, or too little.
            OSError: the connection is gone.
        """
        assert not isinstance(piece, FileSegment)
        view = memoryview(piece)
        size = min(WRITE_SIZE, self._limit.step)
        for at in range(0, len(view), size):
            part = view[at : at + size]
            before = self._loop.time()
            await self._limit.take(len(part))
            self._late += self._loop.time() - before
            try:
                async with asyncio.timeout(min(self._bounds.write_s, self._late - self._loop.time())):
                    await self._write(part)
            except TimeoutError:
                raise StalledError("The client stalls") from None
            self.sent += len(part)
            self._late += len(part) / self._bounds.min_rate


class BodySender:
    """Sends one body over a plain TCP connection. Headers must have left the transport before.

    Args:
        sock: a duplicate of the connection's socket, not blocking; closed by :meth:`close`.
        bounds: how long a client may stall, and its least rate.
        limit: the rate all bodies share.
    """

    def __init__(self, sock: socket.socket, bounds: ServerBounds, limit: RateLimit) -> None:
        self._sock = sock
        self._bounds = bounds
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._late = self._loop.time() + bounds.write_s
        self.sent = 0

    def close(self) -> None:
        """Give the duplicate back; the connection stays."""
        self._sock.close()

    async def send(self, piece: Piece) -> None:
        """Send one piece.

        Raises:
            StalledError: the client takes nothing, or too little.
            NotFoundError: the file is shorter than the piece says.
            OSError: the connection is gone.
        """
        if isinstance(piece, FileSegment):
            await self._send(piece.length, lambda at, size: self._sendfile(piece, at, size))
        else:
            view = memoryview(piece)
            await self._send(len(view), lambda at, size: self._sock.send(view[at : at + size]))

    def _sendfile(self, piece: FileSegment, at: int, size: int) -> int:
        sent = os.sendfile(self._sock.fileno(), piece.fd, piece.offset + at, size)
        if not sent:
            raise NotFoundError("the image has become shorter")
        return sent

    async def _send(self, length: int, send_some: Callable[[int, int], int]) -> None:
        at = 0
        while at < length:
            size = length - at
            if self._limit.rate is not None:
                size = await self._allowed(size)
            end = at + size
            while at < end:
                try:
                    sent = send_some(at, end - at)
                except BlockingIOError:
                    await self._writable()
                else:
                    at += sent
                    self.sent += sent
                    self._late += sent / self._bounds.min_rate

    async def _allowed(self, size: int) -> int:
        size = min(size, self._limit.step)
        before = self._loop.time()
        await self._limit.take(size)
        self._late += self._loop.time() - before
        return size

    async def _writable(self) -> None:
        wait_s = min(self._bounds.write_s, self._late - self._loop.time())
        ready: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_writer(self._sock.fileno(), _wake, ready)
        try:
            async with asyncio.timeout(wait_s):
                await ready
        except TimeoutError:
            raise StalledError("The client stalls") from None
        finally:
            self._loop.remove_writer(self._sock.fileno())


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
