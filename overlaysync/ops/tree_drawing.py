"""Drawings of the family tree: as text for a terminal, as SVG for a page."""

from __future__ import annotations

from collections import Counter
from xml.etree import ElementTree

from overlaysync.model.digest import format_id, short_id
from overlaysync.model.names import printable
from overlaysync.ops.tree import Entry, EntryKind, Row, Tree
from overlaysync.units import format_size

# -- words -------------------------------------------------------------------------------------------


def title(entry: Entry) -> str:
    """Return the name, with its version when it is published."""
    version = next((version for version in entry.versions if version.name == entry.name), None)
    return str(version) if version else entry.name


def details(entry: Entry) -> list[str]:
    """Short facts: id, size, copies, and what is wrong."""
    if entry.kind is EntryKind.MISSING:
        return [short_id(entry.content), "missing: nothing here or published shows this disk"]
    facts = [short_id(entry.content)]
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
    elif all(copy.master_changed for copy in entry.copies):
        facts.append("its master was written to or replaced")
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
    """Return a standalone drawing: no scripts, nothing loaded from elsewhere, a title and a description."""
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
    """Return the whole tree in sentences, for those who do not see the drawing."""
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
        group,
        "title",
        "\n".join([f"{entry.kind} {format_id(entry.content)}", *map(str, entry.versions), *paths]),
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
    """Draw a dotted line from the overlay's card along a lane on the right to the master's card."""
    assert entry.promoted is not None
    master = tree.entry(entry.promoted)
    (x1, y1), (x2, y2) = places[entry.id], places[master.id]
    start, end = x1 + int(_width(entry)), x2 + int(_width(master))
    y1, y2 = y1 + _CARD // 2, y2 + _CARD // 2
    _add(svg, "path", d=f"M{start} {y1}H{lane:.0f}V{y2}H{end + 8}", **_LOOKS["promoted"])
    _add(svg, "text", "promoted", x=start + 6, y=y1 - 5, font_size=11, **_LOOKS["arrow"])
    _add(svg, "path", d=f"M{end} {y2}l10 -5v10z", **_LOOKS["arrow"])
