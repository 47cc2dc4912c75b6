"""The settle command: end a fork for what a file here holds, also when the other side cannot be had."""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from typing import Annotated

import typer

from overlaysync.cli.common import open_node
from overlaysync.cli.output import Output, output_of
from overlaysync.errors import NotFoundError, UsageError
from overlaysync.model.digest import format_id
from overlaysync.node.node import Node, now
from overlaysync.ops.trust_messages import age, who
from overlaysync.ops.versions import settled
from overlaysync.store.held import Held
from overlaysync.store.manifests import ManifestRow
from overlaysync.trust.envelope import Manifest, open_envelope
from overlaysync.trust.keys import node_id


def add_commands(app: typer.Typer) -> None:
    """Add the command of this module to ``app``."""
    app.command("settle")(settle)


def settle(
    context: typer.Context,
    path: Annotated[str, typer.Argument(metavar="FILE", help="The file that holds the side you choose.")],
) -> None:
    """Settle a fork in favour of a file on this machine."""
    output = output_of(context)
    with open_node(output) as node:
        held = _held(node, path)
        mine = _version(node, held, path)
        sides = node.other_sides(mine)
        over = (*held.manifests, *(row.id for row in sides))
        node.catalog.held.hold(replace(held, manifests=settled(node.catalog, mine, over)))
    _report(output, path, mine, sides)


def _held(node: Node, path: str) -> Held:
    """Return what the file held when it was last fetched or published here.

    Raises:
        NotFoundError: there is no such file.
        UsageError: neither was ever done with it.
    """
    if not os.path.lexists(path):
        raise NotFoundError(f"There is no file {path}", hint="to see the paths of images: overlaysync tree")
    held = node.catalog.held.at(os.path.realpath(path))
    if held is None:
        raise UsageError(
            f"{path} was never fetched or shared",
            why="so it holds no version of an image, and no side of a fork",
            hint=f"overlaysync share {shlex.quote(path)}",
        )
    return held


def _version(node: Node, held: Held, path: str) -> Manifest:
    """Return the version that the file was last.

    Raises:
        UsageError: it was a team's that this machine is not in.
    """
    row = node.catalog.manifests.find(held.manifests[0]) if held.manifests else None
    mine = open_envelope(row.envelope) if row else None
    if mine is None or not mine.belongs(node.teams):
        raise UsageError(
            f"Cannot settle a fork for {path}",
            why=f"it held a version of team '{held.team}', which cannot be used here"
            if held.team
            else "the version that it held is not known on this machine",
            hint=f"overlaysync share {shlex.quote(path)}",
        )
    return mine


def _report(output: Output, path: str, mine: Manifest, sides: list[ManifestRow]) -> None:
    name = mine.header.full_name
    listed = [
        {
            "version": row.version,
            "id": format_id(row.content),
            "manifest": row.id.hex(),
            "publisher": node_id(row.publisher),
            "by": row.label,
            "created": row.created,
        }
        for row in sides
    ]
    document = {"team": mine.header.team, "name": mine.header.name, "path": path, "settled": listed}
    if not sides:
        output.result(document, f"{name}:{mine.header.version} is not forked: there is nothing to settle")
        return
    moment = now()
    lines = [
        f"  {row.title} by {who(row.publisher, row.label)} on {row.created}{age(row.created, moment)}"
        for row in sides
    ]
    output.result(
        document,
        output.good(f"{path} is chosen to continue {name}. Given up:"),
        *lines,
        f"To end the fork for all machines, share it as a version that follows all sides: "
        f"overlaysync share {shlex.quote(path)}",
    )
