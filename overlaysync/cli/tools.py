"""Commands that show: tree, demo."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from overlaysync.cli.common import open_node
from overlaysync.cli.demo import run
from overlaysync.cli.output import output_of
from overlaysync.errors import InUseError, WouldDestroyError
from overlaysync.formats.files import open_regular
from overlaysync.formats.locks import in_use, user_of
from overlaysync.formats.recognition import ending_of, looks_like_image
from overlaysync.model.datamap import DataMap
from overlaysync.model.digest import format_id
from overlaysync.node.node import Node
from overlaysync.ops.known import is_as_hashed
from overlaysync.ops.matching import Listing
from overlaysync.ops.tree import Entry, EntryKind, Tree, build_tree
from overlaysync.ops.tree_drawing import SVG_START, draw_svg, draw_text
from overlaysync.store.files import rename_new, translate
from overlaysync.trust.envelope import open_envelope


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module to ``app``."""
    app.command("tree")(tree)
    app.command("demo")(demo)


# -- demo --------------------------------------------------------------------------------------------


def demo(
    context: typer.Context,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the demo's directory.")] = False,
) -> None:
    """Show what overlaysync does, in under a minute."""

    run(output_of(context), keep=keep)


# -- tree --------------------------------------------------------------------------------------------


def tree(
    context: typer.Context,
    everything: Annotated[
        bool, typer.Option("--all", help="Show versions that are not on this machine as well.")
    ] = False,
    svg: Annotated[
        str | None, typer.Option("--svg", metavar="FILE", help="Draw the tree into this file.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace a file of that name, unless it is a disk image.")
    ] = False,
) -> None:
    """Show masters, overlays and promotions as a family tree."""

    output = output_of(context)
    with open_node(output) as node:
        family, known = _family(node, only_here=not everything)
    document: dict[str, Any] = {"tree": [_entry_fields(row.entry) for row in family.rows]}
    lines = draw_text(family)
    if svg is not None:
        with open_node(output) as node:
            _write_drawing(svg, draw_svg(family), replace, node)
        document["svg"] = os.path.abspath(svg)
        lines = [output.good(f"{svg}  family tree of {len(family.rows)} images")]
    output.result(document, *lines)
    hidden = known - len(family.rows)
    if output.json:
        return
    if hidden:
        count = "1 version" if hidden == 1 else f"{hidden} versions"
        output.note(f"{count} known from other machines or from before: overlaysync tree --all")
    elif not family.rows:
        output.note("no image is known yet; try: overlaysync id PATH, or: overlaysync fetch REF")


def _family(node: Node, *, only_here: bool) -> tuple[Tree, int]:
    """Return the tree of what this node knows, without files that are gone; and how much it knows in all."""

    rows = [row for row in node.catalog.images.all() if os.path.exists(row.path)]
    other = [row for row in rows if node.library.known(row.path) is None]
    # Of an overlay that was not written to, only what is below can be another.
    astray = {row.path for row in other if row.layer and is_as_hashed(row)}
    changed = {row.path for row in other} - astray
    manifests = node.catalog.manifests.matching()
    sizes: dict[bytes, int] = {}
    for content in {row.layer or row.disk for row in rows} - {row.content for row in manifests}:
        pages = node.catalog.pages.load_list(content)
        if pages is not None:
            sizes[content] = DataMap(pages, node.library.load_page).size
    listings = [Listing(open_envelope(row.envelope)) for row in manifests]
    whole, shown = (
        build_tree(rows, listings, changed=changed, master_changed=astray, data_sizes=sizes, only_here=only)
        for only in (False, only_here)
    )
    return shown, len(whole.rows)


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
                "verified_at": datetime.fromtimestamp(copy.verified_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
            for copy in entry.copies
        ],
    }


def _write_drawing(path: str, text: str, replace: bool, node: Node) -> None:
    """Write the drawing whole or not at all; over an older drawing, or over a file when told so.

    Raises:
        WouldDestroyError: something else is there; an image is never replaced.
        InUseError: a program has it open as an image.
    """

    real = os.path.realpath(path)
    try:
        old = os.path.lexists(real)
        if old and not os.path.isfile(real):
            raise WouldDestroyError(f"{path} is not a file", hint="choose another name")
        if old and not _begins_with(real, SVG_START):
            _check_no_image(real, path, node)
            if not replace:
                raise WouldDestroyError(
                    f"{path} exists and is not a family tree", hint="choose another name, or say --replace"
                )
        _put(real, text, new=not old)
    except OSError as error:
        raise translate(error, f"Cannot write {path}", hint="name another file: --svg FILE") from error


def _check_no_image(real: str, path: str, node: Node) -> None:
    """Refuse to put a drawing in the place of an image: one that is known here, or what looks like one."""

    hint = "choose another name: --svg FILE.svg"
    fd = open_regular(real)
    try:
        if in_use(fd):
            raise InUseError(f"{path} is in use as an image", why=f"by {user_of(fd)}", hint=hint)
        known = node.catalog.images.at(real) or node.catalog.held.at(real) or node.catalog.made.at(real)
        if known or ending_of(path) or ending_of(real) or looks_like_image(fd):
            raise WouldDestroyError(
                f"{path} is a disk image", why="a drawing never takes the place of one", hint=hint
            )
    finally:
        os.close(fd)


def _begins_with(path: str, start: str) -> bool:
    with open(path, "rb") as file:
        return file.read(len(start)) == start.encode()


def _put(path: str, text: str, *, new: bool) -> None:
    """Give ``path`` a text; a ``new`` one replaces nothing."""

    parent, name = os.path.split(path)
    scratch = f".{name}.{os.getpid()}"
    directory = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(scratch, flags, 0o666, dir_fd=directory)
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(descriptor)
            if new:
                rename_new(directory, scratch, name)
            else:
                os.replace(scratch, name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            os.unlink(scratch, dir_fd=directory)
            raise
    finally:
        os.close(directory)
