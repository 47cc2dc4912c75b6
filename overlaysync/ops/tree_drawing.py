"""The family tree as lines of text. Pictures of it are in :mod:`overlaysync.ops.pictures`."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from overlaysync.model.digest import short_id
from overlaysync.model.names import printable
from overlaysync.ops.tree import Entry, EntryKind, Row, Tree
from overlaysync.units import format_size

# -- words -------------------------------------------------------------------------------------------


def title(entry: Entry) -> str:
    """Return the name, with its version when it is published."""
    version = next((version for version in entry.versions if version.name == entry.name), None)
    return str(version) if version else entry.name


@dataclass(frozen=True, slots=True)
class TextRow:
    """An entry as cells of a line; each may be "".

    Attributes:
        name: with the branches before it, its sign and its version.
        below: branches that go on below the entry, for lines that belong to it.
        id: short form.
        size: how much data it holds.
        also: its other names, and the nodes that list it.
        place: a file here, and how many there are.
        problem: what is wrong with it.
        missing: whether nothing here or published has its content.
        promotion: the master that was made of it.
    """

    name: str
    below: str
    id: str
    size: str
    also: str
    place: str
    problem: str
    missing: bool
    promotion: str


_SIGNS = {EntryKind.MASTER: "■", EntryKind.OVERLAY: "▢", EntryKind.MISSING: "✗"}


def draw_text(tree: Tree) -> list[TextRow]:
    """Return one row an entry, in drawing order."""
    deeper = [after.depth > row.depth for row, after in pairwise(tree.rows)]
    return [_text_row(tree, row, carries) for row, carries in zip(tree.rows, [*deeper, False], strict=False)]


def _text_row(tree: Tree, row: Row, carries: bool) -> TextRow:
    entry = row.entry
    missing = entry.kind is EntryKind.MISSING
    return TextRow(
        name=f"{_branches(row)}{_SIGNS[entry.kind]} {title(entry)}",
        below="".join("   " if last else " │ " for last in row.last) + (" │ " if carries else "   "),
        id=short_id(entry.content),
        size=_size(entry),
        also="  ".join(_also(entry)),
        place="" if missing else _place(entry),
        problem=_problem(entry),
        missing=missing,
        promotion=f"┄┄promoted┄┄▶ ■ {title(tree.entry(entry.promoted))}" if entry.promoted else "",
    )


def _size(entry: Entry) -> str:
    if entry.data_size is None:
        return ""
    size = format_size(entry.data_size)
    return (
        f"+{size}" if entry.kind is EntryKind.OVERLAY else f"{size} of {format_size(entry.virtual_size or 0)}"
    )


def _also(entry: Entry) -> list[str]:
    """Return the other names, and the nodes that list it."""
    nodes = sorted({node for version in entry.versions for node in version.nodes})
    names = [f"also {version}" for version in entry.versions if version.name != entry.name]
    return names + ([f"on {', '.join(nodes)}"] if nodes else [])


def _place(entry: Entry) -> str:
    if not entry.copies:
        return "not here"
    first = printable(entry.copies[0].path)
    return f"{first}  ×{len(entry.copies)}" if len(entry.copies) > 1 else first


def _problem(entry: Entry) -> str:
    if entry.kind is EntryKind.MISSING:
        return "missing: nothing here or published shows this disk"
    if not entry.copies:
        return ""
    if all(copy.changed for copy in entry.copies):
        return "written to since it was hashed"
    return (
        "its master was written to or replaced" if all(copy.master_changed for copy in entry.copies) else ""
    )


def _branches(row: Row) -> str:
    if not row.last:
        return ""
    above = "".join("   " if last else " │ " for last in row.last[:-1])
    return above + (" └─" if row.last[-1] else " ├─")
