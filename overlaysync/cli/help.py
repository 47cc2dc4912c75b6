"""The help command."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from overlaysync.errors import UsageError
from overlaysync.model.names import meant


def add_commands(app: typer.Typer) -> None:
    """Add the command of this module to ``app``."""
    app.command("help")(help)


def help(
    context: typer.Context,
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="[COMMAND]...", help="A command, such as 'share' or 'team join'."),
    ] = None,
) -> None:
    """Show the help of a command."""
    at: Any = context.find_root()
    for word in command or ():
        if not isinstance(at.command, typer.core.TyperGroup) or word not in at.command.commands:
            known = getattr(at.command, "commands", {})
            raise UsageError(
                f"There is no command '{' '.join(command or ())}'",
                why=meant(word, known),
                hint="overlaysync --help",
            )
        at = at.command.commands[word].make_context(word, [], parent=at, resilient_parsing=True)
    typer.echo(at.get_help())
