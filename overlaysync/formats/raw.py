"""Raw images: the file is the disk, and its holes are zeros.

Refuses files that begin like another format: a guest can write any header into its raw disk, and a program
that guesses would follow it (CVE-2008-2004). Source: QEMU block/file-posix.c (SEEK_DATA, SEEK_HOLE), block.c
(sizes round up to 512).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Self

from overlaysync.errors import ImageError
from overlaysync.formats.files import next_data, next_hole, pread_some, read_padded
from overlaysync.formats.image import Extent, Format, Geometry, Image, check_range, check_virtual_size
from overlaysync.formats.recognition import HEAD_SIZE, foreign_format
from overlaysync.model.digest import Kind
from overlaysync.units import SECTOR, round_up

_CLUSTER = 4096


class RawImage(Image):
    """A raw image; a layer without a parent, so a hole is ZERO."""

    _found: tuple[int, int]

    @classmethod
    def open(cls, path: str, fd: int, *, tables: bool = True) -> Self:
        """Read the raw image open as ``fd``.

        Raises:
            ImageError: it begins like another format, or is too large.
        """
        name = foreign_format(pread_some(fd, HEAD_SIZE, 0, path=path))
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
        read_padded(self.fd, extent.host, buffer, path=self.path, guest=extent.offset)
