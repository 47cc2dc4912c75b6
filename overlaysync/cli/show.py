"""Commands that look at one thing: show, id."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Any

import typer

from overlaysync.cli.common import (
    AcceptMasterOption,
    PeerOption,
    WaitOption,
    image_fields,
    listing_fields,
    open_node,
    parse_peers,
)
from overlaysync.cli.complete import complete_reference
from overlaysync.cli.finding import examine, is_path, manifest_of
from overlaysync.cli.formats import InsistOption, format_to_read, refuse_format
from overlaysync.cli.holders import holder_words, holders
from overlaysync.cli.looking import LOOK_S, look, newest_first
from overlaysync.cli.output import Output, output_of
from overlaysync.cli.show_vms import is_of_vms, show_vms
from overlaysync.cli.visible import check_membership, local_listings
from overlaysync.errors import AmbiguousError
from overlaysync.formats.files import open_regular
from overlaysync.formats.image import Format
from overlaysync.formats.locks import in_use_for_writing, writer_of
from overlaysync.model.digest import format_id
from overlaysync.model.names import one_field
from overlaysync.model.reference import Reference, parse_reference
from overlaysync.node.network import Network
from overlaysync.node.node import Node, now
from overlaysync.ops.discard import standing_on
from overlaysync.ops.matching import Listing, fits, fitting
from overlaysync.ops.name_policy import Grounds, meant_here, to_look_at
from overlaysync.ops.timeline import Place, places
from overlaysync.ops.trust_messages import age, trust_of, who
from overlaysync.store.manifests import ManifestRow
from overlaysync.trust.book import Book
from overlaysync.trust.envelope import Manifest, open_envelope
from overlaysync.units import format_size


def add_commands(app: typer.Typer) -> None:
    """Add the command of this module to ``app``."""
    app.command("show")(show)


def show(
    context: typer.Context,
    what: Annotated[
        str,
        typer.Argument(
            metavar="REF|PATH",
            autocompletion=complete_reference,
            help="What to show. A directory, lab.yaml, domain XML or vm.toml stands for its VMs.",
        ),
    ],
    format: InsistOption = None,
    accept_master: AcceptMasterOption = False,
    peer: PeerOption = None,
    wait: WaitOption = LOOK_S,
) -> None:
    """Show everything about an image or a VM: ids, sizes, copies.

    For a fork, both sides are shown; for a team, the newest version of each name.
    """

    output = output_of(context)
    insisted = format_to_read(format)
    with open_node(output) as node:
        directory = what.endswith("/") and os.path.isdir(what) and what.rstrip("/") not in node.teams
        if directory or (is_path(what) and is_of_vms(what)):
            show_vms(output, what)
            return
        if is_path(what):
            shown = [_show_image(node, output, what, insisted, accept_master=accept_master)]
        else:
            refuse_format(insisted, what, "it is not the path of an image")
            shown = _show_reference(node, output, what, peer, wait)
        lines = [
            line for fields in shown for line in ("", *_rows(fields, node.catalog.manifests.find, now()))
        ][1:]
    output.result(shown[0] if len(shown) == 1 else {"images": shown}, *lines)


def _rows(fields: dict[str, Any], find: Callable[[bytes], ManifestRow | None], now: float) -> list[str]:
    """``fields`` for people: one line each, lists one line an item."""

    lines = []
    for name, value in fields.items():
        if value in (None, "", [], False):
            continue
        if name.endswith("size"):
            value = f"{format_size(value)} ({value} bytes)"
        label = name.replace("_", " ")
        values = value if isinstance(value, list) else [value]
        for at, item in enumerate(values):
            lines.append(f"{label if at == 0 else '':13} {_in_words(name, item, find, now)}")
    return lines


def _in_words(name: str, value: Any, find: Callable[[bytes], ManifestRow | None], now: float) -> Any:
    """Return a value for people: versions by their numbers, dates with their age."""

    if name == "follows":
        row = find(bytes.fromhex(value))
        return f"{row.title} ({value[:8]})" if row else f"{value[:8]}, which is not known here"
    if name == "created":
        return f"{value}{age(value, now)}"
    if name == "fork":
        return "yes, neither side follows the other"
    if name == "in_use":
        return "yes"
    if name == "in_use_at":
        return f"{one_field(value['node'])}{age(value['since'], now) if value['since'] else ''}"
    if name == "holders":
        return holder_words(value, now)
    return "  ".join(map(str, value.values())) if isinstance(value, dict) else value


def _show_image(
    node: Node, output: Output, path: str, format: Format | None, *, accept_master: bool = False
) -> dict[str, Any]:

    known = examine(node, output, path, format, accept_master=accept_master)
    manifest = manifest_of(node, known)
    book = node.book()
    fields = image_fields(known, manifest, book, node.catalog.manifests.versions)
    status = os.stat(known.path)
    fd = open_regular(known.path)
    try:
        fields["in_use"] = in_use_for_writing(fd)
        fields["used_by"] = (writer_of(fd) or "another program") if fields["in_use"] else ""
    finally:
        os.close(fd)
    fields["file_size"] = status.st_size
    fields["cluster_size"] = known.geometry.cluster_size
    fields["lineage"] = [
        {"path": image.path, "disk": format_id(image.disk.id)} for image in list(known.lineage)[1:]
    ]
    fields["stands_on_it"] = standing_on(known.path, (status.st_dev, status.st_ino), node.catalog)
    fields["copies"] = [row.path for row in node.library.holders(known.disk.id) if row.path != known.path]
    fields["published_as"] = [
        _signature(open_envelope(row.envelope), book)
        for row in node.catalog.manifests.matching(content=known.content.id)
    ]
    fields["notes"] = list(known.notes)
    return fields


def _signature(manifest: Manifest, book: Book) -> str:
    """Who signed what, and how that publisher is trusted for the name."""

    header = manifest.header
    about = (manifest.publisher, header.team, header.name)
    words = {
        "own": "yours",
        "explicit": "trusted",
        "first-use": "trusted on first use",
        "team": "trusted as a member of the team",
        "no": "not trusted",
    }
    trust, since = trust_of(manifest, book), book.since(*about)
    return (
        f"{header.full_name}:{header.version} by {who(manifest.publisher, header.by)}, "
        f"{words.get(trust, trust)}"
        f"{f' since {since}' if since else ''}"
    )


def _show_reference(
    node: Node, output: Output, text: str, peers: list[str] | None, wait_s: float
) -> list[dict[str, Any]]:

    reference = parse_reference(text)
    listings = local_listings(node)
    if not any(fits(reference, listing) for listing in listings):
        check_membership(node, reference)
    seen = asyncio.run(look(node, output, Network(parse_peers(peers)), wait_s))
    listed = {listing.manifest.id for listing in seen.listings}
    everything = [*seen.listings, *(item for item in listings if item.manifest.id not in listed)]
    if not any(fits(reference, listing) for listing in everything):
        seen.require_answer()
    where = places(everything, node.catalog.manifests.versions)
    shown = []
    for listing in _shown(node, output, reference, everything, where):
        fork = where[listing.manifest.id] is Place.FORKED
        fields = listing_fields(listing, node.book(), fork=fork)
        header = listing.manifest.header
        fields["holders"] = holders(node, header.content_id, listing.labels, listing.in_use)
        fields["copies"] = [row.path for row in node.library.holders(header.result_id)]
        shown.append(fields)
    return shown


def _shown(
    node: Node,
    output: Output,
    reference: Reference,
    listings: list[Listing],
    where: Mapping[bytes, Place],
) -> list[Listing]:
    """Return the things to show: the one that is meant, the sides of a fork, or the newest of each name."""

    book = node.book()
    candidates = fitting(reference, listings)
    if reference.is_many and reference.version is None:
        names = sorted({(item.manifest.header.team, item.manifest.header.name) for item in candidates})
        shown = []
        for team, name in names:
            one = replace(reference, team=team, name=name)
            try:
                shown += _shown(node, output, one, listings, where)
            except AmbiguousError as error:  # by several publishers, say: all are shown
                output.note(str(error))
                shown += [item for item in fitting(one, candidates) if item not in shown]
        return shown
    if reference.is_many:
        return sorted(candidates, key=lambda item: newest_first(item, where))
    if reference.id_prefix is None and reference.version is None:
        meant = meant_here(reference, candidates, book)
        sides = [item for item in meant if where[item.manifest.id] is Place.FORKED]
        if len({item.manifest.header.full_name for item in meant}) == 1 and len(sides) > 1:
            output.note(f"{sides[0].manifest.header.full_name}: {len(sides)} versions, forked")
            return sorted(sides, key=lambda item: newest_first(item, where))
    listing, problem = to_look_at(reference, listings, Grounds(book, node.versions, now(), held=node.held()))
    if problem:
        output.note(f"fetch would refuse {listing.manifest.header.full_name}: {problem}")
    return [listing]
