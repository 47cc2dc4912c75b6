"""The team commands: create, join, show, leave. A team's code is a secret: it never is an argument."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from overlaysync.cli.common import open_node, output_of

if TYPE_CHECKING:
    from overlaysync.trust.teams import Team

_CODE_LIMIT = 4096
_STDIN = "-"

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The team.")]


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module to ``app``."""
    team = typer.Typer(no_args_is_help=True, help="Teams: what is shared with one only its members see.")
    for name, command in (("create", create), ("join", join), ("show", show), ("leave", leave)):
        team.command(name)(command)
    app.add_typer(team, name="team")


def create(context: typer.Context, name: NameArgument) -> None:
    """Make a team, and print its code, this once."""
    from overlaysync.trust.team_files import keep_team
    from overlaysync.trust.teams import new_team

    output = output_of(context)
    made = _dated(new_team(name))
    with open_node() as node:
        if not keep_team(node.home.teams, made):
            raise AssertionError("a new key is nobody's")
    output.result(
        {"team": name, "code": made.code, "tag": made.tag},
        output.good(f"team {name}, tag {made.tag}. Its code, which is not shown again:"),
        f"    {made.code}",
        "  who is to be in it types:",
        f"    overlaysync team join {name}",
    )


def join(
    context: typer.Context,
    name: NameArgument,
    source: Annotated[
        str | None,
        typer.Argument(metavar="[-]", help="-: read the code from stdin, as when it is no terminal."),
    ] = None,
    code_file: Annotated[
        str | None, typer.Option("--code-file", metavar="FILE", help="Read the code from this file.")
    ] = None,
) -> None:
    """Join a team; asks for its code."""
    from overlaysync.errors import UsageError
    from overlaysync.trust.team_files import keep_team
    from overlaysync.trust.teams import read_code

    output = output_of(context)
    if source not in (None, _STDIN):
        raise UsageError(
            "A team's code is no argument: others can see those",
            hint=f"overlaysync team join {name}, and type it when you are asked",
        )
    joined = _dated(read_code(name, _code(name, _STDIN if source else code_file)))
    with open_node() as node:
        new = keep_team(node.home.teams, joined)
    output.result(
        {"team": name, "tag": joined.tag, "new": new},
        output.good(f"in team {name}, tag {joined.tag}" + ("" if new else ", already")),
    )


def show(context: typer.Context) -> None:
    """List the teams this node is in."""
    output = output_of(context)
    with open_node() as node:
        teams = list(node.teams.values())
    width = max((len(team.name) for team in teams), default=0)
    output.result(
        {"teams": [{"team": team.name, "tag": team.tag, "since": team.since} for team in teams]},
        *(f"{team.name:{width}}  {team.tag}  since {team.since}" for team in teams),
    )
    if not teams and not output.json:
        output.note("in no team; overlaysync team create NAME, or: overlaysync team join NAME")


def leave(context: typer.Context, name: NameArgument) -> None:
    """Leave a team: its key is removed here."""
    from overlaysync.trust.team_files import forget_team

    output = output_of(context)
    with open_node() as node:
        forget_team(node.home.teams, name)
    output.result({"team": name}, output.good(f"no longer in team {name}"))


def _dated(team: Team) -> Team:
    from dataclasses import replace

    from overlaysync.node.node import timestamp

    return replace(team, since=timestamp())


def _code(name: str, file: str | None) -> str:
    """The code, from a file, from stdin, or asked for without showing what is typed.

    Raises:
        OverlaysyncError: the file cannot be read, or others may read it.
    """
    import getpass
    import sys

    from overlaysync.model.names import printable

    if file is not None and file != _STDIN:
        return _read_file(file)
    if file == _STDIN or not sys.stdin.isatty():
        return sys.stdin.read(_CODE_LIMIT)
    return getpass.getpass(f"Code of team {printable(name)}: ")


def _read_file(path: str) -> str:
    import os
    import stat

    from overlaysync.errors import NotAllowedError
    from overlaysync.store.files import translate

    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if stat.S_ISREG(status.st_mode) and status.st_mode & 0o077:
                raise NotAllowedError(f"The code in {path} can be read by others", hint=f"chmod 600 '{path}'")
            return file.read(_CODE_LIMIT).decode("ascii", "replace")
    except OSError as error:
        raise translate(error, f"Cannot read {path}", hint="name another file: --code-file FILE") from error
