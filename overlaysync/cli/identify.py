"""The id command: what names an image by its content."""

from __future__ import annotations

from typing import Annotated

import typer

from overlaysync.cli.common import AcceptMasterOption, image_fields, open_node
from overlaysync.cli.finding import examine, path_of
from overlaysync.cli.formats import InsistOption, format_to_read
from overlaysync.cli.output import output_of


def add_commands(app: typer.Typer) -> None:
    """Add the command of this module to ``app``."""
    app.command("id")(identify)


def identify(
    context: typer.Context,
    path: Annotated[str, typer.Argument(metavar="PATH|REF", help="An image on this machine.")],
    format: InsistOption = None,
    accept_master: AcceptMasterOption = False,
) -> None:
    """Print the ids of an image."""
    output = output_of(context)
    with open_node(output) as node:
        known = examine(
            node, output, path_of(node, path), format_to_read(format), accept_master=accept_master
        )
        fields = image_fields(known)
    lines = [f"{name:7} {fields[name]}" for name in ("disk", "layer", "parent") if fields[name]]
    output.result(fields, *lines)
