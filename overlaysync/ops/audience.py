"""Audience: whom an image is for, by what is known of its file, its content, and what it was made of.

A team's content must not become public because it has got a new file: a promoted master, a rebased or
adopted overlay, and whatever else shows a guest the same disk are for those whom the source was for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from overlaysync.errors import NotAllowedError
from overlaysync.formats.recognition import ending_of
from overlaysync.model.names import name_from
from overlaysync.ops.again import PUBLIC, ShareAgain
from overlaysync.ops.library import Known
from overlaysync.store.catalog import MAX_HELD, Catalog, Held, ManifestRow


@dataclass(frozen=True, slots=True)
class Origin:
    """Whom an image was for so far.

    Attributes:
        team: "" for everybody.
        left: whether this machine is not in that team any more.
    """

    team: str
    left: bool = False


def stem(path: str) -> str:
    """Return the name that a file gives its content: its own, without the ending of an image."""
    name = os.path.basename(path)
    return name_from(name[: len(name) - len(ending_of(name))])


def sources_of(catalog: Catalog, known: Known) -> tuple[bytes, ...]:
    """Return the ids of the versions that say whom a file is for that is made of ``known``.

    Of an image that was never published these are those of the nearest below it, whose content the new file
    gets or stands on.
    """
    for image in known.lineage:
        rows = _rows_of(catalog, image, stem(image.path))
        if rows:
            return tuple(dict.fromkeys(row.id for row in rows))[:MAX_HELD]
    return ()


def _rows_of(catalog: Catalog, known: Known, name: str) -> list[ManifestRow]:
    """The versions that say whom an image is for; none when it was never published, nor anything like it."""
    held = catalog.held_at(known.path)
    if held and (rows := _held_rows(catalog, held)):
        return rows
    return (
        catalog.manifests(content=known.content.id)
        or _made_rows(catalog, known)
        or catalog.manifests(disk=known.disk.id)
        or [row for gone in _gone(catalog, known.path, name) for row in _held_rows(catalog, gone)]
    )


def _held_rows(catalog: Catalog, held: Held) -> list[ManifestRow]:
    """The versions of the audience that a file was noted to be for."""
    found = map(catalog.find_manifest, held.manifests)
    return [row for row in found if row and row.team == held.team]


def _made_rows(catalog: Catalog, known: Known) -> list[ManifestRow]:
    """The versions that a file was made of, or the unchanged file it is a copy of, or one that was moved."""
    for made in catalog.all_made():
        moved = stem(made.path) == stem(known.path) and not os.path.lexists(made.path)
        if made.path == known.path or made.content == known.content.id or moved:
            rows = [row for row in map(catalog.find_manifest, made.sources) if row]
            if rows:
                return rows
    return []


def _gone(catalog: Catalog, path: str, name: str) -> list[Held]:
    """What files that are gone held, and the one at ``path`` may be by its name: its own, or what it held."""
    return [
        held
        for held in catalog.all_held()
        if (held.name == name or stem(held.path) in (name, stem(path))) and not os.path.lexists(held.path)
    ]


class Audiences:
    """Answers for one node whom images are for.

    Args:
        catalog: where files and versions are noted.
        is_mine: whether this node may see a version; a team goes by its key, so one that was made anew under
            an old name is another team.
    """

    def __init__(self, catalog: Catalog, is_mine: Callable[[ManifestRow], bool]) -> None:
        self._catalog = catalog
        self._is_mine = is_mine

    def known(self, known: Known, name: str) -> str | None:
        """Return whom an image was for so far: a team, "" for everybody, None when nothing is known."""
        origin = self._origin(known, name)
        return origin.team if origin else None

    def left_team(self, known: Known, name: str) -> str:
        """Return the team that an image was for and that this machine has left; "" when there is none."""
        origin = self._origin(known, name)
        return origin.team if origin and origin.left else ""

    def choose(self, known: Known, name: str, name_of: Callable[[str], str], again: ShareAgain) -> str:
        """Return whom an image is for when the user does not say: whom it was for, or what is below it.

        Raises:
            NotAllowedError: it, or its master, was for a team that this machine has left.
        """
        origin, image = self._origin(known, name), known
        while origin is None and image.parent:
            image = image.parent
            origin = self._origin_below(image, name_of(image.path))
        if origin is None:
            return ""
        if origin.left:
            raise left(known, origin.team, again, image if image is not known else None)
        return origin.team

    def _origin(self, known: Known, name: str) -> Origin | None:
        held = self._catalog.held_at(known.path)
        if held:
            return self._of_held(held)
        catalog = self._catalog
        return (
            self._of_rows(catalog.manifests(content=known.content.id), name)
            or self._of_rows(_made_rows(catalog, known), name)
            or self._of_rows(catalog.manifests(disk=known.disk.id), name)
            or self._of_gone(_gone(catalog, known.path, name))
        )

    def _origin_below(self, known: Known, name: str) -> Origin | None:
        """That of a master: where its content is public, what stands on it may be public."""
        return self._of_rows(self._catalog.manifests(content=known.content.id), "") or self._origin(
            known, name
        )

    def _of_rows(self, rows: Sequence[ManifestRow], name: str) -> Origin | None:
        """Of what this node may see: what has the name first, and then what is public."""
        if not rows:
            return None
        mine = [row for row in rows if self._is_mine(row)]
        if not mine:
            return Origin(rows[0].team, left=True)
        best = min(mine, key=lambda row: (row.name != name, row.team != "", row.team))
        return Origin(best.team)

    def _of_held(self, held: Held) -> Origin:
        rows = _held_rows(self._catalog, held)
        return Origin(held.team, bool(held.team) and bool(rows) and not any(map(self._is_mine, rows)))

    def _of_gone(self, gone: Iterable[Held]) -> Origin | None:
        """Of several audiences a team's: what was moved and written to must not become public by that."""
        origins = map(self._of_held, gone)
        return max(origins, key=lambda origin: (origin.left, origin.team), default=None)


def left(known: Known, team: str, again: ShareAgain, master: Known | None = None) -> NotAllowedError:
    """Return the error for an image, or one on a ``master``, that was for a team this machine has left."""
    it = f"its master {master.path}" if master else "it"
    paths = [image.path for image in (master, known) if image]
    return NotAllowedError(
        f"Cannot share {known.path} with team '{team}'",
        why=f"{it} was shared with that team, and this machine is not in it any more",
        hint=f"choose a new audience for it: {again.share(*paths, audience=PUBLIC)}, "
        f"or for another team: {again.share(*paths, audience=('--team', 'TEAM'))}",
    )
