"""The command ls: what is within reach, or here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Annotated

import typer

from overlaysync.cli.common import (
    InterfaceOption,
    LocalOption,
    PeerOption,
    WaitOption,
    listing_fields,
    open_node,
    parse_peers,
    quoted,
)
from overlaysync.cli.complete import complete_reference
from overlaysync.cli.looking import LOOK_S, Seen, look_around, looks, newest_first
from overlaysync.cli.output import output_of
from overlaysync.cli.tables import Table, Warn
from overlaysync.cli.visible import check_membership, local_listings
from overlaysync.cli.watching import EVERY_S, View, WatchOption
from overlaysync.cli.watching import show as show_once
from overlaysync.cli.watching import watch as watching
from overlaysync.errors import NotFoundError, OverlaysyncError
from overlaysync.model.digest import short_id
from overlaysync.model.names import one_field
from overlaysync.model.reference import Reference, parse_reference
from overlaysync.node.network import Network
from overlaysync.node.node import Node, now
from overlaysync.ops.dates import ago
from overlaysync.ops.in_use import in_use_words
from overlaysync.ops.matching import Listing, fits, fitting
from overlaysync.ops.timeline import Place, places
from overlaysync.trust.book import Book
from overlaysync.units import format_size

_NOTHING_HERE = "no image here was published or fetched; to see all known images: overlaysync tree"
_NOTHING_SHARED = "the machines that answered share nothing that you may see; to list them: overlaysync peers"


def add_commands(app: typer.Typer) -> None:
    """Add the command of this module to ``app``."""
    app.command("ls")(ls)


def ls(
    context: typer.Context,
    ref: Annotated[
        str | None,
        typer.Argument(
            metavar="[REF]", autocompletion=complete_reference, help="List only what matches REF."
        ),
    ] = None,
    local: LocalOption = False,
    peer: PeerOption = None,
    iface: InterfaceOption = None,
    wait: WaitOption = LOOK_S,
    watch: WatchOption = False,
) -> None:
    """List masters and overlays within reach."""

    output = output_of(context)
    reference = parse_reference(ref) if ref else None
    with open_node(output) as node:
        if reference and not local:
            check_membership(node, reference)
        network = Network(parse_peers(peer), iface or ())
        if watch:
            watching(output, lambda show: _looks(node, reference, network, None if local else wait, show))
        if local:
            view = _view(node, reference, Seen(local_listings(node), [], None), (), local=True)
        else:
            seen = look_around(node, output, network, wait)
            view = _view(node, reference, seen, ())
    show_once(output, view)


async def _looks(
    node: Node,
    reference: Reference | None,
    network: Network,
    wait_s: float | None,
    show: Callable[[View], None],
) -> None:
    """Show views again and again; of what is known here only, where there is nothing to wait for."""
    if wait_s is not None:
        await looks(
            node,
            network,
            wait_s,
            lambda seen, notes: show(_view(node, reference, seen, notes)),
            tell=True,
        )
    while True:
        show(_view(node, reference, Seen(local_listings(node), [], None), (), local=True))
        await asyncio.sleep(EVERY_S)


def _view(
    node: Node, reference: Reference | None, seen: Seen, notes: tuple[str, ...], *, local: bool = False
) -> View:
    """Return what is listed, of what was seen."""
    book, listings, error = node.book(), seen.listings, seen.silence
    where = places(listings, node.catalog.manifests.versions)
    chosen = [listing for listing in listings if reference is None or fits(reference, listing)]
    chosen.sort(key=lambda item: newest_first(item, where))
    problem: OverlaysyncError | None = error
    if reference and not chosen:
        problem = error or _nothing_fits(reference, listings)
    images = [
        listing_fields(listing, book, fork=where[listing.manifest.id] is Place.FORKED) for listing in chosen
    ]
    if not chosen and problem is None:
        notes = (*notes, _NOTHING_HERE if local else _NOTHING_SHARED)
    return View({"images": images}, (_table(chosen, book, where, now()),), notes, problem)


def _nothing_fits(reference: Reference, listings: list[Listing]) -> OverlaysyncError | None:
    """Return what to say of a reference that fits none of the listings."""

    try:
        fitting(reference, listings)
    except NotFoundError as error:
        return error
    return None


def _table(listings: list[Listing], book: Book, where: Mapping[bytes, Place], now: float) -> Table:

    return Table(
        [
            (
                f"{header.full_name}:{header.version}",
                "overlay" if header.is_layer else "master",
                short_id(header.content_id),
                format_size(header.data_size),
                f"on {one_field(header.parent_name)}" if header.is_layer else "",
                _how_many(listing),
                one_field(header.by),
                ago(header.created, now),
                quoted(header.note),
                _standing(listing, listings, book, where),
                in_use_words(listing.manifest, listing.in_use, now) if listing.in_use else "",
            )
            for listing in listings
            for header in (listing.manifest.header,)
        ]
    )


def _how_many(listing: Listing) -> str:
    """How many machines serve it."""
    if listing.peers:
        return f"×{listing.machines}"
    return "in use" if listing.in_use else "here"


def _standing(listing: Listing, listings: list[Listing], book: Book, where: Mapping[bytes, Place]) -> str:
    """Return the remark on a version beside the others: "2 versions, forked", "older", "other publisher"."""

    header, publisher = listing.manifest.header, listing.manifest.publisher
    doubt = book.doubt(publisher, header.team, header.name)
    if doubt:
        return Warn(doubt)
    if where[listing.manifest.id] is Place.OLDER:
        return "older"
    if where[listing.manifest.id] is Place.NEWEST:
        return ""
    sides = [
        item
        for item in listings
        if where[item.manifest.id] is Place.FORKED
        and item.manifest.header.full_name == header.full_name
        and (header.team or item.manifest.publisher == publisher)
    ]
    return Warn(f"{len(sides)} versions, forked")
