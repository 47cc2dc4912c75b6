"""The contract that every image reader fulfils.

An :class:`Image` is one open file and speaks of *its own layer only*; :mod:`overlaysync.formats.chain` reads
through backing files. Nothing is written here, and no name found inside an image is opened here.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from types import TracebackType
from typing import Self

from overlaysync.errors import ImageError
from overlaysync.model.digest import Kind
from overlaysync.units import MAX_VIRTUAL_SIZE, format_size


class Format(StrEnum):
    """An image format; the value is QEMU's name for it."""

    QED = "qed"
    QCOW2 = "qcow2"
    RAW = "raw"


WRITTEN = (Format.QED, Format.QCOW2, Format.RAW)
"""The formats that images are written in; all are read."""


def copied_as(format: Format) -> Format:
    """Return the format of the copies of an image: its own, or qcow2 where its own can only be read."""
    return format if format in WRITTEN else Format.QCOW2


MAGIC = {Format.QED: b"QED\0", Format.QCOW2: b"QFI\xfb"}
"""The four bytes with which an image begins; raw ones begin with anything else."""


class Compression(IntEnum):
    """How compressed clusters are stored; the value is qcow2's."""

    ZLIB = 0
    ZSTD = 1

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Geometry:
    """How an image is laid out.

    Attributes:
        format: the format.
        cluster_size: its allocation unit in bytes (raw: the file system's 4096).
        subcluster_size: smaller than ``cluster_size`` only for qcow2 with extended L2 entries.
        compression: how its compressed clusters are stored; None when it has none.
    """

    format: Format
    cluster_size: int
    subcluster_size: int
    compression: Compression | None = None


@dataclass(frozen=True, slots=True)
class Backing:
    """What a header says of its backing file. Text only: nobody opens it without :mod:`.chain`'s checks.

    Attributes:
        name: the bytes in the header.
        format: the format named there; None where the format is left to probing (QED with a non-raw backing).
    """

    name: bytes
    format: str | None


@dataclass(frozen=True, slots=True)
class Extent:
    """A run of guest bytes of one kind.

    Attributes:
        offset: guest offset in bytes.
        length: bytes.
        kind: what the layer says of them.
        host: for DATA, where in the file the bytes lie.
        stored: for a compressed cluster, the most bytes it takes in the file from ``host``; else 0.
    """

    offset: int
    length: int
    kind: Kind
    host: int = 0
    stored: int = 0


def clip(extent: Extent, offset: int, end: int) -> Extent:
    """Return the part of ``extent`` in ``offset`` ..

    ``end``, which overlap; a compressed cluster's host stays.
    """
    start, stop = max(extent.offset, offset), min(extent.offset + extent.length, end)
    moved = extent.kind is Kind.DATA and not extent.stored
    host = extent.host + (start - extent.offset if moved else 0)
    return Extent(start, stop - start, extent.kind, host, extent.stored)


def check_range(offset: int, length: int, virtual_size: int) -> None:
    """Refuse a guest range that is not inside the disk.

    Raises:
        ValueError: a caller's mistake.
    """
    if offset < 0 or length < 0 or offset + length > virtual_size:
        raise ValueError(f"{length} bytes at {offset} are not inside a disk of {virtual_size} bytes")


def check_virtual_size(virtual_size: int, path: str) -> int:
    """Return ``virtual_size``.

    Raises:
        ImageError: it is over our limit.
    """
    if virtual_size > MAX_VIRTUAL_SIZE:
        limit = format_size(MAX_VIRTUAL_SIZE)
        raise ImageError(f"its virtual size, {virtual_size} bytes, is over the limit of {limit}", path=path)
    return virtual_size


class Image(ABC):
    """One open image file, own layer only.

    Attributes:
        path: the path it was opened by.
        real_path: the same without symlinks, as it was then: later it may lead elsewhere.
        fd: the open file, O_RDONLY.
        geometry: format and cluster sizes.
        virtual_size: guest bytes, a multiple of 512.
        backing: what the header names, or None.
        notes: what a rebuilt image would not carry over (internal snapshots, bitmaps), one sentence each.
        snapshots: how many internal snapshots it has.
    """

    path: str
    real_path: str
    fd: int
    geometry: Geometry
    virtual_size: int
    backing: Backing | None
    notes: tuple[str, ...] = ()
    snapshots: int = 0

    def snapshot_names(self) -> tuple[str, ...]:
        """Return the names of its internal snapshots, at least of the first ones."""
        return ()

    @classmethod
    @abstractmethod
    def open(cls, path: str, fd: int, *, tables: bool = True) -> Self:
        """Read the image open as ``fd``; without its ``tables``, no data can be read.

        Raises:
            ImageError: it is damaged or of a kind we do not read.
        """

    @abstractmethod
    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """Return the extents that cover ``offset`` .. ``offset + length`` exactly, in order.

        Neighbours of one kind (and, for DATA, adjacent in the file) are one extent; a compressed cluster
        is an extent of its own, clipped at the ends only, with ``host`` and ``stored`` of the whole cluster.
        """

    @abstractmethod
    def read_into(self, extent: Extent, buffer: memoryview) -> None:
        """Fill ``buffer`` (``extent.length`` bytes) with a DATA extent; bytes past the file's end are zero.

        Raises:
            ImageError: a compressed cluster does not inflate to its size, or the disk cannot read it.
        """

    def on(self, fd: int) -> Self:
        """Return the same image on a second descriptor of its file, which it takes over."""
        other = copy(self)
        other.fd = fd
        return other

    def close(self) -> None:
        """Close the file; locks held through it end."""
        os.close(self.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
