"""Whether QEMU would open other files together with one: the small files of a VM that another machine sent.

A qcow2 or QED header names a backing file or a data file, and a VMDK descriptor its extents. QEMU reads them,
and writes to data files and extents, wherever they lie. Source: formats.md, "Backing files".
"""

from __future__ import annotations

import os

from overlaysync.errors import ImageError
from overlaysync.formats.detect import open_image
from overlaysync.formats.files import pread_some
from overlaysync.formats.image import Format
from overlaysync.formats.recognition import HEAD_SIZE, always, detect_format, foreign_format

OPENED = frozenset(("uefi", "seed"))
"""Roles of companions that QEMU opens as a disk."""


def not_alone(fd: int, path: str) -> str:
    """Return why QEMU must not open a small file as a disk: it may lead to others; "" where it stands alone.

    Args:
        fd: the open file.
        path: of it, for people.
    """
    if detect_format(fd) is Format.RAW:
        return foreign_format(pread_some(fd, HEAD_SIZE, 0, path=path)) or ""
    try:
        with open_image(path, None, always, file=os.dup(fd), tables=False) as image:
            return "" if image.backing is None else "an image that stands on another file"
    except ImageError as error:
        return f"an image that cannot be used ({error.reason})"
