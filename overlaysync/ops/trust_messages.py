"""What a user is told of publishers: who signs a name, who signed it before, what to type.

Labels are what nodes call themselves, so a fingerprint is always beside them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from overlaysync.errors import AmbiguousError, NotAllowedError, NotFoundError
from overlaysync.model.digest import short_id
from overlaysync.model.names import one_field
from overlaysync.model.pin import Pin
from overlaysync.model.reference import Reference
from overlaysync.ops.again import Again
from overlaysync.ops.dates import ago
from overlaysync.ops.in_use import users
from overlaysync.ops.matching import Listing, describe, fits
from overlaysync.store.holders import Holder
from overlaysync.store.manifests import ManifestRow
from overlaysync.trust.book import Book, Trust
from overlaysync.trust.envelope import Manifest
from overlaysync.trust.keys import node_id
from overlaysync.units import format_size

_NAMED_SIDES = 4
"""Sides of a fork that a command is printed for."""

_TRIED_NODES = 16
"""Names of nodes that are tried to tell a version from all others."""

_NAMED_PUBLISHERS = 3
"""Publishers that an error names; ``ls`` has them all."""


class StrangerError(NotAllowedError):
    """Only publishers list something whose word does not count here."""


class AwayError(AmbiguousError):
    """A name is forked, and a side of that is not within reach: it may be soon."""


def who(publisher: bytes, label: str) -> str:
    """Return a publisher in a sentence: label, if it is known, and fingerprint."""
    return f"{one_field(label)} ({node_id(publisher)})" if label else node_id(publisher)


def trust_of(manifest: Manifest, book: Book) -> str:
    """How a publisher is trusted for what it signed; "team" where that is by the team's key alone."""
    header = manifest.header
    trust = book.trust(manifest.publisher, header.team, header.name)
    return "team" if header.team and trust is Trust.NO else trust.value


def first_use(manifest: Manifest, *, dry_run: bool) -> str:
    """Return the sentence on a name's first use: whose it becomes, and what to compare."""
    fingerprint, name = node_id(manifest.publisher), manifest.header.full_name
    undo = "" if dry_run else f" If this is the wrong publisher: overlaysync distrust {fingerprint[:9]}"
    return (
        f"  First use of '{name}', published by {one_field(manifest.header.by)}:\n"
        f"    {fingerprint}  Compare it with the fingerprint your teacher published.\n"
        f"    Once it is here, '{name}' is accepted only from this publisher.{undo}"
    )


def several_publishers(reference: Reference, candidates: Sequence[Listing]) -> AmbiguousError:
    """Return a name that is nobody's yet, and different things that are called so."""
    count = len({listing.manifest.publisher for listing in candidates})
    return AmbiguousError(
        f"'{reference}' is published by {count} publishers, and belongs to none of them here yet",
        candidates=tuple(
            sorted(f"{describe(item)}  {node_id(item.manifest.publisher)}" for item in candidates)
        ),
        hint="compare the fingerprints with the one your teacher published, then: "
        f"overlaysync trust FINGERPRINT --name {candidates[0].manifest.header.full_name}; "
        "or name one by its id (b3:…) or as NAME@PEER",
    )


def other_publisher(
    reference: Reference,
    candidates: Sequence[Listing],
    pins: Sequence[Pin],
    book: Book,
    everything: Iterable[Listing],
    again: Again,
) -> StrangerError:
    """Return a pinned name that only others list."""
    return StrangerError(
        f"'{reference}' comes from a different publisher than before",
        why=f"{_belongs(pins[0], book)};\n  now there is {', '.join(_signed(candidates))}.\n"
        "  That may be the same person with a new key or on another machine, an unrelated image with the "
        "same name, or an impostor",
        hint=_ways(pins, candidates[0].manifest, everything, again),
    )


def not_trusted(reference: Reference, candidates: Sequence[Listing]) -> StrangerError:
    """With ``--trusted-only``: none of the publishers was trusted explicitly."""
    first = candidates[0].manifest
    return StrangerError(
        f"No publisher that you trust offers '{reference}'",
        why=f"offered: {', '.join(_signed(candidates))}; --trusted-only accepts only publishers you have "
        "trusted explicitly",
        hint="compare the fingerprint with the one your teacher published, then: "
        f"overlaysync trust {node_id(first.publisher)}",
    )


def only_distrusted(reference: Reference, candidates: Sequence[Listing], book: Book) -> StrangerError:
    """Only distrusted publishers list it."""
    publisher = candidates[0].manifest.publisher
    since = ", ".join(
        f"{who(key, book.label(key))} since {book.distrusted[key].since}"
        for key in list(dict.fromkeys(item.manifest.publisher for item in candidates))[:_NAMED_PUBLISHERS]
    )
    return StrangerError(
        f"Only a publisher that you distrust offers '{reference}'",
        why=f"there is {', '.join(_signed(candidates))}; distrusted: {since}",
        hint="wait until another publisher shares it; or, to stop distrusting it: "
        f"overlaysync trust {node_id(publisher)[:9]}",
    )


def too_old(
    reference: Reference, listing: Listing, later: ManifestRow, now: float, *, own: bytes, again: Again
) -> NotAllowedError:
    """Only a version that a version seen here before follows."""
    header = listing.manifest.header
    about = f"{header.full_name}:{later.version}"
    if later.publisher == own:
        seen = (
            f"You published {about} yourself on {later.created}, and it follows that one. No machine within "
            "reach has it, perhaps not even this one any more"
        )
    else:
        seen = (
            f"This machine has seen {about}, which follows it, published on {later.created} by "
            f"{who(later.publisher, later.label)}. The machines that have it may be away, or a peer may be "
            "offering you an old state on purpose"
        )
    return NotAllowedError(
        f"Only an old version of '{reference}' is within reach",
        why=f"{header.full_name}:{header.version} was published on {header.created}"
        f"{age(header.created, now)}. {seen}",
        hint="wait until the newer one is shared; or, if the old one will do: "
        + again.about(f"{header.full_name}:{header.version}").fetch(),
    )


def forked(
    reference: Reference,
    sides: Sequence[Listing],
    away: Sequence[ManifestRow],
    everything: Sequence[Listing],
    now: float,
    again: Again,
) -> AmbiguousError:
    """Two or more newest versions, none of which follows another; what is ``away`` cannot be had now."""
    numbers = {row.version for row in away}
    ways = {
        side.manifest.header.content_id: again.about(_only(side, everything, numbers)).fetch()
        for side in sides[:_NAMED_SIDES]
    }
    count = len(sides) + len(away)
    described = [describe_side(side, now) for side in sides] + [_describe_away(row, now) for row in away]
    which = "the one that is within reach" if len(ways) == 1 else "one of them"
    settle = "; to end the fork without the other, once you have it: overlaysync settle FILE" if away else ""
    return (AwayError if away else AmbiguousError)(
        f"'{reference}' is forked: it has {count} newest versions, and neither follows the other",
        candidates=tuple(sorted(described)),
        hint=f"to take {which}: {'; or: '.join(ways.values())}{settle}",
    )


def _describe_away(row: ManifestRow, now: float) -> str:
    """Return a version of a fork that no machine within reach has."""
    return (
        f"{row.title}  {short_id(row.content)}  by {one_field(row.label) or node_id(row.publisher)} on "
        f"{row.created}{age(row.created, now)}  no machine within reach has it"
    )


def _only(side: Listing, everything: Sequence[Listing], away: Collection[int]) -> str:
    """Return the shortest reference that means this version and no other; the id where nothing else does.

    Versions that are ``away`` have these numbers.
    """
    header = side.manifest.header
    named = Reference(team=header.team or None, name=header.name, version=header.version)
    # Labels are what nodes call themselves: one that reads as something else is not printed to be typed.
    labels = [text for label in side.labels for text in (label.partition("@")[0], label) if text]
    nodes = [text for text in (*labels, *side.peers) if one_field(text) == text][:_TRIED_NODES]
    for reference in (named, *(replace(named, peer=text) for text in nodes)):
        meant = {item.manifest.header.content_id for item in everything if fits(reference, item)}
        if meant == {header.content_id} and (reference.peer or header.version not in away):
            return str(reference)
    return short_id(header.content_id)


def not_within_reach(row: ManifestRow, holders: Sequence[Holder]) -> NotFoundError:
    """Something that a team is known to have, and no machine within reach lists."""
    name = row.full_name
    seen = "; ".join(f"last seen at {one_field(one.label)} on {one.seen_at}" for one in holders[:1])
    return NotFoundError(
        f"No machine within reach has '{name}'",
        why=seen or f"{row.title} was published by {who(row.publisher, row.label)} on {row.created}",
        hint=f"overlaysync history {name}; it comes when a machine that has it shares it; "
        f"to do without it: --exclude {name}",
    )


def two_sides(mine: Manifest, other: ManifestRow) -> str:
    """Return the two sides of a fork in a sentence, the first of which this node published."""
    header, key = mine.header, node_id(other.publisher)
    title = f"{header.full_name}:{header.version}"
    theirs = f"{one_field(other.label)}'s {other.title} ({key})" if other.label else f"{key}'s {other.title}"
    if other.publisher == mine.publisher:
        title += f" ({short_id(header.content_id)})"
        theirs = f"your {other.title} ({short_id(other.content)})"
    return f"neither of your {title} and {theirs} follows the other"


def describe_side(listing: Listing, now: float) -> str:
    """One version of a fork: what, how much, by whom, when, and who has it."""
    header = listing.manifest.header
    where = f"  at {', '.join(map(one_field, listing.labels))}" if listing.labels else ""
    where += f"  in use at {users(listing.in_use)}" if listing.in_use else ""
    note = f"  “{one_field(header.note)}”" if header.note else ""
    return (
        f"{header.full_name}:{header.version}  {short_id(header.content_id)}  {format_size(header.data_size)}"
        f"  by {one_field(header.by) or node_id(listing.manifest.publisher)} on {header.created}"
        f"{age(header.created, now)}{note}{where}"
    )


def _belongs(pin: Pin, book: Book) -> str:
    """Whose a name is, since when, and how that came."""
    if pin.publisher == book.own:
        return f"'{pin.full_name}' is yours, since you published it on {pin.since}"
    trust = book.trust(pin.publisher, pin.team, pin.name)
    how = "since you said so on" if trust is Trust.EXPLICIT else "since its first use here on"
    since = book.since(pin.publisher, pin.team, pin.name)
    return f"'{pin.full_name}' was published by {who(pin.publisher, pin.label)}, trusted {how} {since}"


def _signed(candidates: Iterable[Listing]) -> list[str]:
    """One thing of each publisher, and who that is."""
    manifests = {listing.manifest.publisher: listing.manifest for listing in candidates}
    return [
        f"{manifest.header.full_name}:{manifest.header.version} by {who(key, manifest.header.by)}"
        for key, manifest in list(manifests.items())[:_NAMED_PUBLISHERS]
    ]


def _ways(pins: Iterable[Pin], stranger: Manifest, everything: Iterable[Listing], again: Again) -> str:
    """Return what to type: the version of the name's own publisher, or to trust the other one."""
    keys = {(pin.team, pin.name, pin.publisher) for pin in pins}
    headers = [
        header
        for listing in everything
        for header in (listing.manifest.header,)
        if (header.team, header.name, listing.manifest.publisher) in keys
    ]
    newest = max(headers, key=lambda header: header.version, default=None)
    first = (
        f"{again.about(f'{newest.full_name}:{newest.version}').fetch()}, by the publisher you know"
        if newest
        else "wait until a version by the publisher you know is shared"
    )
    return (
        f"{first}; or, if the new fingerprint is the one your teacher published: "
        f"overlaysync trust {node_id(stranger.publisher)} --name {stranger.header.full_name}"
    )


def age(created: str, now: float) -> str:
    """Return ``, 12 days ago``; nothing for a time that does not exist or has not come."""
    text = ago(created, now)
    return f", {text}" if text else ""
