"""Matches references with what is listed: by this node's catalog, by peers, or by both."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from overlaysync.errors import AmbiguousError, NotFoundError
from overlaysync.model.digest import ID_PREFIX, short_id
from overlaysync.model.names import meant, one_field
from overlaysync.model.reference import Reference
from overlaysync.ops.in_use import Usage
from overlaysync.trust.envelope import Manifest

_NAMED_OTHERS = 20


@dataclass(frozen=True, slots=True)
class Listing:
    """A manifest and who has its content.

    Attributes:
        manifest: verified.
        peers: addresses ``HOST:PORT`` that list it.
        labels: the labels of those nodes.
        hosts: what tells their machines apart, as they say themselves.
        in_use: nodes that list it without its data: a VM uses the file that held it.
        stored: whether it is in a vault that is open, where no address is asked.
    """

    manifest: Manifest
    peers: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    in_use: tuple[Usage, ...] = ()
    stored: bool = False

    @property
    def is_available(self) -> bool:
        """Whether its data can be had."""
        return self.stored or bool(self.peers)

    @property
    def machines(self) -> int:
        """How many machines serve it: several nodes on one machine are one copy."""
        return len(set(self.hosts or self.peers))


def describe(listing: Listing) -> str:
    """One line to choose by: name, version, id, kind, publisher."""
    header = listing.manifest.header
    by = one_field(header.by) or "?"
    return (
        f"{header.full_name}:{header.version}  {short_id(header.content_id)}  "
        f"{'overlay' if header.is_layer else 'master'}  by {by}"
    )


def resolve(reference: Reference, listings: Iterable[Listing]) -> list[Listing]:
    """Return what ``reference`` means: one listing, or for a whole team the newest version of each name.

    Raises:
        NotFoundError: nothing fits; near names are suggested.
        AmbiguousError: different contents fit.
    """
    candidates = fitting(reference, listings)
    if reference.is_team:
        names = sorted({listing.manifest.header.name for listing in candidates})
        return [
            _newest_of(reference, [listing for listing in candidates if listing.manifest.header.name == name])
            for name in names
        ]
    return [_newest_of(reference, candidates)]


def fitting(reference: Reference, listings: Iterable[Listing]) -> list[Listing]:
    """Everything that ``reference`` could mean.

    Raises:
        NotFoundError: nothing fits; near names are suggested.
    """
    everything = list(listings)
    found = [listing for listing in everything if fits(reference, listing)]
    if not found:
        raise _not_found(reference, everything)
    return found


def newest(listings: Iterable[Listing]) -> list[Listing]:
    """Those with the highest version of their team and name."""
    best: dict[tuple[str, str], int] = {}
    kept = list(listings)
    for listing in kept:
        header = listing.manifest.header
        key = (header.team, header.name)
        best[key] = max(best.get(key, 0), header.version)
    return [
        listing
        for listing in kept
        if listing.manifest.header.version == best[listing.manifest.header.team, listing.manifest.header.name]
    ]


def _newest_of(reference: Reference, candidates: list[Listing]) -> Listing:
    if reference.version is None and reference.id_prefix is None:
        candidates = newest(candidates)
    return one_of(reference, candidates)


def one_of(reference: Reference, candidates: list[Listing]) -> Listing:
    """Return the one thing that all candidates are.

    Raises:
        AmbiguousError: they are different contents.
    """
    contents = {listing.manifest.header.content_id for listing in candidates}
    if len(contents) > 1:
        raise AmbiguousError(
            f"'{reference}' fits {len(contents)} different things",
            candidates=tuple(sorted(describe(listing) for listing in candidates)),
            hint="name one by its id (b3:…), TEAM/NAME, NAME:VERSION or NAME@PEER",
        )
    return candidates[0]


def fits(reference: Reference, listing: Listing) -> bool:
    """Whether ``reference`` could mean ``listing``."""
    header = listing.manifest.header
    users = (text for usage in listing.in_use for text in (usage.label, usage.address))
    known = (*listing.labels, *listing.peers, *users)
    if reference.peer and not any(_is_peer(reference.peer, text) for text in known):
        return False
    if reference.id_prefix is not None:
        wanted = ID_PREFIX + reference.id_prefix
        return header.id.startswith(wanted)
    return fits_name(reference, header.team, header.name) and reference.version in (None, header.version)


def fits_name(reference: Reference, team: str, name: str) -> bool:
    """Return whether ``reference`` could mean some version of a team's name; an id has no name."""
    if reference.team not in (None, team):
        return False
    if reference.is_pattern:
        return fnmatchcase(name, reference.name or "")
    return reference.name in (None, name)


def _is_peer(wanted: str, text: str) -> bool:
    """Whether ``wanted`` names the node: its address, its label ``user@host-id`` or a whole part of that."""
    return wanted == text or text.startswith((f"{wanted}@", f"{wanted}-")) or f"@{wanted}-" in text


def _not_found(reference: Reference, listings: list[Listing]) -> NotFoundError:
    loose = replace(reference, version=None, peer=None)
    others = [] if loose == reference else [listing for listing in listings if fits(loose, listing)]
    if others:
        having = sorted({describe(listing) for listing in others})
        more = f"; and {len(having) - _NAMED_OTHERS} more" if len(having) > _NAMED_OTHERS else ""
        return NotFoundError(
            f"No machine within reach has '{reference}'",
            why="there is " + "; ".join(having[:_NAMED_OTHERS]) + more,
            hint=f"the newest that is within reach: {loose}",
        )
    if not listings:
        return NotFoundError(
            f"No machine within reach has '{reference}'",
            why="none of the machines that answer shares anything",
            hint="--peer HOST, or: overlaysync doctor",
        )
    names = {listing.manifest.header.name for listing in listings}
    teams = {listing.manifest.header.team for listing in listings if listing.manifest.header.team}
    wanted, known = (reference.team, teams) if reference.is_team else (reference.name, names)
    mark = "/" if reference.is_team else ""
    return NotFoundError(
        f"No machine within reach has '{reference}'",
        why=meant(wanted or "", known, mark),
        hint="overlaysync ls",
    )
