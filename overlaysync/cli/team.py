"""The team commands: create, join, show, code, leave. A team's code is a secret: it never is an argument."""

from __future__ import annotations

import getpass
import os
import stat
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

import typer

from overlaysync.cli.commands import App
from overlaysync.cli.common import open_node
from overlaysync.cli.output import Output, output_of
from overlaysync.cli.tables import Table
from overlaysync.errors import NotAllowedError, UsageError
from overlaysync.model.names import printable
from overlaysync.node.node import Node, now, timestamp
from overlaysync.ops.team_things import Farewell, farewell, held_here, things_of
from overlaysync.ops.trust_messages import age
from overlaysync.store.files import translate
from overlaysync.store.members import Member
from overlaysync.trust.keys import node_id
from overlaysync.trust.team_files import forget_team, keep_team, not_in_team
from overlaysync.trust.teams import Team, new_team, read_code

_CODE_LIMIT = 4096
_STDIN = "-"
_NAMED_THINGS = 12
"""Things that a line names; ``--json`` has them all."""

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The name of the team.")]


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module to ``app``."""
    team = App(no_args_is_help=True, help="Manage teams. Only members see what is shared with a team.")
    for command in (create, join, show, code, leave):
        team.command(command.__name__)(command)
    app.add_typer(team, name="team")


def create(context: typer.Context, name: NameArgument) -> None:
    """Make a team, and print its code."""

    output = output_of(context)
    made = _dated(new_team(name))
    with open_node(output) as node:
        if not keep_team(node.home.teams, made):
            raise AssertionError("a new key belongs to no team")
    output.result(
        {"team": name, "code": made.code, "tag": made.tag},
        output.good(f"team {name}, tag {made.tag}. Its code, for its members only:"),
        f"    {made.code}",
        "  On each member's machine, type this, and then the code:",
        f"    overlaysync team join {name}",
        f"  To see the code again: overlaysync team code {name}",
    )


def join(
    context: typer.Context,
    name: NameArgument,
    source: Annotated[
        str | None,
        typer.Argument(metavar="[-]", help="Use - to read the code from stdin, even if it is a terminal."),
    ] = None,
    code_file: Annotated[
        str | None, typer.Option("--code-file", metavar="FILE", help="Read the code from this file.")
    ] = None,
) -> None:
    """Join a team, after asking for its code."""

    output = output_of(context)
    if source not in (None, _STDIN):
        raise UsageError(
            "A team's code cannot be an argument: other users can see arguments",
            hint=f"type the code when you are asked for it: overlaysync team join {name}",
        )
    joined = _dated(read_code(name, _code(name, _STDIN if source else code_file)))
    with open_node(output) as node:
        new = keep_team(node.home.teams, joined)
    output.result(
        {"team": name, "tag": joined.tag, "new": new},
        output.good(f"{'' if new else 'already '}in team {name}, tag {joined.tag}"),
    )


def show(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="The team (default: all of yours).")
    ] = None,
) -> None:
    """List the teams this machine is in, and the members it has seen."""

    output = output_of(context)
    with open_node(output) as node:
        teams = [_team(node, name)] if name is not None else list(node.teams.values())
        members = {
            team.name: [
                Member(node.key.public, node.label, "", things_of(held_here(node.library, team))),
                *node.catalog.members.seen(team.id),
            ]
            for team in teams
        }
    document = [
        {"team": team.name, "tag": team.tag, "since": team.since}
        | {"members": [_member_fields(one) for one in members[team.name]]}
        for team in teams
    ]
    parts = [part for team in teams for part in _team_parts(team, members[team.name])]
    output.result({"teams": document}, *parts)
    if not teams and not output.json:
        output.note(
            "This machine is in no team. Try: overlaysync team create NAME, or: overlaysync team join NAME"
        )


def code(context: typer.Context, name: NameArgument) -> None:
    """Show a team's code again, on a terminal only, after you confirm."""

    output = output_of(context)
    with open_node(output) as node:
        team = _team(node, name)
    if output.json or not all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)):
        raise UsageError(
            f"The code of team '{team.name}' is shown on a terminal only",
            why="--json output is for programs" if output.json else "this is not a terminal",
            hint=f"in a terminal, without a pipe: overlaysync team code {team.name}",
        )
    if typer.confirm("Anyone who sees this code can join the team. Show it?", err=True):
        output.result({}, f"    {team.code}")
    else:
        output.note("The code was not shown")


def leave(
    context: typer.Context,
    name: NameArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Leave a team: its key is removed from this machine."""

    output = output_of(context)
    with open_node(output) as node:
        team = _team(node, name)
        lost = farewell(node.library, team, node.key.public)
        fields = {"team": name, "own": lost.own, "others": lost.others, "elsewhere": lost.elsewhere}
        if not yes:
            if not sys.stdin.isatty():
                raise UsageError(
                    f"Leaving team '{name}' needs your confirmation",
                    why="cannot ask for it: stdin is not a terminal",
                    hint=f"overlaysync team leave {name} --yes",
                )
            _tell_lost(output, lost, name)
            if not typer.confirm(f"Leave team '{name}'? To come back you need its code.", err=True):
                output.result(fields | {"left": False}, f"still in team {name}")
                return
        forget_team(node.home.teams, name)
        node.catalog.members.forget(team.id)
    if yes:
        _tell_lost(output, lost, name)
    output.result(fields | {"left": True}, output.good(f"no longer in team {name}"))


def _team(node: Node, name: str) -> Team:
    """Return the team of that name that this node is in.

    Raises:
        NotFoundError: it is in none.
    """

    team = node.teams.get(name)
    if team is None:
        raise not_in_team(name, node.teams)
    return team


def _tell_lost(output: Output, lost: Farewell, name: str) -> None:
    """Say what becomes unreachable for a machine that leaves a team."""
    texts = (
        (
            lost.others,
            "Published by other members, and on this machine",
            "The files stay, but they cannot be fetched again or repaired",
        ),
        (
            lost.elsewhere,
            "On other members' machines only",
            "They cannot be fetched any more",
        ),
        (
            lost.own,
            "Published by you for the team",
            "To share them again, choose an audience: overlaysync share --public PATH, or: "
            "overlaysync share --team OTHER PATH",
        ),
    )
    if any(names for names, *_ in texts):
        output.note(f"Without team '{name}':")
    for names, which, then in texts:
        if names:
            output.note(f"  {which}: {_listed(names)}. {then}")


# -- members -----------------------------------------------------------------------------------------


def _member_fields(member: Member) -> dict[str, Any]:
    """Return the JSON form of a member; this machine was never seen by itself."""

    return {
        "node": member.label,
        "id": node_id(member.node),
        "you": not member.seen_at,
        "seen_at": member.seen_at or None,
        "masters": sum(not thing.is_overlay for thing in member.things),
        "overlays": sum(thing.is_overlay for thing in member.things),
        "holds": [
            {
                "name": thing.name,
                "version": thing.version,
                "kind": "overlay" if thing.is_overlay else "master",
            }
            for thing in member.things
        ],
    }


def _team_parts(team: Team, members: list[Member]) -> list[str | Table]:

    rows = []
    for member in members:
        seen = f"seen {age(member.seen_at, now()).lstrip(', ') or 'just now'}" if member.seen_at else "you"
        rows.append((printable(member.label), node_id(member.node), seen, _holdings(member)))
    parts: list[str | Table] = [f"{team.name}  {team.tag}  since {team.since}", Table(rows, indent=2)]
    if len(members) == 1:
        parts.append(f"  No other member was seen so far. To look for some: overlaysync ls {team.name}/")
    return parts


def _holdings(member: Member) -> str:
    """How many masters and overlays of the team a member has, and which."""
    overlays = sum(thing.is_overlay for thing in member.things)
    counts = [
        f"{count} {kind}{'' if count == 1 else 's'}"
        for count, kind in ((len(member.things) - overlays, "master"), (overlays, "overlay"))
        if count
    ]
    names = [f"{thing.name}:{thing.version}" for thing in member.things]
    return f"{', '.join(counts)}: {_listed(names)}" if counts else "nothing of the team"


def _listed(names: Sequence[str]) -> str:
    """Return the first of these names, and how many more there are."""
    shown, more = ", ".join(names[:_NAMED_THINGS]), len(names) - _NAMED_THINGS
    return f"{shown} and {more} more" if more > 0 else shown


# -- codes -------------------------------------------------------------------------------------------


def _dated(team: Team) -> Team:

    return replace(team, since=timestamp())


def _code(name: str, file: str | None) -> str:
    """Return the code, from a file, from stdin, or asked for without showing what is typed.

    Raises:
        OverlaysyncError: the file cannot be read, or others may read it.
    """

    if file is not None and file != _STDIN:
        return _read_file(file)
    if file == _STDIN or not sys.stdin.isatty():
        return sys.stdin.read(_CODE_LIMIT)
    return getpass.getpass(f"Code of team {printable(name)}: ")


def _read_file(path: str) -> str:

    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if stat.S_ISREG(status.st_mode) and status.st_mode & 0o077:
                raise NotAllowedError(f"The code in {path} can be read by others", hint=f"chmod 600 '{path}'")
            return file.read(_CODE_LIMIT).decode("ascii", "replace")
    except OSError as error:
        raise translate(error, f"Cannot read {path}", hint="name another file: --code-file FILE") from error
