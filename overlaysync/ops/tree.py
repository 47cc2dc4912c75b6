"""The family tree: masters, the overlays on them, and the masters that overlays were promoted to.

Pure: made from catalog rows and listings, drawn as text and as SVG; whether files are still there is for the
caller to see. A thing is one content, however many files, names and versions it has. An overlay stands on the
file its backing file is where that is known here, else on whatever shows its parent disk; a base that nobody
knows is an entry of its own. Manifests may claim anything, rings included, so rings are cut.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from xml.etree import ElementTree

from overlaysync.model.digest import format_id, short_id
from overlaysync.model.names import printable
from overlaysync.ops.publish import stem
from overlaysync.ops.resolve import Listing
from overlaysync.store.catalog import ImageRow
from overlaysync.units import format_size


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
    """

    path: str
    format: str
    changed: bool
    verified_at: float


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
        id: layer id of an overlay, disk id of anything else.
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
        """The entry with this id, which must be in the tree."""
        return next(row.entry for row in self.rows if row.entry.id == id)


def build_tree(
    images: Iterable[ImageRow],
    listings: Iterable[Listing],
    *,
    changed: Collection[str] = (),
    data_sizes: Mapping[bytes, int] | None = None,
) -> Tree:
    """The tree of all that is known.

    Args:
        images: files here.
        listings: manifests known here or listed by peers.
        changed: paths of ``images`` that were written since they were hashed.
        data_sizes: bytes of data by content id, for what has no manifest.
    """
    rows = sorted(images, key=lambda row: row.path)
    drafts: dict[bytes, _Draft] = {}
    for row in rows:
        _draft(drafts, row).add_image(row, row.path in changed)
    for listing in listings:
        _draft(drafts, listing).add_listing(listing)
    for id, size in (data_sizes or {}).items():
        if id in drafts:
            drafts[id].data_size = drafts[id].data_size or size
    _find_bases(drafts, rows)
    _find_promotions(drafts)
    return Tree(tuple(_rows(drafts)))


# -- building ----------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Draft:
    """An entry while it is put together."""

    id: bytes
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

    def add_image(self, row: ImageRow, changed: bool) -> None:
        self.virtual_size = row.virtual_size
        self.copies.append(Copy(row.path, row.format, changed, row.verified_at))

    def add_listing(self, listing: Listing) -> None:
        header = listing.manifest.header
        self.virtual_size = header.virtual_size
        self.data_size = header.data_size
        nodes = tuple(sorted(map(printable, listing.labels)))
        version = Version(header.full_name, header.version, printable(header.by), header.created, nodes)
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


def _draft(drafts: dict[bytes, _Draft], found: ImageRow | Listing) -> _Draft:
    """The draft of the content that was found; what is known first says what it shows and stands on."""
    called = ""
    if isinstance(found, ImageRow):
        id, disk, parent = found.layer or found.disk, found.disk, found.parent
    else:
        header = found.manifest.header
        id, disk, parent, called = header.content_id, header.result_id, header.parent_id, header.parent_name
    draft = drafts.setdefault(id, _Draft(id, disk, parent))
    if called:
        draft.called[printable(called)] += 1
    return draft


def _find_bases(drafts: dict[bytes, _Draft], rows: list[ImageRow]) -> None:
    """Set ``base`` of every overlay; adds a draft for every base that nobody knows."""
    files = _files_below(rows)
    overlays = sorted((draft for draft in drafts.values() if draft.parent is not None), key=_by_order)
    shown: dict[bytes, list[bytes]] = {}
    for draft in overlays:
        # An overlay that changes nothing shows its parent's disk; what has that parent stands beside it.
        if draft.disk != draft.parent:
            shown.setdefault(draft.disk, []).append(draft.id)
    names: dict[bytes, Counter[str]] = {}
    for draft in overlays:
        assert draft.parent is not None
        candidates = [*files.get(draft.id, ()), draft.parent, *shown.get(draft.parent, ())]
        draft.base = next((id for id in candidates if _may_carry(drafts, id, draft)), draft.parent)
        if draft.base not in drafts or drafts[draft.base].virtual_size is None:
            names.setdefault(draft.base, Counter()).update(draft.called)
            drafts[draft.base] = _Draft(draft.base, draft.base, called=names[draft.base])


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
        made = drafts.get(draft.disk)
        if draft.parent not in (None, draft.disk) and made is not None and made.kind is EntryKind.MASTER:
            draft.promoted = made.id


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


# -- words -------------------------------------------------------------------------------------------


def title(entry: Entry) -> str:
    """The name, with its version when it is published."""
    version = next((version for version in entry.versions if version.name == entry.name), None)
    return str(version) if version else entry.name


def details(entry: Entry) -> list[str]:
    """Short facts: id, size, copies, and what is wrong."""
    if entry.kind is EntryKind.MISSING:
        return [short_id(entry.id), "missing: nothing here or published shows this disk"]
    facts = [short_id(entry.id)]
    if entry.data_size is not None:
        size = format_size(entry.data_size)
        overlay = entry.kind is EntryKind.OVERLAY
        facts.append(f"+{size}" if overlay else f"{size} of {format_size(entry.virtual_size or 0)}")
    facts += [f"also {version}" for version in entry.versions if version.name != entry.name]
    facts += [f"on {', '.join(nodes)}"] if (nodes := _nodes(entry)) else []
    if not entry.copies:
        return [*facts, "not here"]
    facts.append(printable(entry.copies[0].path))
    if len(entry.copies) > 1:
        facts.append(f"×{len(entry.copies)}")
    if all(copy.changed for copy in entry.copies):
        facts.append("written to since it was hashed")
    return facts


def _nodes(entry: Entry) -> list[str]:
    return sorted({node for version in entry.versions for node in version.nodes})


# -- drawing as text ---------------------------------------------------------------------------------

_SYMBOLS = {EntryKind.MASTER: "■", EntryKind.OVERLAY: "▢", EntryKind.MISSING: "✗"}


def draw_text(tree: Tree) -> list[str]:
    """One line an entry."""
    names = [_branches(row) + f"{_SYMBOLS[row.entry.kind]} {title(row.entry)}" for row in tree.rows]
    width = max((len(name) for name in names), default=0)
    return [
        f"{name:{width}}  {'  '.join(details(row.entry))}{_promotion(tree, row.entry)}"
        for name, row in zip(names, tree.rows, strict=True)
    ]


def _branches(row: Row) -> str:
    if not row.last:
        return ""
    above = "".join("   " if last else " │ " for last in row.last[:-1])
    return above + (" └─" if row.last[-1] else " ├─")


def _promotion(tree: Tree, entry: Entry) -> str:
    return f"  ┄┄promoted┄┄▶ ■ {title(tree.entry(entry.promoted))}" if entry.promoted else ""


# -- drawing as SVG ----------------------------------------------------------------------------------

SVG_START = '<svg xmlns="http://www.w3.org/2000/svg" data-overlaysync="tree"'
"""How a drawing of this module begins, to be known again."""

_ROW, _CARD, _INDENT, _MARGIN, _LANE, _WORD = 52, 40, 30, 20, 14, 52
_TITLE_CHAR, _DETAIL_CHAR = 8.6, 7.0
"""Widths of a character, in pixels, on the wide side: no font can be measured here."""

_LOOKS: dict[str, dict[str, object]] = {
    "title": {"font_size": 14, "font_weight": 600, "fill": "#111"},
    "details": {"font_size": 12, "fill": "#333"},
    "master": {"fill": "#dbe8f7", "stroke": "#1f4e8c", "stroke_width": 2},
    "overlay": {"fill": "#fff", "stroke": "#1f4e8c", "rx": 8},
    "missing": {"fill": "#fdecec", "stroke": "#a61b1b", "stroke_dasharray": "5 3", "rx": 8},
    "branch": {"fill": "none", "stroke": "#666"},
    "promoted": {"fill": "none", "stroke": "#1d6b34", "stroke_width": 2, "stroke_dasharray": "2 4"},
    "arrow": {"fill": "#1d6b34"},
}
"""Attributes, not a style sheet: some viewers know none, and some pages allow none."""


def draw_svg(tree: Tree) -> str:
    """A standalone drawing: no scripts, nothing loaded from elsewhere, a title and a description."""
    places = {
        row.entry.id: (_MARGIN + row.depth * _INDENT, _MARGIN + at * _ROW) for at, row in enumerate(tree.rows)
    }
    right = max((places[row.entry.id][0] + _width(row.entry) for row in tree.rows), default=200)
    links = [row.entry for row in tree.rows if row.entry.promoted]
    right += _WORD if links else 0
    width, height = int(right + (len(links) + 1) * _LANE + _MARGIN), len(tree.rows) * _ROW + 2 * _MARGIN
    svg = ElementTree.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "data-overlaysync": "tree",
            "viewBox": f"0 0 {width} {height}",
            "width": str(width),
            "height": str(height),
            "font-family": "system-ui, sans-serif",
            "role": "img",
            "aria-labelledby": "tree-title tree-description",
        },
    )
    _add(svg, "title", "Family tree of VM images", id="tree-title")
    _add(svg, "desc", describe(tree), id="tree-description")
    _add(svg, "rect", width=width, height=height, fill="#fff")
    for row in tree.rows:
        _add_branch(svg, row.entry, places)
    for lane, entry in enumerate(links, start=1):
        _add_promotion(svg, tree, entry, places, right + lane * _LANE)
    for row in tree.rows:
        _add_card(svg, row.entry, *places[row.entry.id])
    return ElementTree.tostring(svg, encoding="unicode") + "\n"


def describe(tree: Tree) -> str:
    """The whole tree in sentences, for those who do not see the drawing."""
    kinds = Counter(row.entry.kind for row in tree.rows)
    counts = f"Masters: {kinds[EntryKind.MASTER]}. Overlays: {kinds[EntryKind.OVERLAY]}."
    if kinds[EntryKind.MISSING]:
        counts += f" Missing: {kinds[EntryKind.MISSING]}."
    sentences = [counts]
    for row in tree.rows:
        entry = row.entry
        text = f"{title(entry)}, {entry.kind}"
        text += f" on {title(tree.entry(entry.base))}" if entry.base else ""
        text += f", promoted to {title(tree.entry(entry.promoted))}" if entry.promoted else ""
        sentences.append(text + ".")
    return " ".join(sentences)


def _width(entry: Entry) -> float:
    return 24 + max(len(title(entry)) * _TITLE_CHAR, len(" · ".join(details(entry))) * _DETAIL_CHAR)


def _add(
    parent: ElementTree.Element, tag: str, text: str | None = None, /, **attributes: object
) -> ElementTree.Element:
    names = {name.replace("_", "-"): str(value) for name, value in attributes.items()}
    element = ElementTree.SubElement(parent, tag, names)
    element.text = text
    return element


def _add_card(svg: ElementTree.Element, entry: Entry, x: int, y: int) -> None:
    group = _add(svg, "g")
    paths = [printable(copy.path) for copy in entry.copies]
    _add(
        group, "title", "\n".join([f"{entry.kind} {format_id(entry.id)}", *map(str, entry.versions), *paths])
    )
    _add(group, "rect", x=x, y=y, width=int(_width(entry)), height=_CARD, **_LOOKS[entry.kind])
    _add(group, "text", title(entry), x=x + 12, y=y + 16, **_LOOKS["title"])
    _add(group, "text", " · ".join(details(entry)), x=x + 12, y=y + 33, **_LOOKS["details"])


def _add_branch(svg: ElementTree.Element, entry: Entry, places: dict[bytes, tuple[int, int]]) -> None:
    if entry.base is None:
        return
    (x, y), (_, top) = places[entry.id], places[entry.base]
    trunk = x - _INDENT // 2
    _add(svg, "path", d=f"M{trunk} {top + _CARD}V{y + _CARD // 2}H{x}", **_LOOKS["branch"])


def _add_promotion(
    svg: ElementTree.Element, tree: Tree, entry: Entry, places: dict[bytes, tuple[int, int]], lane: float
) -> None:
    """A dotted line from the overlay's card along a lane on the right to the master's card."""
    assert entry.promoted is not None
    master = tree.entry(entry.promoted)
    (x1, y1), (x2, y2) = places[entry.id], places[master.id]
    start, end = x1 + int(_width(entry)), x2 + int(_width(master))
    y1, y2 = y1 + _CARD // 2, y2 + _CARD // 2
    _add(svg, "path", d=f"M{start} {y1}H{lane:.0f}V{y2}H{end + 8}", **_LOOKS["promoted"])
    _add(svg, "text", "promoted", x=start + 6, y=y1 - 5, font_size=11, **_LOOKS["arrow"])
    _add(svg, "path", d=f"M{end} {y2}l10 -5v10z", **_LOOKS["arrow"])
