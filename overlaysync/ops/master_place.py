"""Master place: the directory and the name of a master that was asked for.

Overlays stay on the version that they were made on, so a master that has them is not replaced: a newer one
goes beside it, and stays there, whatever it is called.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from overlaysync.formats.image import Format
from overlaysync.ops.bases import lies_in
from overlaysync.ops.discard import standing_on
from overlaysync.ops.library import Library
from overlaysync.ops.plan import free_path, place_of
from overlaysync.ops.versions import State, compare
from overlaysync.trust.envelope import Manifest


@dataclass(frozen=True, slots=True)
class Wish:
    """What a command says about where masters are.

    Attributes:
        masters: directories of masters.
        default: where a missing master goes.
        name: name of the file; None for the thing's.
        format: its format; None for the sender's.
        beside: whether a newer version goes beside one that overlays stand on, instead of being refused.
    """

    masters: Sequence[str]
    default: str
    name: str | None = None
    format: Format | None = None
    beside: bool = False


def place_of_master(library: Library, offered: Manifest, wish: Wish) -> tuple[str, str | None]:
    """Return the directory that has it, even one that cannot be written, else where it goes; and its name.

    The name is None where it is that of the thing.
    """
    header = offered.header
    here = [row.path for row in library.holders(header.result_id) if row.layer is None]
    for directory in wish.masters:
        path = place_of(header, directory, name=wish.name, format=wish.format)
        if os.path.realpath(path) in here:
            return directory, wish.name
    place = place_of(header, wish.default, name=wish.name, format=wish.format)
    if wish.name or not wish.beside or not _is_stood_on(library, place, offered):
        return wish.default, wish.name
    beside = (path for path in here if lies_in(path, [*wish.masters, wish.default]))
    return os.path.split(next(beside, None) or free_path(wish.default, header, []))


def _is_stood_on(library: Library, place: str, offered: Manifest) -> bool:
    """Whether an older version is there, unchanged, and overlays stand on it."""
    row = library.known(place)
    if row is None or row.layer is not None:
        return False
    if compare(library.catalog, row.path, row.disk, offered).state is not State.BEHIND:
        return False
    return bool(standing_on(row.path, row.fingerprint[:2], library.catalog))
