"""Commands about publishers: trust, untrust, distrust."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from overlaysync.cli.common import InterfaceOption, PeerOption, WaitOption, open_node, parse_peers
from overlaysync.cli.looking import LOOK_S, look
from overlaysync.cli.output import Output, output_of
from overlaysync.cli.tables import Table
from overlaysync.errors import NotFoundError, UsageError
from overlaysync.model.names import one_field
from overlaysync.model.pin import DistrustedPublisher, Pin, Sighting, TrustedPublisher
from overlaysync.model.reference import parse_reference
from overlaysync.net.messages import Address
from overlaysync.node.network import Network
from overlaysync.node.node import Node, timestamp
from overlaysync.ops.name_policy import conflicts
from overlaysync.ops.trust_messages import who
from overlaysync.trust.book import Book, Trust, find_publisher
from overlaysync.trust.keys import node_id


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module to ``app``."""
    app.command("trust")(trust)
    app.command("untrust")(untrust)
    app.command("distrust")(distrust)


def trust(
    context: typer.Context,
    fingerprint: Annotated[
        str | None,
        typer.Argument(
            metavar="[FINGERPRINT]", help="A publisher's fingerprint, or at least its first 8 characters."
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="Trust the publisher for this name only: [TEAM/]NAME."),
    ] = None,
    peer: PeerOption = None,
    iface: InterfaceOption = None,
    wait: WaitOption = LOOK_S,
) -> None:
    """Trust a publisher, or list those you trust or distrust.

    For a publisher that you distrust, this restores the trust that it had before,
    and with --name adds that name.
    """

    output = output_of(context)
    with open_node(output) as node:
        if fingerprint is not None:
            _trust(node, output, fingerprint, name, _Look(parse_peers(peer), iface or [], wait))
        elif name is not None:
            raise UsageError(
                "--name needs a fingerprint", hint=f"overlaysync trust FINGERPRINT --name {name}"
            )
        else:
            _list(node, output)


def untrust(
    context: typer.Context,
    fingerprint: Annotated[
        str,
        typer.Argument(
            metavar="FINGERPRINT", help="A publisher's fingerprint, or at least its first 8 characters."
        ),
    ],
) -> None:
    """Forget a publisher that you trust.

    When one of its names is next used, overlaysync decides again which publisher the name belongs to.
    """

    output = output_of(context)
    with open_node(output) as node:
        book = node.book()
        try:
            publisher = find_publisher(fingerprint, _publishers(book))
        except NotFoundError as error:
            raise _not_trusted(error, fingerprint, book) from None
        node.catalog.pins.forget(publisher)
    fields = _fields(publisher, book)
    lines = [output.good(f"forgotten: {who(publisher, book.label(publisher))}")]
    names = _names(publisher, book)
    if names:
        belong = "belongs" if len(_pins(publisher, book)) == 1 else "belong"
        lines.append(
            f"  {names} {belong} to no publisher now; the next use decides again, "
            "and may choose the same publisher"
        )
    if publisher != book.own:
        lines.append(f"  To refuse it for good: overlaysync distrust {fields['publisher'][:9]}")
    output.result({"untrusted": fields}, *lines)


def _not_trusted(error: NotFoundError, fingerprint: str, book: Book) -> NotFoundError:
    """Why there is nothing to forget."""

    try:
        publisher = find_publisher(fingerprint, book.distrusted)
    except NotFoundError:
        return NotFoundError(
            error.what,
            why="no trusted publisher has that fingerprint",
            hint="to list them: overlaysync trust",
        )
    short = node_id(publisher)[:9]
    return NotFoundError(
        f"The publisher {node_id(publisher)} is distrusted, not trusted",
        hint=f"to undo that: overlaysync trust {short}; to forget it, then: overlaysync untrust {short}",
    )


def distrust(
    context: typer.Context,
    fingerprint: Annotated[
        str,
        typer.Argument(
            metavar="FINGERPRINT", help="A publisher's fingerprint, or at least its first 8 characters."
        ),
    ],
    peer: PeerOption = None,
    iface: InterfaceOption = None,
    wait: WaitOption = LOOK_S,
) -> None:
    """Refuse everything that a publisher signs, for good."""

    output = output_of(context)
    with open_node(output) as node:
        book = node.book()
        publisher = _find(node, output, fingerprint, book, _Look(parse_peers(peer), iface or [], wait))
        if publisher == book.own:
            raise UsageError(
                "That is the fingerprint of this machine",
                why="you cannot refuse what you publish yourself",
                hint="to list publishers: overlaysync trust",
            )
        names, label = _names(publisher, book), _label(node.catalog.manifests.sightings(), publisher, book)
        node.catalog.pins.distrust(DistrustedPublisher(publisher, timestamp(), label))
        fields = _refused_fields(publisher, node.book())
    lines = [
        output.good(f"distrusted: {who(publisher, label)}"),
        "  Everything that it signed is refused, by name and by id. Images already here stay.",
    ]
    lines += [f"  Its names belong to no publisher now: {names}"] if names else []
    lines.append(f"  To undo this: overlaysync trust {fields['publisher'][:9]}")
    output.result({"distrusted": fields, "before": _fields(publisher, book)}, *lines)


# -- listing -----------------------------------------------------------------------------------------

_WORDS = {"own": "yours", "explicit": "trusted by you", "first-use": "first use"}


def _list(node: Node, output: Output) -> None:
    book = node.book()
    entries = [_fields(publisher, book) for publisher in _publishers(book)]
    refused = [_refused_fields(publisher, book) for publisher in book.distrusted]
    parts = [part for entry in entries for part in _parts(entry)]
    parts += [f"{_head(entry)}  distrusted since {entry['distrusted_since']}" for entry in refused]
    output.result({"trusted": entries, "distrusted": refused}, *parts)
    if not parts and not output.json:
        output.note(
            "No publisher is trusted yet. The first fetch of a name trusts its publisher for that name"
        )


def _publishers(book: Book) -> list[bytes]:
    """Return the publishers that are trusted or have a name, those trusted first."""
    return list(dict.fromkeys([*book.trusted, *(pin.publisher for pin in book.pins.values())]))


def _pins(publisher: bytes, book: Book) -> list[Pin]:
    return [pin for pin in book.pins.values() if pin.publisher == publisher]


def _names(publisher: bytes, book: Book) -> str:
    """Return the names of a publisher, for people."""
    return ", ".join(f"'{pin.full_name}'" for pin in _pins(publisher, book))


def _refused_fields(publisher: bytes, book: Book) -> dict[str, Any]:
    """Return the JSON form of a distrusted publisher."""

    entry = book.distrusted[publisher]
    return {"publisher": node_id(publisher), "by": entry.label, "distrusted_since": entry.since}


def _fields(publisher: bytes, book: Book) -> dict[str, Any]:
    """Return the JSON form of a publisher and its names."""

    names = [
        {
            "name": pin.name,
            "team": pin.team,
            "trusted": book.trust(publisher, pin.team, pin.name).value,
            "trusted_since": book.since(publisher, pin.team, pin.name),
        }
        for pin in _pins(publisher, book)
    ]
    general = book.trusted.get(publisher)
    if publisher == book.own:
        trusted = Trust.OWN
    elif book.refuses(publisher):
        trusted = Trust.DISTRUSTED
    elif general or any(item["trusted"] == Trust.EXPLICIT for item in names):
        trusted = Trust.EXPLICIT
    else:
        trusted = Trust.FIRST_USE if names else Trust.NO
    times = [pin.since for pin in _pins(publisher, book)]
    return {
        "publisher": node_id(publisher),
        "by": book.label(publisher),
        "trusted": trusted.value,
        "trusted_since": general.since if general else min(times, default=None),
        "all_names": general is not None,
        "names": names,
    }


def _head(entry: dict[str, Any]) -> str:

    return f"{entry['publisher']}  {one_field(entry['by'])}".rstrip()


def _parts(entry: dict[str, Any]) -> list[str | Table]:
    head = _head(entry)
    if entry["all_names"]:
        head += f"  whatever it publishes, since {entry['trusted_since']}"
    rows = [
        (
            f"{item['team']}/{item['name']}" if item["team"] else item["name"],
            f"{_WORDS[item['trusted']]}, since {item['trusted_since']}",
        )
        for item in entry["names"]
    ]
    return [head, Table(rows, indent=2)]


# -- trusting ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Look:
    """Where to look for a publisher that this node has not seen yet."""

    peers: list[Address]
    interfaces: list[str]
    wait_s: float


def _trust(node: Node, output: Output, fingerprint: str, name: str | None, where: _Look) -> None:

    book = node.book()
    publisher = _find(node, output, fingerprint, book, where)
    sightings = node.catalog.manifests.sightings()
    published = [(seen.team, seen.name) for seen in sightings if seen.publisher == publisher]
    label = _label(sightings, publisher, book)
    if name is None and book.refuses(publisher):
        _end_distrust(node, output, publisher, label)
        return
    if name is None:
        keys = [(pin.team, pin.name) for pin in conflicts(publisher, published, book)]
    else:
        keys = _named(name, published)
    before = [book.pins[key] for key in keys if book.is_other(publisher, *key)]
    pins = [Pin(team, name, publisher, timestamp(), explicit=True, label=label) for team, name in keys]
    general = TrustedPublisher(publisher, timestamp(), label) if name is None else None
    node.catalog.pins.trust(general, pins)
    only = f", for {', '.join(repr(pin.full_name) for pin in pins)} only" if name is not None else ""
    lines = [output.good(f"trusted: {who(publisher, label)}{only}")]
    lines += ["  It is no longer distrusted."] if book.refuses(publisher) else []
    lines += [
        f"  '{pin.full_name}' now belongs to this publisher; before, to {who(pin.publisher, pin.label)}"
        for pin in before
    ]
    document = {
        "trusted": _fields(publisher, node.book()),
        "before": [_before(pin) for pin in before],
        "was_distrusted": book.refuses(publisher),
    }
    output.result(document, *lines)


def _end_distrust(node: Node, output: Output, publisher: bytes, label: str) -> None:
    """Restore what was before the publisher was distrusted; it gets no name of another publisher."""
    node.catalog.pins.end_distrust(publisher)
    book = node.book()
    fields, names = _fields(publisher, book), _names(publisher, book)
    lines = [output.good(f"no longer distrusted: {who(publisher, label)}")]
    if fields["all_names"]:
        lines.append("  It is trusted whatever it publishes, as before")
    else:
        has = (
            f"Its names belong to it again: {names}"
            if names
            else "No name belongs to it, and no other name has changed"
        )
        lines.append(
            f"  {has}. To trust it for a name: overlaysync trust {node_id(publisher)[:9]} --name NAME"
        )
    output.result({"trusted": fields, "before": [], "was_distrusted": True}, *lines)


def _label(sightings: Iterable[Sighting], publisher: bytes, book: Book) -> str:
    """Return what a publisher called itself when it was last seen."""
    seen = [one for one in sightings if one.publisher == publisher]
    return max(seen, key=lambda one: one.at).label if seen else book.label(publisher)


def _before(pin: Pin) -> dict[str, str]:

    return {"name": pin.name, "team": pin.team, "publisher": node_id(pin.publisher)}


def _named(text: str, published: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Team and name that ``--name`` means: in any team that the publisher uses, unless it says which."""

    reference = parse_reference(text)
    if reference.name is None or reference.version is not None or reference.peer is not None:
        raise UsageError(f"'{reference}' is not a name", hint="--name NAME or TEAM/NAME")
    name = reference.name
    if reference.team is not None:
        return [(reference.team, name)]
    return sorted(key for key in set(published) if key[1] == name) or [("", name)]


def _find(node: Node, output: Output, fingerprint: str, book: Book, where: _Look) -> bytes:
    """Return the publisher with that fingerprint: of those seen before, else of those within reach.

    Raises:
        NotFoundError: there is none.
    """

    known = [
        *(seen.publisher for seen in node.catalog.manifests.sightings()),
        *_publishers(book),
        *book.distrusted,
    ]
    try:
        return find_publisher(fingerprint, known)
    except NotFoundError:
        network = Network(where.peers, where.interfaces)
        listings = asyncio.run(look(node, output, network, where.wait_s)).listings
    try:
        return find_publisher(fingerprint, [listing.manifest.publisher for listing in listings])
    except NotFoundError as error:
        raise NotFoundError(
            error.what,
            why="this machine has never seen it, and no machine within reach shares anything that it signed",
            hint="compare it with what is listed by: overlaysync ls; or name a peer with --peer HOST",
        ) from None
