"""Verify: re-read an image and compare it with what is known of it, naming damage by guest offset."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from overlaysync.errors import ImageError, NotFoundError, OverlaysyncError
from overlaysync.formats.image import Format
from overlaysync.model.digest import equal_rows
from overlaysync.model.fingerprint import Fingerprint
from overlaysync.model.pages import LoadPage, PageList
from overlaysync.ops.expected import Basis, Expected
from overlaysync.ops.hashing import Progress
from overlaysync.ops.known import Known
from overlaysync.ops.library import Library
from overlaysync.ops.versions import hold_again
from overlaysync.store.images import ImageRow
from overlaysync.store.target import Entry, entry_at
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
        expected: what the image must hold, and how that is known.
        touched: the file has been written since it held that: perhaps not damage but use.
        below: one that it stands on has been written since the image was last read.
        damage: where they differ; empty means verified.
        known: the image as it is now; None when it cannot be read as one.
        unreadable: why it cannot; "" when it can.
        entry: what had its name when that was read.
    """

    expected: Expected
    touched: bool
    below: bool
    damage: tuple[Damage, ...]
    known: Known | None = None
    unreadable: str = ""
    entry: Entry | None = None

    @property
    def path(self) -> str:
        """Real path of the image."""
        return self.expected.path


def verify(
    library: Library,
    path: str,
    *,
    now: float,
    format: Format | None = None,
    accept_master: bool = False,
    progress: Progress | None = None,
) -> Verdict:
    """Read every byte of the image at ``path`` and compare with what it must hold.

    The image below an overlay is re-read as well: a layer on a wrong disk is damage to what the guest sees.

    Args:
        library: knows what the image must hold.
        path: may be a symlink.
        now: seconds since 1970.
        format: what the user says that it is; None to look.
        accept_master: compare also where an overlay's master was replaced.
        progress: told of the bytes read.

    Raises:
        NotFoundError: nothing is known of it, so there is nothing to compare with.
        ImageError: nothing is known of it and it is no image, or it is known as an image of another format
            than ``format``.
        BaseImageError: the master of an overlay was replaced or written to.
    """
    expected = library.expected(path)
    if expected is None:
        library.open(path, format).close()  # What is no image at all is refused as such.
        raise NotFoundError(
            f"This machine has no record of {path} to compare it with",
            hint=f"overlaysync id '{path}', and verify it later",
        )
    row = library.catalog.images.at(expected.path)
    if row and format not in (None, row.format):
        raise ImageError(f"it is known as a {row.format} image, not as {format}", path=path)
    format = Format(row.format) if row else format
    entry = entry_at(expected.path)
    touched, below = _written(library, expected, row, format)
    # Rot below an overlay is named where its guest sees it; a master that was written to is another one.
    accept = accept_master or not below
    try:
        known = library.examine_anew(path, now=now, format=format, progress=progress, accept_master=accept)
    except ImageError as error:
        size = row.virtual_size if row else 0
        return Verdict(expected, touched, below, (Damage(0, size),), None, error.reason, entry)
    damage = () if known.disk.id in expected.also else tuple(_damage(library, expected, known))
    if not damage:
        library.confirm(known, now=now)
        if expected.basis in (Basis.PUBLISHED, Basis.MADE):
            hold_again(library.catalog, known)
    return Verdict(expected, touched, below, damage, known, entry=entry)


def _written(
    library: Library, expected: Expected, row: ImageRow | None, format: Format | None
) -> tuple[bool, bool]:
    """Whether the file was written since it was as expected, and one below it since it was last read."""
    try:
        with library.open(expected.path, format) as chain:
            top, *below = chain.fingerprints()
    except (OverlaysyncError, OSError):
        return _fingerprint(expected.path) != expected.file, False
    return top != expected.file, tuple(below) != (row.chain[1:] if row else ())


def _fingerprint(path: str) -> Fingerprint | None:
    try:
        return Fingerprint.of(os.stat(path))
    except OSError:
        return None


def _damage(library: Library, expected: Expected, known: Known) -> Iterator[Damage]:
    """Where an image differs from what it must hold; all of it where the digests of that are not here."""
    load = library.catalog.pages.load_list
    disk = load(expected.disk)
    if disk is None and known.content.id != expected.content:
        yield Damage(0, known.disk.virtual_size)
        return
    found = list(differences(disk, known.disk, library.load_page)) if disk else []
    yield from found or _unseen(library, expected, known)


def _unseen(library: Library, expected: Expected, known: Known) -> Iterator[Damage]:
    """Differences that do not reach the guest: in what a layer says, or below what it hides."""
    if known.content.id == expected.content:
        return
    content = library.catalog.pages.load_list(expected.content)
    parent = library.catalog.pages.load_list(content.parent) if content and content.parent else None
    if known.parent is None or content is None or parent is None or content.unit != known.content.unit:
        yield Damage(0, known.disk.virtual_size)
        return
    yield from differences(content, known.content, library.load_page)
    yield from differences(parent, known.parent.disk, library.load_page)


def differences(left: PageList, right: PageList, load: LoadPage) -> Iterator[Damage]:
    """Yield the runs of guest bytes in which two lists of one unit differ, or that only one has."""
    return joined(_differing(left, right, load))


def joined(pieces: Iterable[tuple[int, int]]) -> Iterator[Damage]:
    """Yield runs made of [first, last) pieces that come in rising order."""
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
