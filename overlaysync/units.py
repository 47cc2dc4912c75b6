"""Sizes and their text forms. All sizes are bytes."""

from __future__ import annotations

import re

from overlaysync.errors import UsageError

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40

SECTOR = 512
"""QEMU rounds raw sizes up to this."""

CHUNK = 64 * KIB
"""Our unit of a disk: 64 KiB of guest address space."""

MIN_GRANULE = 4 * KIB

PAGE_UNITS = 1024
"""Digests in a page."""

MAX_VIRTUAL_SIZE = 64 * TIB
"""Our limit for a guest disk; larger images are refused."""

_SUFFIX = {"": 1, "K": KIB, "M": MIB, "G": GIB, "T": TIB}
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Bytes meant by ``text`` such as ``512K``, ``10 MiB`` or ``1.5G`` (powers of 1024).

    Raises:
        UsageError: it is not a size.
    """
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise UsageError(f"'{text}' is not a size", hint="write a size like 512K, 20M or 1.5G")
    return int(float(match[1]) * _SUFFIX[match[2].upper()])


def format_size(size: int) -> str:
    """``size`` for people: ``412 MiB``, ``3.4 GiB``."""
    if size < KIB:
        return f"{size} B"
    value = float(size)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        value /= KIB
        if value < KIB or unit == "TiB":
            break
    return f"{value:.0f} {unit}" if value >= 100 or value == int(value) else f"{value:.1f} {unit}"


def ceil_div(number: int, divisor: int) -> int:
    """Return ``number / divisor`` rounded up."""
    return -(-number // divisor)


def round_up(number: int, step: int) -> int:
    """Return the next multiple of ``step`` that is not below ``number``."""
    return ceil_div(number, step) * step


def clamp_granule(unit: int) -> int:
    """Return the granule of a layer whose format allocates ``unit`` bytes at a time."""
    return max(MIN_GRANULE, min(CHUNK, unit))
