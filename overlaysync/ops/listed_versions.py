"""The listed versions of names: where they stand in their histories, and which are the newest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from overlaysync.model.history import History
from overlaysync.ops.matching import Listing
from overlaysync.store.manifests import ManifestRow, ManifestStore
from overlaysync.trust.envelope import is_vouched
from overlaysync.trust.teams import Team

Versions = Callable[[str, str], Sequence[ManifestRow]]
"""All versions of a team's name that were ever seen here."""


@dataclass(frozen=True, slots=True)
class SeenVersions:
    """All versions of a name ever seen here, without those of an earlier team of that name.

    Attributes:
        manifests: have them.
        teams: those that the node is in, by name.
    """

    manifests: ManifestStore
    teams: Mapping[str, Team]

    def __call__(self, team: str, name: str) -> Sequence[ManifestRow]:
        """Return those of a team's name."""
        rows, key = self.manifests.versions(team, name), self.teams.get(team)
        return rows if key is None else [row for row in rows if is_vouched(row.envelope, key)]


@dataclass(frozen=True, slots=True)
class _Place:
    """A listed version's place in its history."""

    id: bytes
    version: int
    follows: tuple[bytes, ...]


def place_of(listing: Listing) -> _Place:
    """Return where a listed version stands."""
    header = listing.manifest.header
    return _Place(listing.manifest.id, header.version, header.followed)


def key_of(listing: Listing) -> tuple[str, str]:
    """Return the team and the name of what is listed."""
    return (listing.manifest.header.team, listing.manifest.header.name)


def newest_versions(listings: Iterable[Listing], versions: Versions) -> dict[tuple[str, str], list[Listing]]:
    """Return by team and name the listed versions that no other listed one follows; several are a fork."""
    grouped: dict[tuple[str, str], list[Listing]] = {}
    for listing in listings:
        grouped.setdefault(key_of(listing), []).append(listing)
    found = {}
    for (team, name), group in grouped.items():
        by_id = {listing.manifest.id: listing for listing in group}
        places = [place_of(listing) for listing in by_id.values()]
        history = History([*versions(team, name), *places])
        found[team, name] = [by_id[place.id] for place in history.newest(places)]
    return found
