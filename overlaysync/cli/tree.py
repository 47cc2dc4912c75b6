"""The tree command: masters, overlays and promotions, in the terminal or as a picture."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from overlaysync.cli.common import open_node
from overlaysync.cli.later import later
from overlaysync.cli.output import Output, output_of
from overlaysync.cli.tables import Fail, Table, Warn
from overlaysync.errors import NotFoundError, UsageError
from overlaysync.model.digest import format_id
from overlaysync.node.family import family_of
from overlaysync.node.node import Node
from overlaysync.ops.dates import utc
from overlaysync.ops.tree import Entry, EntryKind, Tree
from overlaysync.ops.tree_drawing import TextRow, draw_text


def add_commands(app: typer.Typer) -> None:
    """Add the command of this module to ``app``."""
    app.command("tree")(tree)


def tree(
    context: typer.Context,
    everything: Annotated[
        bool, typer.Option("--all", help="Also show versions that are not on this machine.")
    ] = False,
    svg: Annotated[
        str | None, typer.Option("--svg", metavar="FILE", help="Write a picture to this SVG file.")
    ] = None,
    png: Annotated[
        str | None, typer.Option("--png", metavar="FILE", help="Write a picture to this PNG file.")
    ] = None,
    odg: Annotated[
        str | None,
        typer.Option(
            "--odg", metavar="FILE", help="Write a picture to this OpenDocument file, which you can edit."
        ),
    ] = None,
    life: Annotated[
        bool, typer.Option("--life", help="Draw the life of a master in four steps, for a slide.")
    ] = False,
    example: Annotated[
        bool, typer.Option("--example", help="With --life: draw an example, not the images of this machine.")
    ] = False,
    lang: Annotated[
        str, typer.Option("--lang", metavar="LANG", help="Language of the picture: en or fr.")
    ] = "en",
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace an existing file, unless it is a disk image.")
    ] = False,
) -> None:
    """Show masters, overlays and promotions as a family tree."""

    output = output_of(context)
    wanted = {kind: path for kind, path in (("svg", svg), ("png", png), ("odg", odg)) if path is not None}
    _check(wanted, life=life, example=example)
    with open_node(output) as node:
        family, known = family_of(node, only_here=not everything)
        document: dict[str, Any] = {"tree": [_entry_fields(row.entry) for row in family.rows]}
        if wanted:
            what = _draw(node, output, family, wanted, _Picture(life, example, lang, replace))
            document |= {kind: os.path.abspath(path) for kind, path in wanted.items()}
            output.result(document, *what)
        else:
            output.result(document, _table(draw_text(family)))
    if not output.json and not life:
        _note_hidden(output, family, known)


@dataclass(frozen=True, slots=True)
class _Picture:
    """How the picture is to be."""

    life: bool
    example: bool
    lang: str
    replace: bool


def _check(wanted: dict[str, str], *, life: bool, example: bool) -> None:
    """Refuse options that say nothing together.

    Raises:
        UsageError: they do not.
    """
    if example and not life:
        raise UsageError("--example is for --life only", hint="overlaysync tree --life --example --svg FILE")
    if life and not wanted:
        raise UsageError(
            "--life draws a picture, and needs a file for it", hint="overlaysync tree --life --svg FILE"
        )
    if len({os.path.realpath(path) for path in wanted.values()}) < len(wanted):
        raise UsageError(
            "Two pictures cannot go into one file", hint="name a file for each: --svg A.svg --odg A.odg"
        )


def _draw(node: Node, output: Output, family: Tree, wanted: dict[str, str], picture: _Picture) -> list[str]:
    """Write the pictures; return what was written, for people."""
    writers, files = later("ops.pictures.writers").WRITERS, later("cli.picture_files")
    if picture.life:
        lives = later("ops.pictures.life")
        shown = lives.EXAMPLE if picture.example else lives.life_of(family)
        if shown is None:
            raise NotFoundError(
                "No master here has an overlay, so there is no life to draw",
                hint="draw an example: overlaysync tree --life --example --svg FILE",
            )
        scene = lives.life_scene(shown, picture.lang)
        what = f"life of {shown.master.name}"
    else:
        scene = later("ops.pictures.lineage").lineage_scene(family, picture.lang)
        what = f"family tree of {len(family.rows)} images"
    drawn = {kind: writers[kind](scene) for kind in wanted}
    for kind, path in wanted.items():
        files.write_picture(path, drawn[kind], node, option=f"--{kind}", replace=picture.replace)
    return [output.good(f"{path}  {what}") for path in wanted.values()]


def _table(rows: list[TextRow]) -> Table:
    """Return the tree for a terminal or a pipe."""
    return Table(
        [(row.name, row.id, row.size, row.also, row.place, _problem(row), row.promotion) for row in rows],
        below=[row.below for row in rows],
    )


def _problem(row: TextRow) -> str:
    return Fail(row.problem) if row.missing else Warn(row.problem)


def _note_hidden(output: Output, family: Tree, known: int) -> None:
    """Say what the tree does not show."""
    hidden = known - len(family.rows)
    if hidden:
        count = "1 version" if hidden == 1 else f"{hidden} versions"
        output.note(f"{count} known from other machines or from before: overlaysync tree --all")
    elif not family.rows:
        output.note("no image is known yet; try: overlaysync id PATH, or: overlaysync fetch REF")


def _entry_fields(entry: Entry) -> dict[str, Any]:

    def text(id: bytes | None) -> str | None:
        return format_id(id) if id else None

    return {
        "name": entry.name,
        "kind": entry.kind.value,
        "virtual_size": entry.virtual_size,
        "data_size": entry.data_size,
        "disk": text(entry.disk),
        "layer": text(entry.content) if entry.kind is EntryKind.OVERLAY else None,
        "parent": text(entry.parent),
        "stands_on": text(entry.base),
        "promoted_to": text(entry.promoted),
        "versions": [
            {"name": item.name, "version": item.version, "by": item.by, "created": item.created}
            for item in entry.versions
        ],
        "copies": [
            {
                "path": copy.path,
                "format": copy.format,
                "changed": copy.changed,
                "master_changed": copy.master_changed,
                "verified_at": utc(copy.verified_at),
            }
            for copy in entry.copies
        ],
    }
