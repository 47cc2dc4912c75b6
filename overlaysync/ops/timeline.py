"""Timelines: the versions of names, newest first, what each follows, and where each is now. Pure.

Left out: the network, and which files are here; the caller brings both. In a team all members' versions are
one history. Of a public name each publisher's are, because what a stranger publishes under it makes nothing
older and forks nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from overlaysync.model.history import History
from overlaysync.model.names import one_field
from overlaysync.model.reference import Reference
from overlaysync.ops.in_use import Usage
from overlaysync.ops.listed_versions import Versions, newest_versions
from overlaysync.ops.manifest_rows import manifest_row
from overlaysync.ops.matching import Listing, fits_name, fitting
from overlaysync.store.catalog import Catalog
from overlaysync.store.manifests import ManifestRow
from overlaysync.trust.envelope import Manifest, open_envelope
from overlaysync.trust.keys import node_id


class Place(Enum):
    """Where a version stands in the history of its name."""

    NEWEST = auto()
    """Nothing follows it."""
    FORKED = auto()
    """It is one of several that nothing follows."""
    OLDER = auto()
    """Another follows it, directly or through others."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One version in a timeline.

    Attributes:
        manifest: what its publisher says of it.
        place: where it stands.
        follows: what it follows in words: "5", or "5 (pl@bob-j2rueu)" where two have that number.
        held_by: labels of the peers that list it.
        here: paths of the files on this machine that hold it.
        in_use: nodes where a VM uses the file that held it.
        machines: how many machines serve it.
    """

    manifest: Manifest
    place: Place
    follows: tuple[str, ...]
    held_by: tuple[str, ...]
    here: tuple[str, ...]
    in_use: tuple[Usage, ...] = ()
    machines: int = 0


def timeline(
    reference: Reference,
    known: Iterable[Manifest],
    listed: Iterable[Listing],
    here: Mapping[bytes, Sequence[str]],
) -> list[Entry]:
    """Return the versions that ``reference`` means, by name, newest first.

    Args:
        reference: a name means all its versions.
        known: all versions of the names in question that were ever seen here.
        listed: what peers list.
        here: paths of the files on this machine, by content id.

    Raises:
        NotFoundError: nothing fits.
    """
    listings = {manifest.id: Listing(manifest) for manifest in known}
    listings |= {listing.manifest.id: listing for listing in listed}
    everything = list(listings.values())
    where = places(everything)
    follows = _Words(item.manifest for item in everything)
    entries = [
        Entry(
            manifest=item.manifest,
            place=where[item.manifest.id],
            follows=follows.of(item.manifest),
            held_by=tuple(dict.fromkeys(item.labels)),
            here=tuple(sorted(here.get(item.manifest.header.content_id, ()))),
            in_use=item.in_use,
            machines=item.machines,
        )
        for item in fitting(reference, everything)
    ]
    return sorted(entries, key=_order)


def places(listings: Iterable[Listing], versions: Versions = lambda *_: ()) -> dict[bytes, Place]:
    """Return by manifest id where the listed versions stand.

    Args:
        listings: versions of any names.
        versions: all versions of a name that were ever seen here: they show what is older.
    """
    groups: dict[tuple[str, str, bytes], list[Listing]] = {}
    for listing in listings:
        header = listing.manifest.header
        publisher = b"" if header.team else listing.manifest.publisher
        groups.setdefault((header.team, header.name, publisher), []).append(listing)
    found: dict[bytes, Place] = {}
    for (team, name, publisher), group in groups.items():
        known = [row for row in versions(team, name) if team or row.publisher == publisher]
        found |= _places(group, known)
    return found


def known_versions(catalog: Catalog, reference: Reference) -> list[Manifest]:
    """Return all versions ever seen here of every name that ``reference`` may mean."""
    names = sorted({(seen.team, seen.name) for seen in catalog.manifests.sightings()})
    if reference.id_prefix is None:
        names = [key for key in names if fits_name(reference, *key)]
    by_name = [catalog.manifests.versions(team, name) for team, name in names]
    if reference.id_prefix is not None:
        by_name = [rows for rows in by_name if _has_content(rows, reference.id_prefix)]
    return [open_envelope(row.envelope) for rows in by_name for row in rows]


def is_fork(manifest: Manifest, versions: Versions) -> bool:
    """Return whether a version is one side of a fork, among all that were ever seen here."""
    header = manifest.header
    rows = [
        row
        for row in versions(header.team, header.name)
        if header.team or row.publisher == manifest.publisher
    ]
    newest = History(rows).newest(rows)
    return len({row.content for row in newest}) > 1 and manifest.id in {row.id for row in newest}


def _places(group: Sequence[Listing], known: Sequence[ManifestRow]) -> dict[bytes, Place]:
    """Return the places of versions of one history, of which ``known`` are known besides."""
    ((_, newest),) = newest_versions(group, lambda *_: known).items()
    forked = len({listing.manifest.header.content_id for listing in newest}) > 1
    heads = {listing.manifest.id for listing in newest}
    history = History([*known, *(manifest_row(listing.manifest) for listing in group)])
    followed = history.before(*(row.id for row in known))

    def place(id: bytes) -> Place:
        if id in heads and forked:
            return Place.FORKED
        return Place.NEWEST if id in heads and id not in followed else Place.OLDER

    return {listing.manifest.id: place(listing.manifest.id) for listing in group}


class _Words:
    """What versions are called in the line of one that follows them."""

    def __init__(self, manifests: Iterable[Manifest]) -> None:
        self._known = {manifest.id: manifest for manifest in manifests}
        numbers: dict[tuple[str, int], set[bytes]] = {}
        for manifest in self._known.values():
            numbers.setdefault(_number(manifest), set()).add(manifest.id)
        self._numbers = numbers

    def of(self, manifest: Manifest) -> tuple[str, ...]:
        """Return what ``manifest`` follows, the lowest number first; an unknown version by its id."""
        known = [self._known[id] for id in manifest.header.followed if id in self._known]
        known.sort(key=lambda one: (one.header.version, one.id))
        unknown = [
            f"{id.hex()[:8]} (unknown here)" for id in manifest.header.followed if id not in self._known
        ]
        return (*map(self._word, known), *unknown)

    def _word(self, manifest: Manifest) -> str:
        header = manifest.header
        if len(self._numbers[_number(manifest)]) == 1:
            return str(header.version)
        return f"{header.version} ({one_field(header.by) or node_id(manifest.publisher)})"


def _number(manifest: Manifest) -> tuple[str, int]:
    return (manifest.header.full_name, manifest.header.version)


def _has_content(rows: Iterable[ManifestRow], prefix: str) -> bool:
    return any(row.content.hex().startswith(prefix) for row in rows)


def _order(entry: Entry) -> tuple[str, int, tuple[int, ...], bytes]:
    """By name; then what follows before what is followed, and of equal numbers the later first."""
    header = entry.manifest.header
    later_first = tuple(-ord(char) for char in header.created)
    return (header.full_name, -header.version, later_first, entry.manifest.id)
