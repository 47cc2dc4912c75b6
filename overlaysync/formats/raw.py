"""Raw images: the file is the disk, and its holes are zeros.

Refuses files that begin like another format: a guest can write any header into its raw disk, and a program
that guesses would follow it (CVE-2008-2004). Source: QEMU block/file-posix.c (SEEK_DATA, SEEK_HOLE), block.c
(sizes round up to 512).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Self

from overlaysync.errors import ImageError
from overlaysync.formats.files import next_data, next_hole, read_padded
from overlaysync.formats.image import MAGIC, Extent, Format, Geometry, Image, check_range, check_virtual_size
from overlaysync.model.digest import Kind
from overlaysync.units import SECTOR, round_up

_CLUSTER = 4096

FOREIGN = (
    (0, MAGIC[Format.QCOW2], "a qcow2 image"),
    (0, MAGIC[Format.QED], "a QED image"),
    (0, b"KDMV", "a VMDK image"),
    (0, b"COWD", "a VMDK image"),
    (0, b"# Disk DescriptorFile", "a VMDK descriptor"),
    (0, b"Bochs Virtual HD Image", "a Bochs image"),
    (0, b"#!/bin/sh\n#V2.0 Format\n", "a cloop image"),
    (0, b"conectix", "a VHD image"),
    (0, b"vhdxfile", "a VHDX image"),
    (0, b"LUKS\xba\xbe", "a LUKS-encrypted image"),
    (0, b"WithoutFreeSpace", "a Parallels image"),
    (0, b"WithouFreSpacExt", "a Parallels image"),
    (64, b"\x7f\x10\xda\xbe", "a VDI image"),
)
"""(offset, bytes there, what it is)."""


_VMDK_TEXT = re.compile(rb"(?:#[^\n]*\n|[ \t\r]*\n)*[ \t]*version=[0-9]")
"""A descriptor may begin with comments and blank lines; what it names, QEMU opens."""

HEAD_SIZE = 2048
"""Bytes that QEMU looks at to guess a format (block.c, BLOCK_PROBE_BUF_SIZE)."""


def foreign_format(head: bytes) -> str | None:
    """What a file that begins with ``head`` (HEAD_SIZE bytes or all) is, if not raw."""
    if _VMDK_TEXT.match(head):
        return "a VMDK descriptor"
    for offset, magic, name in FOREIGN:
        if head[offset : offset + len(magic)] == magic:
            return name
    return None


class RawImage(Image):
    """A raw image; a layer without a parent, so a hole is ZERO."""

    _found: tuple[int, int]

    @classmethod
    def open(cls, path: str, fd: int) -> Self:
        """Read the raw image open as ``fd``.

        Raises:
            ImageError: it begins like another format, or is too large.
        """
        name = foreign_format(os.pread(fd, HEAD_SIZE, 0))
        if name:
            raise ImageError(
                f"it is {name}, not a raw one", path=path, hint="convert it with qemu-img convert"
            )
        image = cls()
        image.path = path
        image.fd = fd
        image.geometry = Geometry(Format.RAW, _CLUSTER, _CLUSTER)
        image.virtual_size = check_virtual_size(round_up(os.fstat(fd).st_size, SECTOR), path)
        image.backing = None
        image._found = 0, 0
        return image

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """See :class:`Image`; data are what the file system does not call a hole."""
        check_range(offset, length, self.virtual_size)
        end = offset + length
        while offset < end:
            first, last = self._data_after(offset)
            start, stop = min(max(first, offset), end), min(last, end)
            if start > offset:
                yield Extent(offset, start - offset, Kind.ZERO)
            if stop > start:
                yield Extent(start, stop - start, Kind.DATA, host=start)
            offset = max(start, stop)

    def _data_after(self, offset: int) -> tuple[int, int]:
        """Start and end, in whole sectors, of the data at or after ``offset``; or twice the end of the disk.

        The last answer is kept: some file systems walk over every page to find the end of long data.
        """
        first, last = self._found
        if first <= offset < last:
            return first, last
        data = next_data(self.fd, offset)
        if data is None or data >= self.virtual_size:
            return self.virtual_size, self.virtual_size
        hole = next_hole(self.fd, data, self.virtual_size)
        # Not read back from the attribute: another thread may have set it since.
        self._found = found = data // SECTOR * SECTOR, round_up(hole, SECTOR)
        return found

    def read_into(self, extent: Extent, buffer: memoryview) -> None:
        """See :class:`Image`."""
        read_padded(self.fd, extent.host, buffer)
