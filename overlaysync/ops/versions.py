"""Versions of a name as the catalog knows them, and how a file here stands to one that is offered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

from overlaysync.model.history import History
from overlaysync.ops.known import Known
from overlaysync.ops.manifest_rows import manifest_row
from overlaysync.store.catalog import Catalog
from overlaysync.store.held import MAX_HELD
from overlaysync.store.manifests import ManifestRow
from overlaysync.trust.envelope import Manifest

MAX_PAST = 1024
"""Headers of earlier versions that are served with one."""


def past_envelopes(catalog: Catalog, manifest: Manifest) -> tuple[bytes, ...]:
    """Return the envelopes of the versions before one, as far as they are known, the newest first."""
    header = manifest.header
    if not header.follows:
        return ()
    versions = catalog.manifests.versions(header.team, header.name)
    before = History([manifest_row(manifest), *versions]).before(manifest.id)
    return tuple(row.envelope for row in versions if row.id in before)[:MAX_PAST]


def history_of(catalog: Catalog, manifests: Sequence[Manifest]) -> History:
    """Return what follows what among ``manifests`` of one name, and all versions of it seen here."""
    names = {(manifest.header.team, manifest.header.name) for manifest in manifests}
    seen = [row for team, name in names for row in catalog.manifests.versions(team, name)]
    return History([*seen, *map(manifest_row, manifests)])


def of_one_history(versions: Iterable[ManifestRow], manifest: Manifest) -> list[ManifestRow]:
    """Return those of ``versions`` of one name that make one history with ``manifest``.

    In a team a name belongs to the team. A public one belongs to its publisher: what a stranger calls so
    makes nothing older and forks nothing.
    """
    return [row for row in versions if manifest.header.team or row.publisher == manifest.publisher]


def other_sides(versions: Iterable[ManifestRow], manifest: Manifest) -> list[ManifestRow]:
    """Return the other newest versions of a name, that neither follow ``manifest`` nor are followed by it.

    None when another version follows ``manifest``: then that is on the one side, and not this.

    Args:
        versions: all that are known of the name, and that count.
        manifest: one of them.
    """
    rows = [*of_one_history(versions, manifest), manifest_row(manifest)]
    history = History(rows)
    before = history.before(manifest.id)
    newest = history.newest({row.id: row for row in rows}.values())
    if any(history.is_before(manifest.id, row.id) for row in newest):
        return []
    mine = manifest_row(manifest)
    return [row for row in newest if row.id not in before | {mine.id} and is_other_side(history, mine, row)]


def is_other_side(history: History, one: ManifestRow, other: ManifestRow) -> bool:
    """Whether of two versions of one history, neither of which follows the other, each is one side of a fork.

    They are when they come from one version. So are those of two publishers that are not known to: they may
    have begun at the same time. But a publisher may begin a name anew, and that is nobody's other side.
    """
    if one.content == other.content:
        return False
    shared = history.before(one.id) & history.before(other.id)
    return bool(shared) or one.publisher != other.publisher


def is_news(catalog: Catalog, held: tuple[bytes, ...], offered: Manifest) -> bool:
    """Whether ``offered`` follows something of what a file is noted to hold."""
    header = offered.header
    history = History([*catalog.manifests.versions(header.team, header.name), manifest_row(offered)])
    return any(history.is_before(id, offered.id) for id in held)


def left_behind(catalog: Catalog, node: bytes, label: str, listed: Sequence[ManifestRow]) -> set[bytes]:
    """Return the contents that a peer was seen to have, and has gone on from: it lists what follows them.

    Args:
        catalog: knows what was seen there, and the histories.
        node, label: the peer.
        listed: what it lists now.
    """
    rows = [
        row
        for content in catalog.holders.held_by(node, label) - {row.content for row in listed}
        for row in catalog.manifests.matching(content=content)
    ]
    found = set()
    for team, name in {(row.team, row.name) for row in rows}:
        newest = [row for row in listed if (row.team, row.name) == (team, name)]
        if newest:
            history = History([*catalog.manifests.versions(team, name), *newest])
            before = history.before(*(row.id for row in newest))
            found |= {row.content for row in rows if row.id in before}
    return found


def settled(catalog: Catalog, taken: Manifest, superseded: Sequence[bytes]) -> tuple[bytes, ...]:
    """Return what a file holds that ``taken`` was written to: that, and what it was chosen over.

    So the next version of the file follows both sides of a fork. What ``taken`` follows itself is left out.
    """
    header = taken.header
    history = History([*catalog.manifests.versions(header.team, header.name), manifest_row(taken)])
    before = history.before(taken.id)
    others = [id for id in dict.fromkeys(superseded) if id != taken.id and id not in before]
    return (taken.id, *others)[:MAX_HELD]


def hold_again(catalog: Catalog, known: Known) -> None:
    """Note that a file that was written anew, or only touched, holds what it held or was made with."""
    made, held = catalog.made.at(known.path), catalog.held.at(known.path)
    if made:
        catalog.made.note(replace(made, file=known.files[0]))
    elif held:
        catalog.held.hold(replace(held, file=known.files[0]))


class State(Enum):
    """How the file at a place stands to a version that is offered for that place."""

    SAME = auto()
    """It has the content of the version."""
    NEWER = auto()
    """It is unchanged, and holds a version that follows the offered one."""
    BEHIND = auto()
    """It is unchanged, and the offered version follows what it holds: a fast-forward."""
    FORKED = auto()
    """It is unchanged, and neither version follows the other."""
    CHANGED = auto()
    """It was written to since it was fetched or published: unpublished work."""
    UNKNOWN = auto()
    """Nothing is known of it, or it is something of another name."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What is at a place, compared with a version offered for it.

    Attributes:
        state: how they stand to each other.
        held: the versions that the file holds, or held when it was last fetched or published.
        common: the newest version that both sides of a fork come from, where one is known.
    """

    state: State
    held: tuple[ManifestRow, ...] = ()
    common: ManifestRow | None = None


def compare(catalog: Catalog, path: str, content: bytes, offered: Manifest) -> Standing:
    """Compare the file at the real path ``path``, whose content is ``content``, with ``offered``."""
    header = offered.header
    noted = catalog.held.at(path)
    held = tuple(row for row in map(catalog.manifests.find, noted.manifests if noted else ()) if row)
    versions = catalog.manifests.versions(header.team, header.name)
    # A file may hold a known version without a note of it: one that was copied here, say.
    current = tuple(row for row in held if row.content == content) or tuple(
        row for row in versions if row.content == content
    )
    if content == header.content_id:
        return Standing(State.SAME, held)
    if not current:
        return Standing(State.CHANGED if held else State.UNKNOWN, held)
    history = History([*versions, *held, manifest_row(offered)])
    if any(history.is_before(row.id, offered.id) for row in current):
        return Standing(State.BEHIND, current)
    if any(history.is_before(offered.id, row.id) for row in current):
        return Standing(State.NEWER, current)
    if all((row.team, row.name) != (header.team, header.name) for row in current):
        return Standing(State.UNKNOWN, current)
    common = history.last_common(current[0].id, offered.id, versions)
    return Standing(State.FORKED, current, common)
