"""Disks that running VMs write to: what can be relied on before they are captured, and what was captured.

Of the file itself only the header is read: what else it holds, only the VM knows, and nothing is noted of it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from overlaysync.formats.image import Format, Geometry
from overlaysync.formats.qcow2 import Qcow2Image
from overlaysync.model.fingerprint import Fingerprint
from overlaysync.ops.hashing import Progress
from overlaysync.ops.known import Known
from overlaysync.ops.library import Library
from overlaysync.ops.recovery.freezing import FrozenDisk


@dataclass(frozen=True, slots=True)
class RunningDisk:
    """A disk that a VM writes to.

    Attributes:
        path: its real path.
        geometry: of the file.
        virtual_size: guest bytes.
        backing: (name, format) of the backing file, as a header names it; None for a standalone image.
        parent: what it stands on, hashed.
        files: fingerprints of the file and all below it.
        compressed: guest bytes in compressed clusters, at most.
    """

    path: str
    geometry: Geometry
    virtual_size: int
    backing: tuple[bytes, Format] | None
    parent: Known | None
    files: tuple[Fingerprint, ...]
    compressed: int


def examine_running(library: Library, path: str, *, now: float, progress: Progress) -> RunningDisk:
    """Return what can be relied on of a disk while a VM writes to it.

    Raises:
        BaseImageError, ImageError: its master is missing, or its header cannot be read.
    """
    with library.open(path, running=True) as chain:
        top, below = chain.top, chain.parent()
        geometry, compressed = top.geometry, 0
        if isinstance(top, Qcow2Image):
            compressed = top.compressed_bytes()
            if compressed:
                geometry = replace(geometry, compression=top.header.compression)
        parent = library.examine_chain(below, now=now, progress=progress) if below else None
        backing = (top.backing.name, chain.images[1].geometry.format) if top.backing else None
        return RunningDisk(
            top.real_path, geometry, top.virtual_size, backing, parent, chain.fingerprints(), compressed
        )


def captured_disk(
    library: Library, disk: RunningDisk, file: int, format: Format, progress: Progress
) -> FrozenDisk:
    """Return a disk as it is in a copy of its own layer.

    Args:
        library: opens images.
        disk: what was copied.
        file: a descriptor of the copy, which the caller closes.
        format: of the copy.
        progress: told of the bytes hashed.

    Raises:
        ImageError: the copy cannot be read.
        BaseImageError: the disk does not stand on its master.
    """
    with library.open(disk.path, format, file=os.dup(file)) as chain:
        if disk.parent is not None:
            library.masters.check_below(chain, disk.parent)
        known = library.hash_chain(chain, disk.parent, progress)
    known = replace(known, geometry=disk.geometry, files=disk.files)
    library.keep_content(known)
    return FrozenDisk(known, file, format)
