"""Compressed bodies made by hand: what a zstd frame can say, true or not.

Source: RFC 8878, section 3.1.1.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

from overlaysync.units import KIB

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAGIC = b"\x28\xb5\x2f\xfd"
_RAW, _RLE = 0, 1
_MAX_BLOCK = 128 * KIB


def skippable(content: bytes, *, length: int | None = None) -> bytes:
    """A frame that decoders pass over."""
    size = len(content) if length is None else length
    return (0x184D2A50).to_bytes(4, "little") + size.to_bytes(4, "little") + content


def header(*, size: int | None = None, window_log: int | None = None, dictionary: int = 0) -> bytes:
    """Magic number and frame header.

    Args:
        size: content size, eight bytes; none when it is not said.
        window_log: of the window descriptor; without one, it is a frame of a single segment.
        dictionary: id, four bytes when it is not 0.
    """
    single = window_log is None
    descriptor = (3 << 6 if size is not None else 0) | single << 5 | (3 if dictionary else 0)
    window = b"" if window_log is None else bytes([(window_log - 10) << 3])
    identity = dictionary.to_bytes(4, "little") if dictionary else b""
    content_size = b"" if size is None else size.to_bytes(8, "little")
    return MAGIC + bytes([descriptor]) + window + identity + content_size


def block(kind: int, size: int, content: bytes, *, last: bool = False) -> bytes:
    """A block of bytes as they are, or of one byte repeated."""
    return (last | kind << 1 | size << 3).to_bytes(3, "little") + content


def zeros(size: int) -> bytes:
    """Blocks, four bytes for each 128 KiB, that hold ``size`` zeros."""
    sizes = [_MAX_BLOCK] * (size // _MAX_BLOCK) + [size % _MAX_BLOCK]
    return b"".join(block(_RLE, size, b"\0", last=at == len(sizes) - 1) for at, size in enumerate(sizes))


def raw(content: bytes) -> bytes:
    """The last block."""
    return block(_RAW, len(content), content, last=True)


def encode(plain: bytes, options: Mapping[int, int] | None = None) -> bytes:
    """One frame by the library, with options of its own."""
    compressor = zstd.ZstdCompressor(options=dict(options or {}))
    frame: bytes = compressor.compress(plain, zstd.ZstdCompressor.FLUSH_FRAME)
    return frame


def without_size(plain: bytes) -> bytes:
    """One frame that does not say how long its content is."""
    return encode(plain, {int(zstd.CompressionParameter.content_size_flag): 0})


def with_checksum(plain: bytes) -> bytes:
    """One frame with a checksum behind its blocks."""
    return encode(plain, {int(zstd.CompressionParameter.checksum_flag): 1})


def lies(plain: bytes) -> dict[str, bytes]:
    """Everything that is not one frame of ``plain``, which must be compressible text of 100 bytes or more."""
    good = encode(plain)
    size = len(plain)
    checked = with_checksum(plain)
    return {
        "plain": plain[: len(good)],
        "magic only": MAGIC,
        "cut off by one": good[:-1],
        "half": good[: len(good) // 2],
        "a byte behind": good + b"\0",
        "a frame behind": good + good,
        "an empty frame behind": good + encode(b""),
        "an empty frame before": encode(b"") + good,
        "many empty frames": encode(b"") * (size // len(encode(b""))),
        "a skippable frame before": skippable(b"xx") + good,
        "a skippable frame behind": good + skippable(b"xx"),
        "a skippable frame alone": skippable(b"xx"),
        "a skippable frame without end": skippable(b"xx", length=0xFFFFFFFF),
        "one byte less": encode(plain[:-1]),
        "one byte more": encode(plain + b"x"),
        "nothing": encode(b""),
        "a bomb": header(size=1 << 30) + zeros(1 << 30)[: size - 20],
        "a bomb that says so not": header(window_log=17) + zeros(1 << 24)[: size - 20],
        "a bomb that lies": header(size=size) + zeros(1 << 24)[: size - 20],
        "a whole bomb that lies": header(size=size) + zeros(1 << 22),
        "a huge size": header(size=(1 << 64) - 3) + raw(plain),
        "a huge window": header(size=size, window_log=41) + raw(plain),
        "no size": without_size(plain),
        "a dictionary": header(size=size, dictionary=7) + raw(plain),
        "less than it says": header(size=size) + raw(plain[:-1]),
        "more than it says": header(size=size) + raw(plain + b"x"),
        "a wrong checksum": checked[:-1] + bytes([checked[-1] ^ 1]),
        "zstd 0.7": b"\x27\xb5\x2f\xfd" + good[4:],
        "gzip": b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + good,
    }
