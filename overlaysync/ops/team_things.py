"""What this machine has of a team, what a member has of it, and what leaving the team takes away.

Counted is what the team's present key vouches for: what an earlier team of that name had is not the team's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from overlaysync.ops.library import Library
from overlaysync.store.members import Thing
from overlaysync.trust.envelope import Manifest, open_envelope
from overlaysync.trust.teams import Team


def things_of(manifests: Iterable[Manifest]) -> tuple[Thing, ...]:
    """Return what these manifests describe, each thing once, by name and version."""
    headers = (manifest.header for manifest in manifests)
    return tuple(sorted({Thing(header.name, header.version, header.is_layer) for header in headers}))


def held_here(library: Library, team: Team) -> list[Manifest]:
    """Return the team's manifests whose content is in a file on this machine, by name, newest first."""
    present = {row.layer or row.disk for row in library.catalog.images.all() if library.known(row.path)}
    rows = library.catalog.manifests.matching(team=team.name)
    opened = [open_envelope(row.envelope) for row in rows if row.content in present]
    return [manifest for manifest in opened if manifest.belongs({team.name: team})]


@dataclass(frozen=True, slots=True)
class Farewell:
    """What leaving a team takes away.

    Attributes:
        own: versions that this node published for the team, and has.
        others: versions that other members published, which are here: they can no longer be fetched again
            or repaired.
        elsewhere: versions that only members had when they were seen, by their full names.
    """

    own: tuple[str, ...]
    others: tuple[str, ...]
    elsewhere: tuple[str, ...]


def farewell(library: Library, team: Team, own: bytes) -> Farewell:
    """Return what a node whose public key is ``own`` can no longer reach, or share, without the team."""
    here = held_here(library, team)
    known = {(manifest.header.name, manifest.header.version) for manifest in here}
    seen = {
        (thing.name, thing.version)
        for member in library.catalog.members.seen(team.id)
        for thing in member.things
    }
    return Farewell(
        own=tuple(_title(manifest) for manifest in here if manifest.publisher == own),
        others=tuple(
            _title(manifest)
            for manifest in here
            if manifest.publisher != own
            and not library.catalog.manifests.matching(team="", content=_content(manifest))
        ),
        elsewhere=tuple(f"{team.name}/{name}:{version}" for name, version in sorted(seen - known)),
    )


def _title(manifest: Manifest) -> str:
    return f"{manifest.header.full_name}:{manifest.header.version}"


def _content(manifest: Manifest) -> bytes:
    return manifest.header.content_id
