"""Layouts: where everything of a new image goes, planned before its first byte is written.

A layout knows header, tables and the place of every data unit, so units may be written in any order and
straight to their final place. Formats implement :class:`Layout`; :mod:`overlaysync.formats.plan` chooses.
Here are the contract and the rules for what may be asked of it. Left out: writing, which is the caller's, and
in-place allocation, which is nobody's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from overlaysync.errors import ImageError
from overlaysync.formats.image import Format
from overlaysync.formats.names import has_protocol
from overlaysync.model.digest import Kind, Kinds
from overlaysync.units import CHUNK, KIB, MAX_VIRTUAL_SIZE, MIB, MIN_GRANULE, SECTOR, ceil_div

CLUSTER_LIMITS = {Format.QED: (4 * KIB, 4 * MIB), Format.QCOW2: (512, 2 * MIB)}
"""Smallest and largest cluster size in bytes. The upper limits are QEMU's (the QED text allows 64 MiB)."""

MAX_BACKING_NAME = 1023
"""Bytes; qcow2's limit (docs/interop/qcow2.rst, backing_file_size), kept for QED as well."""


class UnitMap(Protocol):
    """What a layout is planned from (a manifest's data map fulfils it).

    ``kind_pages`` gives (page number, kinds of its units) in rising order, PAGE_UNITS units a page; all other
    units are ``blank``. ``kind_groups`` gives the same with like pages together: (their numbers, kinds). Both
    are called more than once and give the same every time.
    """

    def kind_pages(self) -> Iterator[tuple[int, Kinds]]: ...

    def kind_groups(self) -> Iterator[tuple[NDArray[np.int64], Kinds]]: ...


@dataclass(frozen=True, slots=True)
class Target:
    """The image to be written.

    Attributes:
        format: its format.
        cluster_size: bytes; ignored for raw.
        virtual_size: guest bytes, a multiple of 512.
        unit: bytes of a data unit (64 KiB, or a layer's granule).
        blank: kind of the units that no page mentions.
        backing_name: the name to write as backing file, or None for a standalone image.
        backing_format: the backing file's format; required with a name.
    """

    format: Format
    cluster_size: int
    virtual_size: int
    unit: int
    blank: Kind
    backing_name: bytes | None = None
    backing_format: Format | None = None

    @property
    def unit_count(self) -> int:
        return ceil_div(self.virtual_size, self.unit)


class Layout(ABC):
    """The plan of one file.

    Attributes:
        target: what was planned.
        file_size: size of the finished file in bytes.
    """

    target: Target
    file_size: int

    @abstractmethod
    def locate(self, first_slot: int, units: NDArray[np.int64]) -> NDArray[np.int64]:
        """File offsets of consecutive data units.

        Args:
            first_slot: how many DATA units lie before the first one.
            units: their unit numbers, rising; shape (count,).

        Raises:
            IndexError: there are no such data units.
        """

    @abstractmethod
    def metadata(self) -> Iterator[tuple[int, bytes]]:
        """(file offset, bytes) of tables and header, the header last. What is not mentioned is zero."""


def cluster_size_for(format: Format, cluster_size: int, unit: int) -> int:
    """Return the cluster size in which to rebuild an image: the sender's, as far as ``format`` can hold it.

    Args:
        format: the format to write.
        cluster_size: the sender's, in bytes; its granule when it has subclusters.
        unit: bytes of a data unit.
    """
    if format not in CLUSTER_LIMITS:
        return CHUNK
    if unit < min(cluster_size, CHUNK):
        cluster_size = unit  # Granules this small come from subclusters; whole clusters may mix kinds.
    low, high = CLUSTER_LIMITS[format]
    if format is Format.QED:
        high = CHUNK  # qemu-img's map and compare fail on larger ones (docs/adr/0006)
    return max(low, min(high, cluster_size))


def check_target(target: Target) -> None:
    """Refuse a target that no file can be.

    Raises:
        ImageError: a size, the kind ``blank`` or the backing file's name is out of bounds.
    """
    if not 0 <= target.virtual_size <= MAX_VIRTUAL_SIZE or target.virtual_size % SECTOR:
        raise ImageError(f"a virtual size of {target.virtual_size} bytes is out of bounds")
    if not _power_between(MIN_GRANULE, target.unit, CHUNK):
        raise ImageError(f"a unit of {target.unit} bytes is out of bounds")
    if target.blank not in (Kind.UNALLOCATED, Kind.ZERO):
        raise ImageError("units that are left out cannot be data")
    if target.format in CLUSTER_LIMITS:
        low, high = CLUSTER_LIMITS[target.format]
        if not _power_between(low, target.cluster_size, high):
            raise ImageError(
                f"{target.format} cannot have clusters of {target.cluster_size} bytes",
                hint=f"choose a power of two from {low} to {high}",
            )
    if target.backing_name is not None:
        _check_backing(target.backing_name, target.backing_format)


def _power_between(low: int, number: int, high: int) -> bool:
    return low <= number <= high and not number & (number - 1)


def _check_backing(name: bytes, format: Format | None) -> None:
    if not 1 <= len(name) <= MAX_BACKING_NAME or b"\0" in name:
        raise ImageError(
            f"a backing file's name has 1 to {MAX_BACKING_NAME} bytes and no NUL",
            hint="put the master nearer, so that its relative path is shorter",
        )
    if has_protocol(name):
        raise ImageError("the backing file's name looks like a protocol", hint="put ./ before the name")
    if format is None:
        raise ImageError("the backing file's format is not given")
