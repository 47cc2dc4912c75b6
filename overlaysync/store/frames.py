"""Bytes as the catalog keeps them: one zstd frame each, by themselves or beside bytes that they resemble.

The pages and the list of an overlay's disk are those of its master but for a few digests, which do not shrink
at all: beside their master's they take some hundred bytes.
"""

from __future__ import annotations

import sys

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_LEVEL = 1
"""Of zstd: digests do not shrink at any level, markers and what is known already do at each."""


def pack(body: bytes, beside: bytes = b"") -> bytes:
    """Return the frame of ``body``, which needs ``beside`` to be unpacked if that was given."""
    if not beside:
        return zstd.compress(body, _LEVEL)
    return zstd.compress(body, _LEVEL, zstd_dict=zstd.ZstdDict(beside, is_raw=True).as_prefix)


def unpack(frame: bytes, limit: int, beside: bytes = b"") -> bytes:
    """Return what :func:`pack` was given; of a frame that has changed anything of at most ``limit`` bytes.

    Raises:
        ValueError: it is no frame, or of something larger.
    """
    try:
        size = zstd.get_frame_info(frame).decompressed_size
        if not 0 <= size <= limit:
            raise ValueError(f"it has {size} bytes, and may have {limit}")
        if not beside:
            body: bytes = zstd.decompress(frame)
        else:
            body = zstd.decompress(frame, zstd_dict=zstd.ZstdDict(beside, is_raw=True).as_prefix)
    except (zstd.ZstdError, TypeError) as error:
        raise ValueError(str(error)) from error
    return body
