"""The history command: the versions of names, what each follows, and the machines that hold them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Annotated, Any

import typer

from overlaysync.cli.common import (
    InterfaceOption,
    LocalOption,
    PeerOption,
    WaitOption,
    open_node,
    parse_peers,
    quoted,
)
from overlaysync.cli.complete import complete_reference
from overlaysync.cli.holders import holders, seen_words, usage_fields
from overlaysync.cli.looking import LOOK_S, look
from overlaysync.cli.output import output_of
from overlaysync.cli.state_lines import state_fields, state_table, states_of
from overlaysync.cli.tables import Table, Warn
from overlaysync.cli.visible import check_membership
from overlaysync.errors import NotFoundError
from overlaysync.model.names import one_field
from overlaysync.model.reference import Reference, parse_reference
from overlaysync.node.network import Network
from overlaysync.node.node import Node, now
from overlaysync.ops.dates import ago, local_minute
from overlaysync.ops.in_use import users
from overlaysync.ops.matching import Listing
from overlaysync.ops.timeline import Entry, Place, known_versions, timeline
from overlaysync.trust.book import Book
from overlaysync.trust.envelope import Manifest
from overlaysync.trust.keys import node_id
from overlaysync.units import format_size


def add_commands(app: typer.Typer) -> None:
    """Add the command of this module to ``app``."""
    app.command("history")(history)


def history(
    context: typer.Context,
    refs: Annotated[
        list[str],
        typer.Argument(
            metavar="REF...",
            help="[TEAM/]NAME, a pattern ('vm*'), or TEAM for all of a team, including its states.",
            autocompletion=complete_reference,
        ),
    ],
    local: LocalOption = False,
    peer: PeerOption = None,
    iface: InterfaceOption = None,
    wait: WaitOption = LOOK_S,
) -> None:
    """Show the versions of a name, or the states of a team."""

    output = output_of(context)
    with open_node(output) as node:
        references = [parse_reference(f"{ref}/" if ref in node.teams else ref) for ref in refs]
        teams = [
            node.teams[one.team] for one in references if one.is_team and one.team and one.team in node.teams
        ]
        network = Network(parse_peers(peer), iface or (), mdns_needed=False)
        known_states = asyncio.run(states_of(node, teams, output, network, None if local else wait))
        listed, silence = [], None
        if not local:
            for reference in references:
                check_membership(node, reference)
            # Without a network there is still what is known here.
            seen = asyncio.run(look(node, output, network, wait))
            listed, silence = [_of_others(node, listing) for listing in seen.listings], seen.silence
        here = _files(node)
        try:
            found = {
                entry.manifest.id: entry
                for reference in references
                for entry in timeline(reference, _known(node, reference), listed, here)
            }
        except NotFoundError as error:
            if any(states.states for states in known_states):
                found = {}
            elif local:
                raise NotFoundError(
                    f"No version of '{' '.join(refs)}' has been seen here",
                    hint="to ask peers as well, leave out --local: overlaysync history " + " ".join(refs),
                ) from None
            else:
                raise silence or error from None
        book = node.book()
        entries = list(found.values())
        known = [
            holders(node, entry.manifest.header.content_id, entry.held_by, entry.in_use) for entry in entries
        ]
    pairs = list(zip(entries, known, strict=True))
    table = Table([_row(entry, having, book, now(), local=local) for entry, having in pairs])
    document = {"history": [_fields(entry) | {"holders": having} for entry, having in pairs]}
    states = [state_table(one, now()) for one in known_states]
    output.result(
        document | {"states": [row for one in known_states for row in state_fields(one)]}, *states, table
    )


def _known(node: Node, reference: Reference) -> list[Manifest]:
    """Return the versions ever seen here, without those of an earlier team of that name."""

    return [manifest for manifest in known_versions(node.catalog, reference) if node.counts(manifest)]


def _files(node: Node) -> dict[bytes, list[str]]:
    """Return the files here by the content that they still hold."""
    found: dict[bytes, list[str]] = {}
    for row in node.catalog.images.all():
        if node.library.known(row.path):
            found.setdefault(row.layer or row.disk, []).append(row.path)
    return found


def _of_others(node: Node, listing: Listing) -> Listing:
    """Return a listing without this machine's own shares, which are not another copy."""

    others = [
        at
        for at, label in enumerate(listing.labels)
        if label != node.label and not label.startswith(f"{node.label}-")
    ]
    return replace(
        listing,
        labels=tuple(listing.labels[at] for at in others),
        peers=tuple(listing.peers[at] for at in others),
        hosts=tuple(listing.hosts[at] for at in others),
    )


def _row(
    entry: Entry, having: list[dict[str, Any]], book: Book, now: float, *, local: bool
) -> tuple[str, ...]:

    manifest, header = entry.manifest, entry.manifest.header
    doubt = book.doubt(manifest.publisher, header.team, header.name)
    return (
        f"{header.full_name}:{header.version}",
        local_minute(header.created),
        ago(header.created, now),
        one_field(header.by) or node_id(manifest.publisher),
        format_size(header.data_size),
        quoted(header.note),
        f"follows {' and '.join(entry.follows)}" if entry.follows else "",
        Warn("forked" if entry.place is Place.FORKED and not doubt else doubt),
        _where(entry, having, now, local=local),
    )


def _where(entry: Entry, having: list[dict[str, Any]], now: float, *, local: bool) -> str:

    places = [f"at {', '.join(map(one_field, entry.held_by))}"] if entry.held_by else []
    places += ["here"] if entry.here else []
    places += [f"in use at {users(entry.in_use)}"] if entry.in_use else []
    if not places:
        seen = [f"; last seen at {seen_words(holder, now)}" for holder in having[:1]]
        return "".join(["not here" if local else "no machine within reach", *seen])
    return ", ".join(places)


def _fields(entry: Entry) -> dict[str, Any]:

    header = entry.manifest.header
    return {
        "name": header.name,
        "team": header.team,
        "version": header.version,
        "id": header.id,
        "manifest": entry.manifest.id.hex(),
        "created": header.created,
        "publisher": node_id(entry.manifest.publisher),
        "by": header.by,
        "note": header.note,
        "data_size": header.data_size,
        "follows": list(header.follows),
        "fork": entry.place is Place.FORKED,
        "held_by": list(entry.held_by),
        "machines": entry.machines,
        "in_use": bool(entry.in_use),
        "in_use_at": usage_fields(entry.in_use),
        "here": list(entry.here),
    }
