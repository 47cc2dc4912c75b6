"""What commands share: the node, options, and the JSON form of things."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, TypeAlias

import typer

from overlaysync.cli.holders import usage_fields
from overlaysync.cli.output import Output
from overlaysync.errors import BrokenOffError, UsageError
from overlaysync.model.digest import format_id
from overlaysync.model.names import one_field, printable
from overlaysync.net.messages import Address, parse_peer
from overlaysync.node.node import Node
from overlaysync.ops.again import Again
from overlaysync.ops.audience import stem
from overlaysync.ops.known import Known
from overlaysync.ops.listed_versions import Versions
from overlaysync.ops.matching import Listing
from overlaysync.ops.timeline import is_fork
from overlaysync.ops.trust_messages import trust_of
from overlaysync.swarm.link import Compression
from overlaysync.trust.book import Book
from overlaysync.trust.envelope import Manifest
from overlaysync.trust.keys import node_id
from overlaysync.units import parse_size

LEAST_RATE = 16 * 1024
"""Bytes per second: below, an answer takes so long that whoever waits for it gives up."""


def number_from(least: float, most: float = math.inf, *, whole: bool = False) -> Callable[[Any], float]:
    """Return what reads a number between these two, for an option."""
    bounds = f"from {least:g} to {most:g}" if most < math.inf else f"of {least:g} or more"
    words = f"is not a {'whole ' if whole else ''}number {bounds}"

    def read(text: Any) -> float:
        try:
            number = int(text) if whole else float(text)
        except ValueError:
            number = math.nan
        if not least <= number <= most:
            raise typer.BadParameter(f"{printable(str(text))} {words}.")
        return number

    return read


PeerOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--peer", metavar="HOST[:PORT]", help="Ask this node as well, even if mDNS does not find it."
    ),
]
QmpOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--qmp",
        metavar="SOCKET",
        help="The QMP monitor of a running VM, if it is not found automatically. May be repeated.",
    ),
]
InterfaceOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--iface", metavar="IFACE", help="Use this interface only. May be repeated."),
]
LocalOption: TypeAlias = Annotated[
    bool, typer.Option("--local", help="Show what is known here, without asking peers.")
]
DryRunOption: TypeAlias = Annotated[
    bool, typer.Option("--dry-run", "-n", help="Only show what would be done.")
]
MastersOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--masters",
        metavar="DIR",
        help="Look for masters in DIR, and put missing ones into the first DIR that can be written "
        "(default: --to). May be repeated.",
    ),
]
RateOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--limit-rate", metavar="RATE", help="Transfer at most this many bytes per second, such as 20M."
    ),
]
AcceptMasterOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--accept-master",
        help="Accept the master as it is now, even if it is not the one that the overlay was made on.",
    ),
]

FIND_S = 5.0
"""How long what was asked for is looked for."""
WaitOption: TypeAlias = Annotated[
    float,
    typer.Option(
        "--wait",
        metavar="SECONDS",
        parser=number_from(0, 600),
        help="Look for machines for this many seconds.",
    ),
]


@contextmanager
def open_node(output: Output | None) -> Iterator[Node]:
    """Open the node of this home.

    A command's ``output`` is told when the home is a copy of another machine's, which has then a new key.
    Completion has none: it leaves the key as it is.
    """

    node = Node.open(os.environ, tell=output.note if output else None)
    try:
        yield node
    finally:
        node.close()


@contextmanager
def interruptible() -> Iterator[None]:
    """Where data are fetched, Ctrl-C loses nothing, and the user is told so."""

    try:
        yield
    except KeyboardInterrupt:
        raise BrokenOffError("interrupted; what was verified is kept: repeat the command to go on") from None


def parse_peers(texts: list[str] | None) -> list[Address]:
    """Return the addresses of ``--peer``, and of OVERLAYSYNC_PEERS (separated by blanks)."""

    return [parse_peer(text) for text in texts or os.environ.get("OVERLAYSYNC_PEERS", "").split()]


def parse_rate(text: str | None) -> int | None:
    """Bytes per second of ``--limit-rate``."""

    if text is None:
        return None
    rate = parse_size(text.removesuffix("/s"))
    if rate < LEAST_RATE:
        raise UsageError(
            f"--limit-rate {printable(text)} is too slow for a transfer to go on",
            why="the number is bytes per second, 16K at least",
            hint="for 20 MiB a second: --limit-rate 20M",
        )
    return rate


def again_of(
    to: str,
    masters: Sequence[str] | None,
    peers: Sequence[str] | None,
    interfaces: Sequence[str] | None,
    *,
    trusted_only: bool = False,
) -> Again:
    """Return the options of a fetch or sync that the commands in its errors repeat: all that were given."""

    options = ["--to", to] if to != "." else []
    options += [word for path in masters or () for word in ("--masters", path)]
    options += [word for peer in peers or () for word in ("--peer", peer)]
    options += [word for interface in interfaces or () for word in ("--iface", interface)]
    options += ["--trusted-only"] if trusted_only else []
    return Again(options=tuple(options))


def given(context: typer.Context, *but: str) -> tuple[str, ...]:
    """Return the options that the user gave, as they can be typed again, without those named in ``but``."""

    words: list[str] = []
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if name in but or parameter.param_type_name != "option" or source is None:
            continue
        value = context.params.get(name)
        if source.name != "COMMANDLINE" or value in (None, False):
            continue
        option = parameter.opts[-1]
        for one in value if isinstance(value, list | tuple) else [value]:
            words += [option] if one is True else [option, f"{one:g}" if isinstance(one, float) else str(one)]
    return tuple(words)


def compression() -> Compression:
    """Whether to ask for compressed data: OVERLAYSYNC_COMPRESSION.

    Raises:
        UsageError: it is set to something else than ``auto``, ``never`` and ``always``.
    """

    text = os.environ.get("OVERLAYSYNC_COMPRESSION") or Compression.AUTO.value
    try:
        return Compression(text.lower())
    except ValueError:
        raise UsageError(
            f"OVERLAYSYNC_COMPRESSION is '{printable(text)}'", hint="set it to auto, never or always"
        ) from None


def image_fields(
    known: Known,
    manifest: Manifest | None = None,
    book: Book | None = None,
    versions: Versions | None = None,
) -> dict[str, Any]:
    """Return the JSON form of an image here.

    Args:
        known: the image.
        manifest: the version that it is, if it was published.
        book: says how the publisher is trusted.
        versions: all versions ever seen here, which say whether it is one side of a fork.
    """

    header = manifest.header if manifest else None
    layer = known.layer
    return {
        "name": header.name if header else stem(known.path),
        "team": header.team if header else "",
        "path": known.path,
        "format": known.geometry.format.value,
        "virtual_size": known.disk.virtual_size,
        "disk": format_id(known.disk.id),
        "layer": format_id(layer.id) if layer else None,
        "parent": format_id(layer.parent) if layer and layer.parent else None,
        "publisher": node_id(manifest.publisher) if manifest else None,
        "version": header.version if header else None,
        "manifest": manifest.id.hex() if manifest else None,
        "follows": list(header.follows) if header else [],
        "created": header.created if header else None,
        "note": header.note if header else "",
        "fork": bool(manifest and versions and is_fork(manifest, versions)),
        **trust_fields(manifest, book),
    }


def trust_fields(manifest: Manifest | None, book: Book | None) -> dict[str, str | None]:
    """Whether the publisher of ``manifest`` is trusted for its name, and since when."""
    if manifest is None or book is None:
        return {"trusted": None, "trusted_since": None}
    about = (manifest.publisher, manifest.header.team, manifest.header.name)
    return {"trusted": trust_of(manifest, book), "trusted_since": book.since(*about)}


def listing_fields(listing: Listing, book: Book, *, fork: bool) -> dict[str, Any]:
    """Return the JSON form of something listed by peers; ``fork``: whether it is one side of a fork."""

    header = listing.manifest.header
    return {
        "name": header.name,
        "team": header.team,
        "version": header.version,
        "manifest": listing.manifest.id.hex(),
        "follows": list(header.follows),
        "fork": fork,
        "format": header.format,
        "virtual_size": header.virtual_size,
        "data_size": header.data_size,
        "disk": header.result,
        "layer": header.id if header.is_layer else None,
        "parent": header.parent or None,
        "publisher": node_id(listing.manifest.publisher),
        **trust_fields(listing.manifest, book),
        "by": header.by,
        "created": header.created,
        "note": header.note,
        "peers": list(listing.peers),
        "nodes": list(listing.labels),
        "machines": listing.machines,
        "in_use": bool(listing.in_use),
        "in_use_at": usage_fields(listing.in_use),
    }


def machines(count: int) -> str:
    """Return a number of machines in words."""
    return "1 machine" if count == 1 else f"{count} machines"


def quoted(note: str) -> str:
    """Return a publisher's note for people: in quotation marks, so that it is not taken for words of ours."""
    return f"“{one_field(note)}”" if note else ""
