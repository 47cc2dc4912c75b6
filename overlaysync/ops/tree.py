"""The family tree: masters, the overlays on them, and the masters that overlays were promoted to.

Pure: made from catalog rows and listings; whether files are still there is for the caller to see. Drawing is
in :mod:`overlaysync.ops.tree_drawing`. A thing is one content, however many files, names and versions it has.
An overlay stands on the file its backing file is where that is known here, else on whatever shows its parent
disk; a base that nobody knows is an entry of its own. Overlays that were written to since they were
hashed are one thing no longer: each file is an entry. Manifests may claim anything, rings included, so rings
are cut.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from overlaysync.model.names import one_field
from overlaysync.ops.audience import stem
from overlaysync.ops.matching import Listing
from overlaysync.store.images import ImageRow


class EntryKind(StrEnum):
    """What an entry of the tree is."""

    MASTER = "master"
    OVERLAY = "overlay"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Copy:
    """A file here that holds an entry's content.

    Attributes:
        path: real path.
        format: ``raw``, ``qed`` or ``qcow2``.
        changed: whether the file was written since it was hashed.
        verified_at: when it was hashed, seconds since 1970.
        master_changed: whether only what the file stands on was written to or replaced since.
    """

    path: str
    format: str
    changed: bool
    verified_at: float
    master_changed: bool = False


@dataclass(frozen=True, slots=True)
class Version:
    """A name under which the content is published.

    Attributes:
        name: ``team/name`` or ``name``.
        version: 1, 2, …
        by: label of the publisher's node, safe to print.
        created: ISO 8601 UTC.
        nodes: labels of the nodes that list it.
    """

    name: str
    version: int
    by: str
    created: str
    nodes: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}:{self.version}"


@dataclass(frozen=True, slots=True)
class Entry:
    """One content in the tree.

    Attributes:
        kind: what it is.
        id: tells the entry from all others.
        content: layer id of an overlay, disk id of anything else; of what was written to, what it was.
        disk: id of what the guest sees.
        parent: of an overlay: id of the disk it stands on.
        base: of an overlay: id of the entry it is drawn under.
        name: what to call it, safe to print.
        versions: by name, the newest first.
        copies: files here, by path.
        virtual_size: guest bytes; None for a missing base.
        data_size: bytes of data, where that is known.
        promoted: of an overlay: id of the master that was made of it, where one is known.
    """

    kind: EntryKind
    id: bytes
    content: bytes
    disk: bytes
    parent: bytes | None
    base: bytes | None
    name: str
    versions: tuple[Version, ...]
    copies: tuple[Copy, ...]
    virtual_size: int | None
    data_size: int | None
    promoted: bytes | None


@dataclass(frozen=True, slots=True)
class Row:
    """An entry at its place, in drawing order.

    Attributes:
        entry: the entry.
        last: one flag a level below the root: whether that ancestor (at the end: the entry) is a last child.
    """

    entry: Entry
    last: tuple[bool, ...]

    @property
    def depth(self) -> int:
        return len(self.last)


@dataclass(frozen=True, slots=True)
class Tree:
    """All rows, every entry before what stands on it."""

    rows: tuple[Row, ...]

    def entry(self, id: bytes) -> Entry:
        """Return the entry with this id, which must be in the tree."""
        return next(row.entry for row in self.rows if row.entry.id == id)


def build_tree(
    images: Iterable[ImageRow],
    listings: Iterable[Listing],
    *,
    changed: Collection[str] = (),
    master_changed: Collection[str] = (),
    data_sizes: Mapping[bytes, int] | None = None,
    only_here: bool = False,
) -> Tree:
    """Return the tree of all that is known.

    Args:
        images: files here.
        listings: manifests known here or listed by peers.
        changed: paths of ``images`` that were written since they were hashed.
        master_changed: paths of those whose masters alone were.
        data_sizes: bytes of data by content id, for what has no manifest.
        only_here: leave out what is not here, but for what images here stand on, or were promoted from or to.
    """
    rows = sorted(images, key=lambda row: row.path)
    drafts: dict[bytes, _Draft] = {}
    # What is as it was hashed comes first: of the others, one may stand for what they all were.
    for row in sorted(rows, key=lambda row: row.path in changed):
        _draft(drafts, row, apart=row.path in changed).add_image(
            row, row.path in changed, row.path in master_changed
        )
    for listing in listings:
        _draft(drafts, listing).add_listing(listing)
    for id, size in (data_sizes or {}).items():
        if id in drafts:
            drafts[id].data_size = drafts[id].data_size or size
    _find_bases(drafts, rows)
    _find_promotions(drafts)
    if only_here:
        drafts = _near(drafts)
    return Tree(tuple(_rows(drafts)))


# -- building ----------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Draft:
    """An entry while it is put together."""

    id: bytes
    content: bytes
    disk: bytes
    parent: bytes | None = None
    base: bytes | None = None
    promoted: bytes | None = None
    virtual_size: int | None = None
    data_size: int | None = None
    copies: list[Copy] = field(default_factory=list)
    versions: list[Version] = field(default_factory=list)
    called: Counter[str] = field(default_factory=Counter)
    """What publishers of overlays call their base."""

    @property
    def kind(self) -> EntryKind:
        if self.virtual_size is None:
            return EntryKind.MISSING
        return EntryKind.MASTER if self.parent is None else EntryKind.OVERLAY

    @property
    def name(self) -> str:
        """The published name that a file here has, else any published one, else a file's."""
        stems = [stem(copy.path) for copy in self.copies]
        names = [version.name for version in self.versions]
        fitting = [name for name in names if name.rpartition("/")[2] in stems]
        called = sorted(self.called, key=lambda name: (-self.called[name], name))
        return next(iter([*sorted(fitting), *sorted(names), *sorted(stems), *called]), "?")

    @property
    def order(self) -> tuple[bool, str, int, bytes]:
        """Missing bases after all others, versions of a name from old to new."""
        highest = max((version.version for version in self.versions if version.name == self.name), default=0)
        return (self.kind is EntryKind.MISSING, self.name, highest, self.id)

    def add_image(self, row: ImageRow, changed: bool, master_changed: bool) -> None:
        self.virtual_size = row.virtual_size
        self.copies.append(Copy(row.path, row.format, changed, row.verified_at, master_changed))

    def add_listing(self, listing: Listing) -> None:
        header = listing.manifest.header
        self.virtual_size = header.virtual_size
        self.data_size = header.data_size
        nodes = tuple(sorted(map(one_field, listing.labels)))
        version = Version(header.full_name, header.version, one_field(header.by), header.created, nodes)
        if version not in self.versions:
            self.versions.append(version)

    def finish(self) -> Entry:
        name = self.name
        versions = sorted(
            self.versions, key=lambda item: (item.name != name, item.name, -item.version, item.by)
        )
        return Entry(
            kind=self.kind,
            id=self.id,
            content=self.content,
            disk=self.disk,
            parent=self.parent,
            base=self.base,
            name=name,
            versions=tuple(versions),
            copies=tuple(self.copies),
            virtual_size=self.virtual_size,
            data_size=self.data_size,
            promoted=self.promoted,
        )


def _draft(drafts: dict[bytes, _Draft], found: ImageRow | Listing, *, apart: bool = False) -> _Draft:
    """Return the draft of the content that was found; what is known first says what it shows and stands on.

    An overlay that is ``apart`` has one of its own, where the content has one already.
    """
    called = ""
    if isinstance(found, ImageRow):
        id, disk, parent = found.layer or found.disk, found.disk, found.parent
        if apart and found.layer and id in drafts:
            key = hashlib.sha256(found.path.encode(errors="surrogateescape")).digest()
            return drafts.setdefault(key, _Draft(key, id, disk, parent))
    else:
        header = found.manifest.header
        id, disk, parent, called = header.content_id, header.result_id, header.parent_id, header.parent_name
    draft = drafts.setdefault(id, _Draft(id, id, disk, parent))
    if called:
        draft.called[one_field(called)] += 1
    return draft


def _find_bases(drafts: dict[bytes, _Draft], rows: list[ImageRow]) -> None:
    """Set ``base`` of every overlay; adds a draft for every base that nobody knows."""
    files = _files_below(rows)
    overlays = sorted((draft for draft in drafts.values() if draft.parent is not None), key=_by_order)
    shown: dict[bytes, list[bytes]] = {}
    for draft in overlays:
        # An overlay that changes nothing shows its parent's disk; what has that parent stands beside it.
        if draft.disk != draft.parent and draft.id == draft.content:
            shown.setdefault(draft.disk, []).append(draft.id)
    names: dict[bytes, Counter[str]] = {}
    for draft in overlays:
        assert draft.parent is not None
        candidates = [*files.get(draft.content, ()), draft.parent, *shown.get(draft.parent, ())]
        draft.base = next((id for id in candidates if _may_carry(drafts, id, draft)), draft.parent)
        if draft.base not in drafts or drafts[draft.base].virtual_size is None:
            names.setdefault(draft.base, Counter()).update(draft.called)
            drafts[draft.base] = _Draft(draft.base, draft.base, draft.base, called=names[draft.base])


def _files_below(rows: list[ImageRow]) -> dict[bytes, list[bytes]]:
    """Layer id → ids of the images that the files with that layer really stand on."""
    by_inode = {row.fingerprint[:2]: row for row in rows}
    found: dict[bytes, list[bytes]] = {}
    for row in rows:
        below = by_inode.get(row.chain[1][:2]) if len(row.chain) > 1 else None
        if row.layer and below is not None and below.disk == row.parent:
            found.setdefault(row.layer, []).append(below.layer or below.disk)
    return found


def _may_carry(drafts: dict[bytes, _Draft], id: bytes, overlay: _Draft) -> bool:
    """Whether ``overlay`` can be drawn under the entry ``id``: it is known and not above the overlay."""
    if id not in drafts or drafts[id].virtual_size is None:
        return False
    at: bytes | None = id
    while at is not None and at != overlay.id:
        at = drafts[at].base
    return at is None


def _find_promotions(drafts: dict[bytes, _Draft]) -> None:
    for draft in drafts.values():
        if draft.id != draft.content:
            continue  # what it shows now is not known
        made = drafts.get(draft.disk)
        if draft.parent not in (None, draft.disk) and made is not None and made.kind is EntryKind.MASTER:
            draft.promoted = made.id


def _near(drafts: dict[bytes, _Draft]) -> dict[bytes, _Draft]:
    """Return what is here, with what it stands on and the promotions between it and something else."""
    here = [draft.id for draft in drafts.values() if draft.copies]
    promoted = [draft for draft in drafts.values() if draft.promoted is not None]
    waiting = here + [draft.id for draft in promoted if draft.promoted in here]
    waiting += [draft.promoted for draft in promoted if draft.promoted is not None and draft.id in here]
    near: set[bytes] = set()
    while waiting:
        id = waiting.pop()
        base = drafts[id].base
        if id not in near and base is not None:
            waiting.append(base)
        near.add(id)
    found = {id: draft for id, draft in drafts.items() if id in near}
    for draft in found.values():
        draft.promoted = draft.promoted if draft.promoted in near else None
    return found


def _by_order(draft: _Draft) -> tuple[bool, str, int, bytes]:
    return draft.order


def _rows(drafts: dict[bytes, _Draft]) -> Iterator[Row]:
    """Depth first, without recursion: a chain of manifests may be long."""
    children: dict[bytes | None, list[_Draft]] = {}
    for draft in sorted(drafts.values(), key=_by_order):
        children.setdefault(draft.base, []).append(draft)
    waiting: list[tuple[_Draft, tuple[bool, ...]]] = [(root, ()) for root in reversed(children.get(None, []))]
    while waiting:
        draft, last = waiting.pop()
        yield Row(draft.finish(), last)
        below = children.get(draft.id, [])
        waiting += [(child, (*last, child is below[-1])) for child in reversed(below)]
