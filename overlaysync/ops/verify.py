"""Verify: re-read an image and compare it with what is known of it, naming damage by guest offset."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from overlaysync.errors import ImageError, NotFoundError, OverlaysyncError
from overlaysync.formats.image import Format
from overlaysync.model.digest import equal_rows
from overlaysync.model.pages import LoadPage, PageList
from overlaysync.ops.hashing import Progress
from overlaysync.ops.library import Known, Library
from overlaysync.store.catalog import ImageRow
from overlaysync.units import PAGE_UNITS


@dataclass(frozen=True, slots=True)
class Damage:
    """A run of guest bytes that are not what they were.

    Attributes:
        offset: guest offset in bytes.
        length: bytes.
    """

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What verifying found.

    Attributes:
        path: the image.
        layer: layer id that it should have, None for a master.
        disk: disk id that it should have.
        touched: the file has been written since it was last hashed: perhaps not damage but use.
        below: one that it stands on has been.
        damage: where they differ; empty means verified.
        unreadable: why it cannot be read as an image at all; "" when it can.
    """

    path: str
    layer: bytes | None
    disk: bytes
    touched: bool
    below: bool
    damage: tuple[Damage, ...]
    unreadable: str = ""


def verify(
    library: Library,
    path: str,
    *,
    now: float,
    format: Format | None = None,
    progress: Progress | None = None,
) -> Verdict:
    """Read every byte of the image at ``path`` and compare.

    The image below an overlay is re-read as well: a layer on a wrong disk is damage to what the guest sees.

    Raises:
        NotFoundError: nothing is known of it, so there is nothing to compare with.
        ImageError: nothing is known of it and it is no image, or it is known as an image of another format
            than ``format``.
    """
    row = library.catalog.image_at(os.path.realpath(path))
    if row is None:
        library.open(path, format).close()  # What is no image at all is refused as such.
        raise NotFoundError(
            f"Nothing is known of {path}, so it cannot be compared",
            hint=f"overlaysync id '{path}', and verify it later",
        )
    if format not in (None, row.format):
        raise ImageError(f"it is known as a {row.format} image, not as {format}", path=path)
    touched, below = _written(library, row)
    before = library.catalog.pages.load_list(row.disk)
    assert before is not None, "an image's row refers to a list that is kept"
    try:
        known = library.examine(path, now=now, format=Format(row.format), progress=progress, fresh=True)
    except ImageError as error:
        return Verdict(
            row.path, row.layer, row.disk, touched, below, (Damage(0, row.virtual_size),), error.reason
        )
    damage = tuple(differences(before, known.disk, library.load_page)) or tuple(_unseen(library, row, known))
    if not damage:
        library.confirm(known, now=now)
    return Verdict(row.path, row.layer, row.disk, touched, below, damage)


def _written(library: Library, row: ImageRow) -> tuple[bool, bool]:
    """Whether the file, or one below it, is another than when it was hashed."""
    try:
        with library.open(row.path, Format(row.format)) as chain:
            top, *below = chain.fingerprints()
    except (OverlaysyncError, OSError):
        return True, False
    return top != row.chain[0], tuple(below) != row.chain[1:]


def _unseen(library: Library, row: ImageRow, known: Known) -> Iterator[Damage]:
    """Differences that do not reach the guest: in what a layer says, or below what it hides."""
    if known.content.id == (row.layer or row.disk):
        return
    content = library.catalog.pages.load_list(row.layer or row.disk)
    parent = library.catalog.pages.load_list(row.parent) if row.parent else None
    if known.parent is None or content is None or parent is None or content.unit != known.content.unit:
        yield Damage(0, known.disk.virtual_size)
        return
    yield from differences(content, known.content, library.load_page)
    yield from differences(parent, known.parent.disk, library.load_page)


def differences(left: PageList, right: PageList, load: LoadPage) -> Iterator[Damage]:
    """Runs of guest bytes in which two lists of one unit differ, or that only the longer one has."""
    return joined(_differing(left, right, load))


def joined(pieces: Iterable[tuple[int, int]]) -> Iterator[Damage]:
    """Runs made of [first, last) pieces that come in rising order."""
    start = end = 0
    for first, last in pieces:
        if first > end:
            if start < end:
                yield Damage(start, end - start)
            start = first
        end = max(end, last)
    if start < end:
        yield Damage(start, end - start)


def _differing(left: PageList, right: PageList, load: LoadPage) -> Iterator[tuple[int, int]]:
    """[first, last) guest bytes of every unit that differs, rising, then of what only one list has."""
    shorter, longer = sorted((left.virtual_size, right.virtual_size))
    for index in sorted({*left.indices, *right.indices}):
        if left.page(index) == right.page(index):
            continue
        a, b = (pages.load(index, load) for pages in (left, right))
        count = min(len(a), len(b))
        for at in np.flatnonzero(~equal_rows(a[:count], b[:count])).tolist():
            offset = (index * PAGE_UNITS + at) * left.unit
            yield offset, min(offset + left.unit, longer)
    if shorter < longer:
        yield shorter, longer
