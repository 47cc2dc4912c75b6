"""The archive commands: object stores and directories that hold a team's states."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from overlaysync.archive.location import parse_location
from overlaysync.archive.opening import open_place
from overlaysync.archive.places import add_place, find_place, load_places, remove_place
from overlaysync.archive.probe import probe
from overlaysync.cli.checked import checked_fields, checked_lines
from overlaysync.cli.commands import App
from overlaysync.cli.common import open_node
from overlaysync.cli.complete import complete_reference
from overlaysync.cli.finding import examine, is_path, path_of
from overlaysync.cli.output import Output, output_of
from overlaysync.cli.save import team_of
from overlaysync.errors import BrokenOffError, NotAllowedError, UsageError, VerificationError
from overlaysync.model.reference import parse_reference
from overlaysync.node.archiving import check_archive
from overlaysync.node.archiving import push as push_states
from overlaysync.node.image_archiving import push_image
from overlaysync.node.node import Node
from overlaysync.units import format_size
from overlaysync.vault.objects import Objects

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The name of the archive.")]


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module to ``app``."""
    archive = App(no_args_is_help=True, help="Keep states in object stores and on other disks.")
    archive.command("add")(add)
    archive.command("push")(push)
    archive.command("ls")(ls)
    archive.command("check")(check)
    archive.command("rm")(rm)
    app.add_typer(archive, name="archive")


def add(
    context: typer.Context,
    name: NameArgument,
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL", help="s3://BUCKET/PREFIX, gs://…, az://…, or file:///DIR for another disk."
        ),
    ],
) -> None:
    """Add an archive, and check that it can be used."""

    output = output_of(context)
    location = parse_location(url)
    with open_node(output) as node:
        abilities = probe(open_place(location))
        if not abilities.is_usable:
            raise NotAllowedError(
                f"{location} cannot be used as an archive",
                why=" ".join(abilities.lacks),
                hint="name another bucket or directory",
            )
        new = add_place(node.home.config, name, location)
    lines = [output.good(f"{name}  {location}" + ("" if new else "  (was added before)"))]
    lines += [f"  {one}" for one in abilities.lacks]
    lines.append(f"  to store a team's states there: overlaysync archive push TEAM {name}")
    output.result({"name": name, "url": str(location), "new": new, "lacks": list(abilities.lacks)}, *lines)


def push(
    context: typer.Context,
    what: Annotated[
        str,
        typer.Argument(
            metavar="TEAM|REF",
            help="The team whose states to store, or a published image.",
            autocompletion=complete_reference,
        ),
    ],
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="The archive (default: your only one).")
    ] = None,
) -> None:
    """Store the states of a team, or one published image, in an archive."""

    output = output_of(context)
    with open_node(output) as node:
        chosen = _chosen(node, name)
        archive = open_place(find_place(load_places(node.home.config), chosen))
        if _is_image(node, what):
            _push_image(output, node, what, chosen, archive)
        else:
            _push_states(output, node, what, chosen, archive)


def _is_image(node: Node, what: str) -> bool:
    """Whether one image is meant; a word that is the name of a team means the team."""
    if what.removesuffix("/") in node.teams or what.endswith("/"):
        return False
    if is_path(what):
        return True
    reference = parse_reference(what)
    if reference.is_many:
        raise UsageError(
            f"'{what}' may mean several images, and one is stored at a time",
            hint="overlaysync archive push NAME; to see their names: overlaysync tree",
        )
    return True


def _push_image(output: Output, node: Node, what: str, name: str, archive: Objects) -> None:
    known = examine(node, output, path_of(node, what))
    with _interruptible():
        done = push_image(node, known, name, archive, output)
    header = done.manifest.header
    title = f"{header.full_name}:{header.version}"
    lines = [output.good(f"{name} now has {title}, {format_size(done.stored)} stored")]
    lines += [f"  left out {file}: it is not here as it was published" for file in done.left_out]
    lines.append(f"  on a machine with this archive, if no machine has the image: overlaysync fetch {title}")
    output.result(
        {
            "archive": name,
            "name": header.name,
            "team": header.team,
            "version": header.version,
            "id": header.id,
            "stored": done.stored,
            "left_out": list(done.left_out),
        },
        *lines,
    )


@contextmanager
def _interruptible() -> Iterator[None]:
    """Say what an interrupted push has done.

    Raises:
        BrokenOffError: the user has interrupted it.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise BrokenOffError(
            "interrupted. Repeat the command to go on: it does not store again what is already there"
        ) from None


def _push_states(output: Output, node: Node, what: str, chosen: str, archive: Objects) -> None:
    mine = team_of(node, what.removesuffix("/"), "archive push")
    output.begin("pushing", 0)
    try:
        with _interruptible():
            done = push_states(node, mine, chosen, archive, output.advance)
    finally:
        output.end()
    count = "1 state" if done.states == 1 else f"{done.states} states"
    output.result(
        {"archive": chosen, "team": mine.name, "states": done.states, "stored": done.stored},
        output.good(f"{chosen} now has {count} of team '{mine.name}', {format_size(done.stored)} stored"),
    )


def _chosen(node: Node, name: str | None) -> str:
    places = load_places(node.home.config)
    if name is not None:
        find_place(places, name)
        return name
    if len(places) == 1:
        return next(iter(places))
    if not places:
        raise UsageError("No archive was added yet", hint="overlaysync archive add NAME URL")
    raise UsageError(
        f"There are several archives: {', '.join(places)}",
        hint=f"overlaysync archive push TEAM {min(places)}",
    )


def ls(context: typer.Context) -> None:
    """List the archives."""

    output = output_of(context)
    with open_node(output) as node:
        places = load_places(node.home.config)
    document = [{"name": name, "url": str(location)} for name, location in places.items()]
    output.result({"archives": document}, *(f"{one['name']}  {one['url']}" for one in document))
    if not places and not output.json:
        output.note("No archive was added yet. To add one: overlaysync archive add NAME URL")


def check(
    context: typer.Context,
    name: NameArgument,
    read: Annotated[
        bool, typer.Option("--read", help="Read every object, and compare it with its name.")
    ] = False,
) -> None:
    """Check that an archive has every object its states need."""

    output = output_of(context)
    with open_node(output) as node:
        archive = open_place(find_place(load_places(node.home.config), name))
        output.begin("checking", 0)
        try:
            found = check_archive(node, name, archive, read=read, progress=output.advance)
        finally:
            output.end()
    output.result({"archive": name} | checked_fields(found), *checked_lines(output, found))
    if found.damaged:
        raise VerificationError(
            f"{len(found.damaged)} of {found.objects} objects in archive '{name}' are missing or damaged",
            why=f"these states need them: {', '.join(found.hit)}" if found.hit else "",
            hint=f"to store them again, on a machine that has them: overlaysync archive push TEAM {name}",
        )


def rm(context: typer.Context, name: NameArgument) -> None:
    """Stop using an archive; what it holds stays there."""

    output = output_of(context)
    with open_node(output) as node:
        location = remove_place(node.home.config, name)
    output.result(
        {"name": name, "url": str(location)},
        output.good(f"{name} is no longer used; nothing in {location} was deleted"),
    )
