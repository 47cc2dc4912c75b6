"""Bases: which image on this machine an overlay is put on, when several show the disk that it needs.

Copies of a master are equal in content and not in what becomes of them: one on a stick is gone tomorrow, and
one that was only come across belongs to no lab. So the user's own choice comes first: what the overlay stands
on already, then the directories that the command names, then a copy that the user named, shared, fetched or
made, on a disk of this machine. Any other copy is the last resort.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from overlaysync.errors import OverlaysyncError
from overlaysync.formats.folders import images_in
from overlaysync.formats.image import Format
from overlaysync.model.manifest import Header
from overlaysync.ops.known import Known, is_read_only
from overlaysync.ops.library import Library
from overlaysync.store.catalog import Catalog
from overlaysync.store.images import ImageRow
from overlaysync.store.media import may_go


@dataclass(frozen=True, slots=True)
class Places:
    """Where the image below an overlay is looked for.

    Attributes:
        directories: those that the command names, the first counts most. Files in them that are not known are
            hashed until one fits.
        called: name of the master; files of that name are hashed first.
        present: path of the image that the overlay stands on now; "" for none.
        last_resort: whether a copy counts that lies elsewhere and may be gone tomorrow.
    """

    directories: Sequence[str]
    called: str
    present: str = ""
    last_resort: bool = True


@dataclass(frozen=True, slots=True)
class BaseFinder:
    """Finds the image below a layer, if it is here; see :func:`find_base`.

    Attributes:
        library: knows the images here.
        directories: as in :class:`Places`.
        now: seconds since 1970.
    """

    library: Library
    directories: Sequence[str]
    now: float

    def __call__(self, header: Header, path: str, *, last_resort: bool = True) -> Known | None:
        """Return the image below a layer that is for the file at ``path``; None for none."""
        assert header.parent_id is not None
        present = path_below(self.library, path)
        places = Places(self.directories, header.parent_name, present, last_resort)
        return find_base(self.library, header.parent_id, places, now=self.now)


def find_base(library: Library, disk: bytes, places: Places, *, now: float) -> Known | None:
    """Return the image here, whose guest sees ``disk``, that an overlay is to stand on; None for none.

    An overlay that may be written is no base: its owner will start it.

    Args:
        library: knows the images here.
        disk: id of the disk.
        places: where it is looked for.
        now: seconds since 1970.
    """
    directories = places.directories
    if places.present and (base := _fitting(library, places.present, disk, now)):
        return base
    rows = [row for row in library.holders(disk) if row.layer is None or is_read_only(row.path)]
    real = list(map(os.path.realpath, directories))
    inside = [row for place in real for row in rows if os.path.dirname(row.path) == place]
    found = next(_examined(library, inside, now), None) or _unknown_in(
        library, disk, places, now, sizes={row.virtual_size for row in rows}
    )
    if found is not None:
        return found
    lasting = [row for row in rows if _is_lasting(library.catalog, row, directories)]
    lasting.sort(key=lambda row: library.catalog.held.at(row.path) is None)
    return next(_examined(library, [*lasting, *(rows if places.last_resort else ())], now), None)


def path_below(library: Library, path: str) -> str:
    """Return the path of the image that an overlay stands on; "" when it cannot be opened, or is a master."""
    try:
        with library.open(path) as chain:
            return os.path.realpath(chain.images[1].path)
    except (OverlaysyncError, OSError, IndexError):
        return ""


def lies_in(path: str, directories: Sequence[str]) -> bool:
    """Return whether a file lies in one of the directories itself."""
    return os.path.dirname(os.path.realpath(path)) in map(os.path.realpath, directories)


def _fitting(library: Library, path: str, disk: bytes, now: float) -> Known | None:
    with suppress(OverlaysyncError, OSError):
        known = library.examine(path, now=now)
        if known.disk.id == disk and (known.layer is None or is_read_only(known.path)):
            return known
    return None


def _examined(library: Library, rows: Sequence[ImageRow], now: float) -> Iterator[Known]:
    for row in rows:
        with suppress(OverlaysyncError, OSError):
            yield library.examine(row.path, now=now, format=Format(row.format))


def _unknown_in(
    library: Library, disk: bytes, places: Places, now: float, *, sizes: set[int]
) -> Known | None:
    """Return the first file in the directories that shows the disk.

    Where a size is known, of those of that size.
    """
    with images_in(places.directories) as found:
        for item in sorted(found, key=lambda item: not os.path.basename(item.path).startswith(places.called)):
            with suppress(OverlaysyncError, OSError):
                if sizes and _size(library, item.path, item.open()) not in sizes:
                    continue
                known = library.examine(item.path, now=now, file=item.open())
                if known.disk.id == disk and (known.layer is None or is_read_only(item.path)):
                    return known
    return None


def _size(library: Library, path: str, file: int) -> int:
    with library.open(path, file=file) as chain:
        return chain.virtual_size


def _is_lasting(catalog: Catalog, row: ImageRow, directories: Sequence[str]) -> bool:
    """Whether a copy is one that the user knows of, on a disk that stays."""
    path = row.path
    known = catalog.images.is_named(path) or catalog.held.at(path) or catalog.made.at(path)
    return bool(known) and not may_go(path, directories)
