"""Targets: the files that QEMU copies a disk to, made by us and with all their room reserved beforehand.

QEMU copies a cluster to its target before the guest may overwrite it. If that fails for want of room, it is
the guest's write that fails. So what a target may grow to is reserved before QEMU hears of it: a full disk is
found out while the guest notices nothing.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from overlaysync.errors import OverlaysyncError
from overlaysync.formats.image import Format, Image, copied_as
from overlaysync.formats.layout import Target
from overlaysync.formats.plan import plan_layout
from overlaysync.live.processes import Identity
from overlaysync.model.digest import Kind, Kinds
from overlaysync.ops.recovery.running import RunningDisk
from overlaysync.store.files import allocated, preallocate, translate, write_all_at
from overlaysync.store.freezing import unnamed
from overlaysync.units import CHUNK, KIB, MIB, SECTOR, ceil_div, round_up

_SLACK = 32 * MIB
"""What a guest may allocate between the last look at its disk and the moment that is kept."""
_SMALLEST = 4 * KIB
"""Cluster size of a target, at least: a unit of a layer is no smaller."""
_ENTRY, _REFCOUNT = 8, 2
"""Bytes that a cluster takes in the tables of qcow2."""
_HEADERS = 64
"""Clusters of a qcow2 file that are no data and no L2 table: more than enough."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file that a running VM writes to, and that is to be captured.

    Attributes:
        path: its real path.
        identity: device and inode.
        format: of the file.
        copied_as: format of the target: raw for a small file that is wanted byte by byte, else qcow2.
        virtual_size: guest bytes.
        cluster_size: of the target.
        backing: what the target's header says of a backing file: (name, format); None for a standalone image.
        compressed: bytes that its compressed clusters take when they are written plainly.
        spread: how many bytes of the target a byte of the source may take.
    """

    path: str
    identity: Identity
    format: Format
    copied_as: Format
    virtual_size: int
    cluster_size: int = CHUNK
    backing: tuple[bytes, Format] | None = None
    compressed: int = 0
    spread: int = 1

    @property
    def room(self) -> int:
        """Bytes that a target of it may grow to, if the copy began now."""
        if self.copied_as is Format.RAW:
            return round_up(self.virtual_size, CHUNK)
        used = allocated(os.stat(self.path))
        data = (used + self.compressed) * self.spread + max(used // 10, _SLACK)
        data = min(data, self.virtual_size)
        tables = ceil_div(self.virtual_size, self.cluster_size * self.cluster_size // _ENTRY)
        clusters = ceil_div(data, self.cluster_size) + tables + _HEADERS
        return clusters * self.cluster_size + clusters * _REFCOUNT * 2 + MIB


def disk_source(disk: RunningDisk) -> Source:
    """Return the source that is a disk."""
    status = os.stat(disk.path)
    geometry = disk.geometry
    smallest = min(geometry.cluster_size, geometry.subcluster_size)
    raw = geometry.format is Format.RAW
    return Source(
        path=disk.path,
        identity=(status.st_dev, status.st_ino),
        format=geometry.format,
        copied_as=Format.QCOW2,
        virtual_size=disk.virtual_size,
        cluster_size=CHUNK if raw else max(_SMALLEST, min(CHUNK, smallest)),
        backing=disk.backing,
        compressed=disk.compressed,
        # QEMU copies 64 KiB at once, whatever the cluster size.
        spread=1 if raw else max(1, CHUNK // max(SECTOR, smallest)),
    )


def file_source(image: Image) -> Source:
    """Return the source that is a small file, such as UEFI variables: its target is of the same format.

    A format that can only be read has qcow2 for its copies, as everywhere.
    """
    status = os.fstat(image.fd)
    format = image.geometry.format
    identity = status.st_dev, status.st_ino
    return Source(image.real_path, identity, format, copied_as(format), image.virtual_size)


class _Nothing:
    """The unit map of a layer in which nothing is written."""

    def kind_pages(self) -> Iterator[tuple[int, Kinds]]:
        yield from ()

    def kind_groups(self) -> Iterator[tuple[NDArray[np.int64], Kinds]]:
        yield from ()


def make_target(source: Source, directory: Path) -> int:
    """Return a descriptor of a new target without a name, with its room reserved; the caller closes it.

    Raises:
        NoSpaceError: there is no room for it.
        OverlaysyncError: ``directory`` cannot be written to.
    """
    file = unnamed(directory)
    try:
        try:
            if source.copied_as is Format.RAW:
                os.ftruncate(file, source.virtual_size)
            else:
                _write_header(source, file)
        except OSError as error:
            raise _no_room(source, directory, error) from error
        reserve(source, file, directory)
    except BaseException:
        os.close(file)
        raise
    return file


def reserve(source: Source, file: int, directory: Path) -> None:
    """Reserve what a target may grow to if the copy began now.

    Raises:
        NoSpaceError: there is no room for it.
    """
    room = source.room
    held = allocated(os.fstat(file))
    if held >= room:
        return
    try:
        preallocate(file, room)
        if allocated(os.fstat(file)) < room:  # a file system that reserves nothing
            free = os.fstatvfs(file)
            if free.f_bavail * free.f_frsize < 2 * room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise _no_room(source, directory, error) from error


def _no_room(source: Source, directory: Path, error: OSError) -> OverlaysyncError:
    what = f"Cannot copy {source.path} to {directory} while its VM runs"
    return translate(error, what, directory=str(directory))


def _write_header(source: Source, file: int) -> None:
    name, format = source.backing or (None, None)
    target = Target(
        format=Format.QCOW2,
        cluster_size=source.cluster_size,
        virtual_size=source.virtual_size,
        unit=source.cluster_size,
        blank=Kind.UNALLOCATED,
        backing_name=name,
        backing_format=format,
    )
    layout = plan_layout(target, _Nothing())
    os.ftruncate(file, layout.file_size)
    for offset, data in layout.metadata():
        write_all_at(file, [memoryview(data)], offset)
