"""Compression of image data and pages on their way.

A body is one zstd frame when its client asks for that and it pays.

Here is what pays on the serving side (data that shrink, within a bounded amount of memory), and the codec.
When to ask is decided in :mod:`overlaysync.swarm.link`. Leaves out a cache of compressed bodies: clients ask
for other pieces in other sizes, and what fills a 100 Mbit/s link costs a tenth of a core.

Source: RFC 8878 (zstd), RFC 9110 section 8.4 (Content-Encoding).
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from weakref import WeakKeyDictionary

from overlaysync.errors import NotFoundError, PeerError
from overlaysync.net.bounds import MAX_COMPRESSED_BODY
from overlaysync.net.messages import Runs
from overlaysync.net.sending import gather, read_segment
from overlaysync.ops.offer import FileSegment, Offer, Segment

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ENCODING = "zstd"

_LEVEL = 3
"""Measured on bodies of 1 MiB of a Debian file system, one core: level 1 makes 0.35 of it at 560 MB/s,
level 2 0.33 at 460, level 3 0.32 at 360, level 4 0.317 at 300. So 3 gives twice what a slow link takes."""

_WORTH = 0.9
"""A body that does not shrink to this part of its length is sent plain."""

_MAX_SKIP = 64
"""Bodies of an image sent plain, untried, after others did not shrink: 1, 2, 4 … 64."""

_THREADS = max(1, (os.cpu_count() or 1) // 2)
"""Half of the processors: whoever asks for compressed data leaves the rest to VMs and to reading."""

_WINDOW_LOG = (MAX_COMPRESSED_BODY - 1).bit_length()


def compress(plain: bytes) -> bytes:
    """One frame, which says how long ``plain`` is. Blocking; other threads run meanwhile."""
    return zstd.compress(plain, _LEVEL)


def decompress(frame: bytes, size: int) -> bytes:
    """Return the ``size`` bytes that ``frame`` holds. Blocking; other threads run meanwhile.

    Takes some three times ``size`` in memory: what a frame promises is compared before any of it is unpacked.

    Raises:
        PeerError: it is not one frame without a dictionary, of exactly ``size`` bytes, as it must say itself.
    """
    try:
        info = zstd.get_frame_info(frame)
        if info.decompressed_size != size or info.dictionary_id or zstd.get_frame_size(frame) != len(frame):
            raise PeerError("The peer sends a compressed body of another length")
        options = {int(zstd.DecompressionParameter.window_log_max): _WINDOW_LOG}
        decompressor = zstd.ZstdDecompressor(options=options)
        plain: bytes = decompressor.decompress(frame, max_length=size + 1)
    except zstd.ZstdError:
        raise PeerError("The peer sends a damaged compressed body") from None
    if len(plain) != size or not decompressor.eof:
        raise PeerError("The peer sends a compressed body of another length")
    return plain


def decompress_at_most(frame: bytes, limit: int) -> bytes:
    """Return what ``frame`` holds, as :func:`decompress`.

    It must say how much, and not more than ``limit`` bytes.

    Raises:
        PeerError: it is no such frame.
    """
    try:
        size = zstd.get_frame_info(frame).decompressed_size
    except zstd.ZstdError:
        raise PeerError("The peer sends a damaged compressed body") from None
    if not size or size > limit:  # or it does not say
        raise PeerError(f"The peer sends a compressed body of unknown length or more than {limit} bytes")
    return decompress(frame, size)


class Trials:
    """Whether trying to compress bodies of one image is worth the time, by how the last ones fared."""

    def __init__(self) -> None:
        self._skip = 0
        self._next_skip = 1
        self._under_way = 0

    def begin(self) -> bool:
        """Whether to try the next body; each True is followed by one :meth:`end`."""
        if self._skip:
            self._skip -= 1
            return False
        if self._next_skip > 1 and self._under_way:
            return False  # one is enough to find out
        self._under_way += 1
        return True

    def end(self, *, shrank: bool | None) -> None:
        """Note that a body was tried; None when nothing was learnt."""
        self._under_way -= 1
        if shrank is None:
            return
        if shrank:
            self._skip, self._next_skip = 0, 1
        elif not self._skip:  # else it began before the failure that is being answered
            self._skip, self._next_skip = self._next_skip, min(2 * self._next_skip, _MAX_SKIP)


class Compressor:
    """Makes the compressed bodies of a server.

    Args:
        room: bytes that all bodies under way may take; those being compressed count with their plain length.
    """

    def __init__(self, room: int) -> None:
        self._room = room
        self._trials: WeakKeyDictionary[Offer, Trials] = WeakKeyDictionary()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="compress")

    def close(self) -> None:
        """Begin nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    @asynccontextmanager
    async def body(self, offer: Offer, runs: Runs, length: int) -> AsyncIterator[bytes | None]:
        """Compress data for as long as the block runs; yield None when they are better sent plain.

        Raises:
            NotFoundError: the image has changed since it was published.
        """
        if length > min(self._room, MAX_COMPRESSED_BODY) or not self._of(offer).begin():
            yield None
            return
        held = length
        self._room -= held
        try:
            body = await self._try(offer, runs, length)
            held = len(body) if body else 0
            self._room += length - held
            yield body
        finally:
            self._room += held

    async def _try(self, offer: Offer, runs: Runs, length: int) -> bytes | None:
        """Return the compressed body if it is much shorter."""
        trials = self._of(offer)
        shrank = None  # nothing is learnt from who goes away, or from an image that cannot be read
        try:
            body = await asyncio.get_running_loop().run_in_executor(
                self._threads, lambda: compress(_read_all(offer.segments(runs), length))
            )
            shrank = len(body) <= length * _WORTH
            return body if shrank else None
        finally:
            trials.end(shrank=shrank)

    def _of(self, offer: Offer) -> Trials:
        return self._trials.setdefault(offer, Trials())


def _read_all(segments: Iterable[Segment], length: int) -> bytes:
    pieces = gather(segments)
    data = b"".join(read_segment(piece) if isinstance(piece, FileSegment) else piece for piece in pieces)
    if len(data) != length:
        raise NotFoundError("the image gave other bytes than were promised")
    return data
