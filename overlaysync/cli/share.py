"""The share command: hash, announce, serve until Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from overlaysync.cli.common import (
    AcceptMasterOption,
    InterfaceOption,
    PeerOption,
    QmpOption,
    RateOption,
    given,
    image_fields,
    number_from,
    open_node,
    parse_peers,
    parse_rate,
)
from overlaysync.cli.finding import note_writable
from overlaysync.cli.formats import InsistOption, format_to_read, refuse_format
from overlaysync.cli.output import Output, output_of
from overlaysync.cli.paged import PageOption, PagePortOption, page_lines
from overlaysync.cli.signals import ending
from overlaysync.cli.state_lines import alone_lines
from overlaysync.cli.staying import Running, Serving, staying
from overlaysync.errors import NotAllowedError, UsageError
from overlaysync.model.digest import short_id
from overlaysync.model.manifest import MAX_NOTE
from overlaysync.model.names import one_field
from overlaysync.net.messages import Address
from overlaysync.node.capturing import Means
from overlaysync.node.gathering import Wishes
from overlaysync.node.live_images import LiveImage
from overlaysync.node.network import Network
from overlaysync.node.node import Node, now
from overlaysync.node.sharing import Share
from overlaysync.node.used import Used
from overlaysync.ops.again import PUBLIC, ShareAgain
from overlaysync.ops.collecting import Rules
from overlaysync.ops.dates import ago
from overlaysync.store.keeping import load_keeping
from overlaysync.trust.keys import node_id
from overlaysync.units import format_size

RECHECK_DAYS = 7.0


def add_commands(app: typer.Typer) -> None:
    """Add the command of this module to ``app``."""
    app.command("share")(share)


def share(
    context: typer.Context,
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Images, or directories of images.")],
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Go into subdirectories as well.")
    ] = False,
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", metavar="PATTERN", help="Leave out files that match. May be repeated."),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="Publish a single image under this name.")
    ] = None,
    note: Annotated[
        str, typer.Option("--note", "-m", metavar="NOTE", help="Say what is new in this version.")
    ] = "",
    team: Annotated[
        str | None, typer.Option("--team", metavar="TEAM", help="Share with the members of this team only.")
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="Share with every machine on the network.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask before making a team's images public.")
    ] = False,
    accept_master: AcceptMasterOption = False,
    live: Annotated[
        bool,
        typer.Option(
            "--live", help="Capture images that running VMs write to, and share them as they are now."
        ),
    ] = False,
    qmp: QmpOption = None,
    peer: PeerOption = None,
    format: InsistOption = None,
    iface: InterfaceOption = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port",
            metavar="PORT",
            parser=number_from(0, 65535, whole=True),
            help="Listen on this port; 0 takes any free port "
            "(default: 29450, or a free port if 29450 is taken).",
        ),
    ] = None,
    limit_rate: RateOption = None,
    page: PageOption = True,
    page_port: PagePortOption = 0,
    recheck: Annotated[
        float,
        typer.Option(
            "--recheck",
            metavar="DAYS",
            parser=number_from(0),
            help="Check images for damage if they were last read more than DAYS ago (0: never).",
        ),
    ] = RECHECK_DAYS,
) -> None:
    """Share images until interrupted."""

    output = output_of(context)
    output.stay()
    if qmp and not live:
        raise UsageError("--qmp has no meaning without --live", hint="add --live, or leave --qmp out")
    insisted = format_to_read(format)
    for directory in filter(os.path.isdir, paths):
        refuse_format(insisted, directory, "it is a directory, and --format says what one image is")
    # Not --yes: what becomes public by a command that we made up is asked about.
    again = ShareAgain(
        audience=PUBLIC if public else ("--team", team) if team else (),
        options=given(context, "team", "public", "name", "yes"),
        name=name or "",
    )
    wishes = Wishes(
        name=name or "",
        note=_note(note),
        collecting=Rules(recursive, tuple(exclude or ())),
        format=insisted,
        accept_master=accept_master,
        confirm=_confirmation(yes),
        again=again,
        live=Means(tuple(qmp or ())) if live else None,
    )
    peers, interfaces = parse_peers(peer), tuple(iface or ())
    serving = Serving(port, parse_rate(limit_rate), recheck, int(page_port) if page else None)
    with open_node(output) as node:
        try:
            work = Share(node, paths, _audience(team, public), output, wishes)
            asyncio.run(_share(work, output, _network(node, output, peers, interfaces), serving))
        except KeyboardInterrupt:  # the usual end: nothing went wrong
            how, code = ending()
            output.log(f"ended by {how}")
            raise SystemExit(code) from None


def _audience(team: str | None, public: bool) -> str | None:
    """Return the team, "" for everybody, or None for the audience that each image had so far.

    Raises:
        UsageError: both are given, or the team has no name.
    """

    if team is not None and public:
        raise UsageError("Cannot use --team together with --public", hint="leave one of them out")
    if team == "":
        raise UsageError(
            "--team needs the name of a team, and got an empty one",
            why="the variable that should hold it may be unset",
            hint="name the team: --team NAME; to list your teams: overlaysync team show",
        )
    return "" if public else team


def _note(text: str) -> str:
    """Return the note of ``-m``.

    Raises:
        UsageError: it is too long, or has several lines.
    """

    if len(text) > MAX_NOTE or not text.isprintable():
        raise UsageError(
            "That note cannot be published",
            why=f"a note is one line of at most {MAX_NOTE} characters",
            hint="overlaysync share -m 'fixed the routing'",
        )
    return text


def _confirmation(yes: bool) -> Callable[[Sequence[str]], None]:
    """Return what asks before a team's images become public."""

    def confirm(names: Sequence[str]) -> None:

        listed = ", ".join(names)
        if yes:
            return
        if not sys.stdin.isatty():
            raise UsageError(
                f"This would make public what a team shares: {listed}",
                why="cannot ask for confirmation: stdin is not a terminal",
                hint="the same command with --yes",
            )
        if not typer.confirm(f"Share {listed} with every machine on the network?", err=True):
            raise NotAllowedError("Nothing was shared", hint="to share with a team: --team TEAM")

    return confirm


def _network(node: Node, output: Output, peers: Sequence[Address], interfaces: Sequence[str]) -> Network:
    keeps = load_keeping(node.home.keeping)  # which machine holds a copy, its catalog says
    return Network(
        peers, interfaces, mdns_needed=False, catalogs=bool(keeps.teams or keeps.others), alarm=output.note
    )


async def _share(share: Share, output: Output, network: Network, serving: Serving) -> None:

    try:
        async with staying(share, network, serving, share.publish_all) as running:
            _print_share(output, share, running)
            note_writable(output, *(shared.known for shared in share.shared))
            for line in await asyncio.to_thread(alone_lines, share.node):
                output.note(line)
            await asyncio.Event().wait()
    finally:
        share.close()


def _print_share(output: Output, share: Share, running: Running) -> None:

    lines = []
    book = share.node.book()
    items: list[dict[str, Any]] = []
    for shared in share.shared:
        header = shared.manifest.header
        kind = "overlay" if header.is_layer else "master"
        size = f"{format_size(header.data_size)} of {format_size(header.virtual_size)}"
        on = ""
        if shared.known.parent:
            on = f"  on {one_field(header.parent_name)} {short_id(shared.known.parent.disk.id)}"
        lines.append(
            output.good(
                f"{kind:8}{header.full_name}:{header.version}  {size}  {short_id(header.content_id)}{on}"
            )
        )
        items.append(image_fields(shared.known, shared.manifest, book, share.node.catalog.manifests.versions))
    for used in share.used:
        header = used.entry.manifest.header
        lines.append(
            f"  in use  {header.full_name}:{header.version}  a VM writes to {used.path}; "
            "it is listed without its data"
        )
    lines += map(_live_line, share.live.values())
    lines.append(
        f"  announced as {share.label} on {running.where}"
        if running.where
        else f"  not announced; port {running.port}"
    )
    lines.append(f"  your fingerprint, for others to compare: {node_id(share.public_key)}")
    if any(not shared.manifest.header.is_layer for shared in share.shared):
        lines.append("  QEMU cannot write to a master while it is shared")
    names = {shared.manifest.header.full_name for shared in share.shared if shared.asked}
    lines.append(
        "  sharing until Ctrl-C; to fetch, type on another machine:" if names else "  sharing until Ctrl-C"
    )
    lines += [f"    overlaysync fetch {name}" for name in sorted(names)]
    lines.append(f"  where mDNS does not work, add: --peer HOST:{running.port}")
    lines += page_lines(running.page)
    document = {
        "shared": items,
        "in_use": [_used_fields(used) for used in share.used],
        "captured": [
            {"path": path, "at": live.at, "consistency": live.consistency, "size": live.size}
            for path, live in share.live.items()
        ],
        "node": share.label,
        "port": running.port,
        "interfaces": running.where,
        "page": running.page.address if running.page else None,
    }
    output.result(document, *lines)


def _live_line(live: LiveImage) -> str:
    """Say of a captured image when it was so, and what the copy costs."""
    how = "of frozen file systems" if live.consistency == "fs" else "as a power failure would have left it"
    return (
        f"  captured {ago(live.at, now())}, while its VM was running: {live.known.path}. The copy is {how}, "
        f"and takes {format_size(live.size)} until this command ends. What the VM writes later is not in it"
    )


def _used_fields(used: Used) -> dict[str, Any]:
    """Return the JSON form of what is listed without its data."""
    header = used.entry.manifest.header
    return {
        "name": header.name,
        "team": header.team,
        "version": header.version,
        "manifest": used.entry.manifest.id.hex(),
        "path": used.path,
    }
