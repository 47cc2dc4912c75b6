"""The lineage as the page shows it: the family tree of what is known here, and of what peers list."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

from overlaysync.model.digest import short_id
from overlaysync.model.fingerprint import Fingerprint
from overlaysync.model.names import one_field, printable
from overlaysync.node.family import family_of
from overlaysync.node.node import Node
from overlaysync.ops.matching import Listing
from overlaysync.ops.tree import Entry, EntryKind, Row, Tree
from overlaysync.ops.tree_drawing import title
from overlaysync.store.images import ImageRow
from overlaysync.trust.envelope import Manifest, open_envelope
from overlaysync.web.model import Image

MOST = 2000
"""Rows shown: peers list as much as they like."""
_DEEPEST = 12
"""Levels drawn: manifests may claim any number."""
_MOST_PATHS = 8
_MOST_HOLDERS = 64
_REMEMBERED = 8192


class Lineage:
    """Draws the tree again and again, and remembers what is slow to find out.

    Args:
        node: knows the images.

    Attributes:
        paths: the files of each row by its key, as the system knows them.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self.paths: dict[str, tuple[str, ...]] = {}
        self._opened: dict[bytes, Manifest] = {}
        self._fits: dict[str, tuple[Fingerprint | None, ImageRow, bool]] = {}

    def rows(
        self, listings: Sequence[Listing], shared: Mapping[bytes, str], used: Sequence[str]
    ) -> tuple[tuple[Image, ...], int]:
        """Return the rows to show, and how many more there are.

        Args:
            listings: what peers list.
            shared: what this node shares: by content the team.
            used: paths that a VM writes to.
        """
        tree, _ = family_of(
            self._node, only_here=False, listed=listings, fits=self._row_fits, opened=self._open
        )
        listed: dict[bytes, list[Listing]] = {}
        for listing in listings:
            listed.setdefault(listing.manifest.header.content_id, []).append(listing)
        titles = {row.entry.id: title(row.entry) for row in tree.rows}
        shown = _near(tree)
        guides = _guides(shown[:MOST])
        self.paths = {
            key_of(row.entry.id): tuple(copy.path for copy in row.entry.copies) for row in shown[:MOST]
        }
        bases = {row.entry.base for row in shown[:MOST]}
        rows = tuple(
            replace(
                _image(row, titles, listed.get(row.entry.content, []), shared.get(row.entry.content), used),
                guides=guides[row.entry.id],
                carries=row.entry.id in bases,
            )
            for row in shown[:MOST]
        )
        return rows, len(shown) - len(rows)

    def _open(self, envelope: bytes) -> Manifest:
        """Return the manifest in an envelope; one that was verified before need not be again."""
        found = self._opened.get(envelope)
        if found is None:
            if len(self._opened) >= _REMEMBERED:
                self._opened.clear()
            found = self._opened[envelope] = open_envelope(envelope)
        return found

    def _row_fits(self, row: ImageRow) -> bool:
        """Whether a row fits its files; only those that changed since the last look are opened."""
        now = _fingerprint(row.path)
        before = self._fits.get(row.path)
        if before is None or before[:2] != (now, row):
            if len(self._fits) >= _REMEMBERED:
                self._fits.clear()
            before = self._fits[row.path] = now, row, self._node.library.known(row.path) is not None
        return before[2]


def key_of(id: bytes) -> str:
    """Return the key of the row with this id."""
    return id.hex()[:32]


def _fingerprint(path: str) -> Fingerprint | None:
    try:
        return Fingerprint.of(os.stat(path))
    except OSError:
        return None


def _near(tree: Tree) -> list[Row]:
    """Return the rows without versions that are neither here, nor listed, nor carry anything that is."""
    carry: set[bytes] = set()
    for row in reversed(tree.rows):
        entry = row.entry
        if entry.copies or any(version.nodes for version in entry.versions) or entry.id in carry:
            carry.add(entry.id)
            if entry.base is not None:
                carry.add(entry.base)
    return [row for row in tree.rows if row.entry.id in carry]


def _image(
    row: Row,
    titles: Mapping[bytes, str],
    listings: Sequence[Listing],
    team: str | None,
    used: Sequence[str],
) -> Image:
    entry = row.entry
    paths = tuple(printable(copy.path, 1024) for copy in entry.copies[:_MOST_PATHS])
    labels = tuple(dict.fromkeys(one_field(label) for one in listings for label in one.labels))
    using = tuple(one_field(usage.label) for one in listings for usage in one.in_use)
    using += ("",) if any(copy.path in used for copy in entry.copies) else ()
    promoted = entry.promoted
    return Image(
        key=key_of(entry.id),
        kind=entry.kind.value,
        title=titles[entry.id],
        short=short_id(entry.content),
        size=entry.data_size,
        guides="",
        carries=False,
        on=titles.get(entry.base, "") if entry.base else "",
        paths=paths,
        shared=team is not None,
        team=team or next((one.manifest.header.team for one in listings), ""),
        machines=max((one.machines for one in listings), default=0),
        holders=labels[:_MOST_HOLDERS],
        in_use=using[:_MOST_HOLDERS],
        verified_at=max((copy.verified_at for copy in entry.copies), default=None),
        changed=_changed(entry),
        promoted=(key_of(promoted), titles.get(promoted, "")) if promoted else None,
        reference=_reference(entry),
    )


def _changed(entry: Entry) -> str:
    if entry.copies and all(copy.changed for copy in entry.copies):
        return "changed"
    return "master" if entry.copies and all(copy.master_changed for copy in entry.copies) else ""


def _reference(entry: Entry) -> str:
    if entry.kind is EntryKind.MISSING:
        return ""
    return next((str(version) for version in entry.versions if version.nodes), "")


def _guides(rows: Sequence[Row]) -> dict[bytes, str]:
    """Return how the lines to the left of each row are drawn; rows that are not shown have none."""
    last: set[bytes] = set()
    parents: set[bytes | None] = set()
    for row in reversed(rows):
        if row.entry.base not in parents:
            parents.add(row.entry.base)
            last.add(row.entry.id)
    found: dict[bytes, str] = {}
    for row in rows:
        if row.entry.base is None:
            found[row.entry.id] = ""
            continue
        above = found.get(row.entry.base, "").replace("t", "p").replace("e", " ")
        letters = above.removeprefix("…") + ("e" if row.entry.id in last else "t")
        cut = len(letters) > _DEEPEST or above.startswith("…")
        found[row.entry.id] = "…" + letters[-_DEEPEST:] if cut else letters
    return found
