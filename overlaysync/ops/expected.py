"""Expected: what a file must hold to count as verified, and how that is known. Decided here and nowhere else.

In this order: what it held when it was last fetched or published; what it was made with here, if it is a
master; the disk that overlays here were made on; and only then what it held when it was last read. Reading a
damaged master therefore never makes the damage its content.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum, auto

from overlaysync.errors import OverlaysyncError
from overlaysync.formats.chain import backing_path
from overlaysync.formats.detect import open_image
from overlaysync.formats.recognition import always
from overlaysync.model.fingerprint import Fingerprint
from overlaysync.ops.dates import utc
from overlaysync.ops.trust_messages import who
from overlaysync.store.catalog import Catalog
from overlaysync.store.images import ImageRow


class Basis(Enum):
    """How it is known what a file must hold."""

    PUBLISHED = auto()
    """It was fetched, or published here."""
    MADE = auto()
    """It is a master that was made here."""
    STOOD_ON = auto()
    """Overlays here were made on it."""
    READ = auto()
    """It was read here, and nothing else is known of it."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What a file must hold.

    Attributes:
        path: real path.
        basis: how that is known.
        disk: id of what its guest must see.
        layer: id of what it must add to its master; None for a master.
        file: the file's fingerprint when it held that: while it is the same, what differs is rot and no
            guest's work.
        since: what it was published as, or when it was made or read, for people.
        also: other disks that are right as well: overlays were made on it at different times.
        published: a version with that content that is known here, and by whom; "" for none.
    """

    path: str
    basis: Basis
    disk: bytes
    layer: bytes | None
    file: Fingerprint
    since: str
    also: tuple[bytes, ...] = ()
    published: str = ""

    @property
    def content(self) -> bytes:
        """The content id."""
        return self.layer or self.disk

    @property
    def ids(self) -> set[bytes]:
        """Ids of which an image that is right has one, as content or as disk."""
        return {self.content, self.disk, *self.also}

    @property
    def words(self) -> str:
        """How it is known, to be said of a file that is as it must be."""
        if self.basis is Basis.PUBLISHED:
            return f"as it was when published as {self.since}"
        if self.published:
            return f"as it was published: {self.published}"
        match self.basis:
            case Basis.MADE:
                return f"as it was made here on {self.since}; it was never published"
            case Basis.STOOD_ON:
                return f"as it was when {self.since} was made on it; it was never published"
            case Basis.READ:
                return f"as it was when it was hashed on {self.since}; it was never published"


def expected_at(catalog: Catalog, path: str) -> Expected | None:
    """Return what the file at the real path ``path`` must hold; None when nothing is known of it."""
    found = pledged_at(catalog, path) or _stood_on(catalog, path) or _read(catalog, path)
    if found is None or found.basis is Basis.PUBLISHED:
        return found
    # A file that was moved or copied here, or made anew: nothing is noted of its path, but of its content.
    rows, name = (
        catalog.manifests.matching(content=found.content),
        os.path.splitext(os.path.basename(path))[0],
    )
    row = min(rows, key=lambda row: row.name != name, default=None)
    return replace(found, published=f"{row.title} by {who(row.publisher, row.label)}") if row else found


def pledged_at(catalog: Catalog, path: str) -> Expected | None:
    """Return what a file must hold by what it was published as, or made with; None when it was neither."""
    made = catalog.made.at(path)
    if made and made.disk:
        return Expected(path, Basis.MADE, made.disk, None, made.file, utc(made.at))
    present = _fingerprint(path)
    if made and present and made.file[:2] == present[:2]:
        return None  # an overlay that was made anew where a published one was
    held = catalog.held.at(path)
    rows = [row for row in map(catalog.manifests.find, held.manifests if held else ()) if row]
    if held is None or not rows:
        return None
    # The first is what it holds; further ones were given up for it.
    row, *others = rows
    names = " and ".join([row.title, *(other.title for other in others if other.content == row.content)])
    layer = row.content if row.kind == "layer" else None
    return Expected(path, Basis.PUBLISHED, row.result or row.content, layer, held.file, names)


def _stood_on(catalog: Catalog, path: str) -> Expected | None:
    row = catalog.images.at(path)
    if row is not None and row.layer is not None:
        return None
    above = list(_overlays_on(catalog, path))
    if not above:
        return None
    disk, *also = dict.fromkeys(row.parent for row in above if row.parent)
    return Expected(path, Basis.STOOD_ON, disk, None, above[0].chain[1], above[0].path, tuple(also))


def _overlays_on(catalog: Catalog, path: str) -> Iterator[ImageRow]:
    """Yield the known overlays that stand on a file, by this name or by the one that it had before.

    A moved file keeps the time of its last write; only its inode's number may be another file's by now. One
    that was put there without proof does not say what the file must hold.
    """
    present = _fingerprint(path)
    for row in catalog.images.all():
        if row.parent is None or len(row.chain) < 2 or catalog.doubts.about(row.path, row.fingerprint):
            continue
        with suppress(OverlaysyncError, OSError), open_image(row.path, vouched=always) as image:
            same = os.fstat(image.fd)
            if (same.st_dev, same.st_ino) != row.fingerprint[:2] or image.backing is None:
                continue
            below = os.path.realpath(backing_path(row.path, image.backing))
            if below == path or (present and row.chain[1][:4] == present[:4]):
                yield row


def _read(catalog: Catalog, path: str) -> Expected | None:
    row = catalog.images.at(path)
    if row is None:
        return None
    return Expected(path, Basis.READ, row.disk, row.layer, row.fingerprint, utc(row.verified_at))


def _fingerprint(path: str) -> Fingerprint | None:
    try:
        return Fingerprint.of(os.stat(path))
    except OSError:
        return None


def published_contents(catalog: Catalog, path: str) -> set[bytes]:
    """Return the contents and disks that the file at a real path held when last fetched or published."""
    held = catalog.held.at(path)
    rows = map(catalog.manifests.find, held.manifests if held else ())
    return {id for row in rows if row for id in (row.content, row.result) if id}
