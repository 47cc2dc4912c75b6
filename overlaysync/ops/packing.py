"""Packing: the clusters of a master, read back from its whole part file, verified again and compressed.

A master that its publisher has compressed is fetched as any other, in random order to its final places, and
written anew when it is whole: compressed clusters have no place before it is known how short they become.
What is read back is verified again, so what the disk did to it meanwhile gets into no finished file.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from overlaysync.errors import VerificationError
from overlaysync.formats.compressed import deflate
from overlaysync.formats.image import Compression, Format
from overlaysync.formats.layout import Layout
from overlaysync.model.datamap import DataMap, SlotRun
from overlaysync.model.digest import as_digests, equal_rows, hash_units
from overlaysync.model.manifest import Header
from overlaysync.ops.hashing import Progress
from overlaysync.ops.threads import in_order
from overlaysync.store.direct import aligned_buffer
from overlaysync.units import MIB

_WINDOW = 2 * MIB
"""Guest bytes that a thread packs at a time: the largest cluster, and a part of a page's."""

_LEAST_GROWTH = 1.5
"""From how many times its size on an image's growth is worth the time of packing it, or a word."""


@dataclass(frozen=True, slots=True)
class Packing:
    """How a master is to be packed.

    Attributes:
        compression: of its clusters.
        room: bytes that it will about take.
    """

    compression: Compression
    room: int


def grows(size: int, data_size: int) -> bool:
    """Whether an image of ``size`` bytes takes much more where its data are not compressed."""
    return data_size >= _LEAST_GROWTH * size


def packing_of(header: Header, format: Format) -> Packing | None:
    """How a faithful copy in ``format`` is packed; None for not at all, or where that saves little."""
    if format is not Format.QCOW2 or not header.compression:
        return None
    if not grows(header.compressed_size, header.data_size):
        return None
    return Packing(Compression[header.compression.upper()], header.compressed_size)


class Packer:
    """Reads and compresses the clusters of one master.

    Args:
        data: its data map.
        layout: where its units lie in the part file.
        read: fills a buffer from an offset in the part file; returns how many bytes there were.
        compression: of the clusters.
        progress: told of the bytes of data that are done; may end the work with an exception.
    """

    def __init__(
        self,
        data: DataMap,
        layout: Layout,
        read: Callable[[int, memoryview], int],
        compression: Compression,
        progress: Progress | None = None,
    ) -> None:
        self._data = data
        self._layout = layout
        self._read = read
        self._compression = compression
        self._progress = progress
        self._cluster = layout.target.cluster_size
        self._own = threading.local()

    def windows(self) -> Generator[list[tuple[int, bytes]], None, None]:
        """Yield (number, stored bytes) of the clusters that are not all zeros, in order, a window at a time.

        Raises:
            VerificationError: the part file does not hold what was written to it.
        """
        packed = in_order(self._pack, self._runs())
        with closing(packed):
            yield from packed

    def _runs(self) -> Iterator[SlotRun]:
        """Yield the slots of each window."""
        per_window = _WINDOW // self._data.pages.unit
        for run in self._data.runs(0, self._data.count):
            breaks = np.flatnonzero(np.diff(run.units // per_window)) + 1
            for low, high in zip([0, *breaks.tolist()], [*breaks.tolist(), len(run.units)], strict=True):
                yield SlotRun(run.first + low, run.units[low:high], run.digests[low:high])

    def _pack(self, run: SlotRun) -> list[tuple[int, bytes]]:
        unit, size = self._data.pages.unit, self._cluster
        start = int(run.units[0]) * unit // _WINDOW * _WINDOW
        window = self._buffer()
        bytes_there = np.frombuffer(window, dtype=np.uint8)
        bytes_there[:] = 0
        hosts = self._layout.locate(run.first, run.units)
        breaks = np.flatnonzero((np.diff(run.units) != 1) | (np.diff(hosts) != unit)) + 1
        for low, high in zip([0, *breaks.tolist()], [*breaks.tolist(), len(hosts)], strict=True):
            at = int(run.units[low]) * unit - start
            length = self._data.span(run.first + low, high - low)
            part = window[at : at + length]
            count = self._read(int(hosts[low]), part)
            digests = as_digests(hash_units(part, unit))
            if count < length or not equal_rows(digests, run.digests[low:high]).all():
                raise VerificationError(
                    "What is read from the disk is not what was written to it",
                    why=f"the part file is corrupted at byte {int(hosts[low])} of {length}",
                    hint="repeat the command, and look at 'dmesg': the disk may be failing",
                )
        clusters = bytes_there.reshape(-1, size)
        packed = []
        for row in np.flatnonzero(clusters.any(axis=1)).tolist():
            plain = window[row * size : (row + 1) * size]
            packed.append((start // size + row, deflate(plain, self._compression) or bytes(plain)))
        if self._progress:
            self._progress(self._data.span(run.first, len(run.units)))
        return packed

    def _buffer(self) -> memoryview:
        """Return this thread's own."""
        if not hasattr(self._own, "buffer"):
            self._own.buffer = aligned_buffer(_WINDOW)
        buffer: memoryview = self._own.buffer
        return buffer
