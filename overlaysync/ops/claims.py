"""Claims: what says which master a stray belongs to, and how much that counts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum, auto

import numpy as np

from overlaysync.model.digest import Kind, equal_rows, kinds_of
from overlaysync.model.pages import LoadPage, PageList
from overlaysync.ops.doubts import is_before
from overlaysync.ops.library import Library
from overlaysync.ops.strays import NOWHERE, Stray
from overlaysync.ops.trust_messages import who
from overlaysync.store.images import ImageRow
from overlaysync.trust.book import Book, Trust
from overlaysync.trust.envelope import Manifest, open_envelope
from overlaysync.trust.teams import Team

_STILL_THE_SAME = 0.5
"""Part of its granules by which an overlay is known again that was moved and written to."""


class Grade(IntEnum):
    """How much a claim counts; of two that contradict each other the higher one does."""

    RECORD = auto()
    """The file was on that master when it was last read here, and was written to since."""
    ALIKE = auto()
    """Another overlay that was read here holds the same."""
    SEEN = auto()
    """This file was read on that master here, or an unknown publisher describes it."""
    TRUSTED = auto()
    """A team of this node, or a publisher that is trusted for the name, describes it."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Something that says which disk a stray stands on.

    Attributes:
        parent: the disk.
        layer: the layer id that the stray has on it, if the claim is about it.
        grade: how much it counts.
        words: what says so, for people.
        manifest: where that is one.
        parent_name: what its publisher calls the master; "" when not known.
    """

    parent: bytes
    layer: bytes
    grade: Grade
    words: str
    manifest: Manifest | None = None
    parent_name: str = ""


class Claims:
    """Collects what speaks for one master or another.

    Args:
        stray: the overlay.
        library: what is known here.
        book, teams: whose word counts.
    """

    def __init__(self, stray: Stray, library: Library, book: Book, teams: Mapping[str, Team]) -> None:
        self._stray = stray
        self._library = library
        self._book = book
        self._teams = teams
        self._ids: dict[bytes, bytes] = {}
        self._doubts = library.catalog.doubts.by_content()

    def here(self) -> list[Claim]:
        """Return what is known here: by manifests kept or seen, by images, by layers that were read before.

        Overlays to which nothing was written are all alike, so of such a one only its own record counts.
        """
        catalog = self._library.catalog
        self._doubts = doubted = catalog.doubts.by_content()
        rows = [
            row
            for row in catalog.images.all()
            if row.layer not in doubted and not catalog.doubts.about(row.path, row.fingerprint)
        ]
        if self._stray.is_empty:
            own = [row for row in rows if row.path == self._stray.path and self._is_same_file(row)]
            return [claim for row in own if (claim := self._by_image(row) or self._by_record(row))]
        claims = [*self.of(open_envelope(row.envelope) for row in catalog.manifests.layers())]
        claims += [claim for row in rows if (claim := self._by_image(row))]
        if self._stray.is_exact:
            claims += [
                Claim(
                    pages.parent, pages.id, Grade.ALIKE, "an overlay that was read on it here held the same"
                )
                for pages in catalog.pages.lists_of_shape(self._stray.layer.shape)
                if pages.parent not in (None, NOWHERE) and pages.id not in doubted
            ]
        claims += [claim for row in rows if (claim := self._by_record(row))]
        return claims

    def of(self, manifests: Iterable[Manifest]) -> Iterator[Claim]:
        """Yield what manifests of overlays say, those that are about an overlay like this one."""
        pages = self._stray.layer
        for manifest in () if self._stray.is_empty else manifests:
            header = manifest.header
            if (header.virtual_size, header.unit) != (pages.virtual_size, pages.unit):
                continue
            if header.parent_id is None or not self._may_be(header.parent_id, header.content_id):
                continue
            if not manifest.belongs(self._teams) or self._is_guess(manifest):
                continue
            trust = self._book.trust(manifest.publisher, header.team, header.name)
            grade = Grade.TRUSTED if header.team or trust is not Trust.NO else Grade.SEEN
            words = f"it is {header.full_name}:{header.version} by {who(manifest.publisher, header.by)}"
            parent_name = header.parent_name
            yield Claim(header.parent_id, header.content_id, grade, words, manifest, parent_name)

    def _is_guess(self, manifest: Manifest) -> bool:
        """Whether a manifest may come of what was put on a master here without proof: it proves nothing."""
        doubt = self._doubts.get(manifest.header.content_id)
        return doubt is not None and not is_before(manifest.header.created, doubt)

    def _by_image(self, row: ImageRow) -> Claim | None:
        """Return what an image that is known here says."""
        if row.layer is None or row.parent is None or row.virtual_size != self._stray.layer.virtual_size:
            return None
        if not self._may_be(row.parent, row.layer):
            return None
        if row.path == self._stray.path:
            return Claim(row.parent, row.layer, Grade.SEEN, "it was read on that master here")
        words = f"it holds the same as {row.path}, which was read on that master here"
        return Claim(row.parent, row.layer, Grade.ALIKE, words)

    def _by_record(self, row: ImageRow) -> Claim | None:
        """Return what was known of the file before it was written to, here or where it was moved from."""
        stray = self._stray
        if row.layer is None or row.parent is None or not self._is_same_file(row):
            return None
        moved = row.path != stray.path
        recorded = self._library.catalog.pages.load_list(row.layer)
        if (moved and os.path.lexists(row.path)) or recorded is None:
            return None
        kept = kept_part(recorded, stray.layer, self._library.load_page)
        if kept is None or (moved and kept < _STILL_THE_SAME):
            return None
        words = "it was on that master when it was last read here, and was written to since"
        return Claim(row.parent, row.layer, Grade.RECORD, words)

    def _is_same_file(self, row: ImageRow) -> bool:
        """Whether it is the row of this file, whatever was written to it since."""
        return row.fingerprint[:2] == self._stray.file[:2]

    def _may_be(self, parent: bytes, layer: bytes) -> bool:
        """Whether the stray may have that layer id on that disk."""
        if not self._stray.is_exact:
            return True
        if parent not in self._ids:
            self._ids[parent] = self._stray.on(parent).id
        return self._ids[parent] == layer


def kept_part(before: PageList, now: PageList, load: LoadPage) -> float | None:
    """Return which part of the granules of ``before`` are unchanged in ``now``; 0 when it has none.

    None when ``now`` cannot have come from it by writing: that never gives a granule back to the master.
    """
    if (before.virtual_size, before.unit) != (now.virtual_size, now.unit):
        return None
    total = same = 0
    for index in before.indices:
        old, new = before.load(index, load), now.load(index, load)
        allocated = kinds_of(old) != Kind.UNALLOCATED
        if (kinds_of(new)[allocated] == Kind.UNALLOCATED).any():
            return None
        total += int(np.count_nonzero(allocated))
        same += int(np.count_nonzero(equal_rows(old, new) & allocated))
    return same / total if total else 0.0
