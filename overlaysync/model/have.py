"""Have maps: which slots of a data map somebody holds. One byte a slot in memory, one bit on the wire."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from overlaysync.errors import DecodeError

_EDGE = np.int8(0)
"""A plain 0 would turn a byte a slot into eight."""


class HaveMap:
    """A set of slots 0 .. ``count - 1``."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._bits = np.zeros(count, dtype=np.bool_)

    def __len__(self) -> int:
        """How many slots are held."""
        return int(np.count_nonzero(self._bits))

    def __contains__(self, slot: int) -> bool:
        return bool(self._bits[slot])

    def add(self, first: int, count: int = 1) -> None:
        """Hold the slots ``first`` .. ``first + count - 1``."""
        self._bits[first : first + count] = True

    def complete(self) -> bool:
        """Whether every slot is held."""
        return bool(self._bits.all())

    def missing(self) -> HaveMap:
        """Return the slots that are not held."""
        result = HaveMap(self.count)
        np.logical_not(self._bits, out=result._bits)
        return result

    def runs(self, limit: int) -> Iterator[tuple[int, int]]:
        """(first, count) of the held slots in order, no run longer than ``limit``."""
        yield from _runs(self._bits, limit)

    def gaps(self, first: int, count: int, limit: int) -> Iterator[tuple[int, int]]:
        """Likewise of the slots that are not held, of ``count`` from ``first`` on."""
        for start, length in _runs(~self._bits[first : first + count], limit):
            yield first + start, length

    def slots(self) -> list[int]:
        """Return the held slots, rising."""
        held: list[int] = np.flatnonzero(self._bits).tolist()
        return held

    def to_bytes(self) -> bytes:
        """One bit a slot, the first in the highest bit of the first byte, the rest of the last byte zero."""
        return np.packbits(self._bits).tobytes()

    @classmethod
    def from_bytes(cls, data: bytes, count: int) -> HaveMap:
        """Return the map that ``data`` encodes.

        Raises:
            DecodeError: the length does not fit ``count``, or bits past the end are set.
        """
        if len(data) != (count + 7) // 8:
            raise DecodeError(f"a have map of {count} slots cannot have {len(data)} bytes")
        bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8))
        if bits[count:].any():
            raise DecodeError("a have map has bits past its end")
        result = cls(count)
        result._bits = bits[:count].astype(np.bool_)
        return result


def _runs(bits: NDArray[np.bool_], limit: int) -> Iterator[tuple[int, int]]:
    """(first, count) of the set ``bits`` in order, no run longer than ``limit``."""
    edges = np.flatnonzero(np.diff(bits.view(np.int8), prepend=_EDGE, append=_EDGE))
    for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        for first in range(start, end, limit):
            yield first, min(limit, end - first)
