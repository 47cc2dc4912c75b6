"""What is known of an image, and of the file that it is in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from overlaysync.formats.image import Geometry, Image
from overlaysync.model.digest import Kind
from overlaysync.model.fingerprint import Fingerprint
from overlaysync.model.pages import PageList
from overlaysync.store.images import ImageRow


@dataclass(frozen=True, slots=True)
class Known:
    """An image whose content is known.

    Attributes:
        path: real path.
        geometry: of the file.
        disk: digests of what the guest sees.
        layer: digests of what an overlay adds; None for a master.
        parent: the image below, None for a master.
        files: fingerprints of the image and all below it, as they were when it was examined.
        notes: what a rebuilt image would not carry over, and what was noted of the file here.
        base: path of the image that an overlay was read over, where that is not the one its header names.
    """

    path: str
    geometry: Geometry
    disk: PageList
    layer: PageList | None
    parent: Known | None
    files: tuple[Fingerprint, ...] = ()
    notes: tuple[str, ...] = ()
    base: str | None = None

    @property
    def content(self) -> PageList:
        """What a manifest of this image describes."""
        return self.layer or self.disk

    @property
    def lineage(self) -> Iterator[Known]:
        """This image and those below it, top first."""
        image: Known | None = self
        while image is not None:
            yield image
            image = image.parent


def is_blank(image: Image) -> bool:
    """Return whether nothing is written to the image itself."""
    extents = image.extents(0, image.virtual_size)
    return all(extent.kind is Kind.UNALLOCATED for extent in extents)


def is_as_hashed(row: ImageRow) -> bool:
    """Return whether the file itself is as it was hashed, whatever became of its master."""
    try:
        return Fingerprint.of(os.stat(row.path)) == row.fingerprint
    except OSError:
        return False


def is_read_only(path: str) -> bool:
    """Whether nobody has permission to write to the file."""
    return not os.stat(path).st_mode & 0o222
