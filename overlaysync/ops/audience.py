"""Audience: whom an image is for, by what is known of its file, its content, and what it was made of.

A team's content must not become public because it has got a new file: a promoted master, a rebased or
adopted overlay, and whatever else shows a guest the same disk are for those whom the source was for. What
only holds some of a team's data is nobody's before the user says whom it is for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from overlaysync.errors import NotAllowedError
from overlaysync.formats.recognition import ending_of
from overlaysync.model.names import name_from
from overlaysync.ops.again import PUBLIC, ShareAgain
from overlaysync.ops.kinship import kin
from overlaysync.ops.known import Known
from overlaysync.store.catalog import Catalog
from overlaysync.store.held import MAX_HELD, Held
from overlaysync.store.manifests import ManifestRow


@dataclass(frozen=True, slots=True)
class Origin:
    """Whom an image was for so far.

    Attributes:
        team: "" for everybody.
        left: whether this machine is not in that team any more.
        why: of a team's that only its data, or its name and master, tell: what they tell; else "".
    """

    team: str
    left: bool = False
    why: str = ""


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
    """Return the versions that say whom an image is for.

    None when it was never published, nor anything like it.
    """
    held = catalog.held.at(known.path)
    if held and (rows := _held_rows(catalog, held)):
        return rows
    return (
        catalog.manifests.matching(content=known.content.id)
        or _made_rows(catalog, known)
        or catalog.manifests.matching(disk=known.disk.id)
        or [row for gone in _gone(catalog, known.path, name) for row in _held_rows(catalog, gone)]
    )


def _held_rows(catalog: Catalog, held: Held) -> list[ManifestRow]:
    """Return the versions of the audience that a file was noted to be for."""
    found = map(catalog.manifests.find, held.manifests)
    return [row for row in found if row and row.team == held.team]


def _made_rows(catalog: Catalog, known: Known) -> list[ManifestRow]:
    """Return the versions that a file was made of.

    It may be a copy of the file that was made, or that file under a new path.
    """
    for made in catalog.made.all():
        moved = stem(made.path) == stem(known.path) and not os.path.lexists(made.path)
        if made.path == known.path or made.content == known.content.id or moved:
            rows = [row for row in map(catalog.manifests.find, made.sources) if row]
            if rows:
                return rows
    return []


def _gone(catalog: Catalog, path: str, name: str) -> list[Held]:
    """Return the notes of files that are gone, and that the file at ``path`` may be, by its name."""
    return [
        held
        for held in catalog.held.all()
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
        origin = self.origin(known, name)
        return origin.team if origin else None

    def left_team(self, known: Known, name: str) -> str:
        """Return the team that an image was for and that this machine has left; "" when there is none."""
        origin = self.origin(known, name)
        return origin.team if origin and origin.left else ""

    def origin(self, known: Known, name: str) -> Origin | None:
        """Return whom an image was for so far, or whose data it holds; None when nothing is known of it."""
        noted = self._origin(known, name)
        if noted is not None and noted.team:
            return noted
        return self._kin(known, noted) or noted

    def choose(self, known: Known, name: str, name_of: Callable[[str], str], again: ShareAgain) -> str:
        """Return whom an image is for when the user does not say: whom it was for, or what is below it.

        Raises:
            NotAllowedError: it, or its master, was for a team that this machine has left; or it holds a
                team's data, and whom it is for is for the user to say.
        """
        origin, image = self.origin(known, name), known
        if origin is not None and origin.why:
            raise _unsaid(known, origin, again)
        while origin is None and image.parent:
            image = image.parent
            origin = self._origin_below(image, name_of(image.path))
        if origin is None:
            return ""
        if origin.left:
            raise left(known, origin.team, again, image if image is not known else None)
        return origin.team

    def _origin(self, known: Known, name: str) -> Origin | None:
        held = self._catalog.held.at(known.path)
        if held:
            return self._of_held(held)
        catalog = self._catalog
        return (
            self._of_rows(catalog.manifests.matching(content=known.content.id), name)
            or self._of_rows(_made_rows(catalog, known), name)
            or self._of_rows(catalog.manifests.matching(disk=known.disk.id), name)
            or self._of_gone(_gone(catalog, known.path, name))
        )

    def _origin_below(self, known: Known, name: str) -> Origin | None:
        """Return that of a master: where its content is public, what stands on it may be public."""
        return self._of_rows(self._catalog.manifests.matching(content=known.content.id), "") or self._origin(
            known, name
        )

    def _kin(self, known: Known, noted: Origin | None) -> Origin | None:
        """Return the team whose data an image holds that is not known as that team's."""
        catalog = self._catalog
        if catalog.manifests.matching(team="", content=known.content.id):
            return None
        rows = [row for row in catalog.manifests.matching() if row.team]
        row = kin(catalog, known, sorted(rows, key=self._is_mine, reverse=True))
        if row is not None:
            why = f"it holds data of {row.title}, which are in no public image known here"
            return Origin(row.team, not self._is_mine(row), why)
        row = None if noted else self._namesake(known)
        if row is None:
            return None
        why = f"it has the name and the master of {row.title}, and nothing else is known about it"
        return Origin(row.team, not self._is_mine(row), why)

    def _namesake(self, known: Known) -> ManifestRow | None:
        """Return a team's overlay of that name on the same master, whose data are not known here."""
        if known.parent is None:
            return None
        name, below = stem(known.path), known.parent.disk.id
        rows = [
            row
            for row in self._catalog.manifests.layers()
            if row.team and (row.name, row.parent) == (name, below)
        ]
        return max(rows, key=lambda row: (self._is_mine(row), row.version), default=None)

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


def _unsaid(known: Known, origin: Origin, again: ShareAgain) -> NotAllowedError:
    """Return the error for an image that holds a team's data, when nobody said whom it is for."""
    team, path = origin.team, known.path
    gone = ", and this machine is not in that team any more" if origin.left else ""
    whom = ("--team", "TEAM" if origin.left else team)
    return NotAllowedError(
        f"Not sharing {path} until you choose an audience",
        why=f"{origin.why}{gone}",
        hint=f"for {'another team' if origin.left else 'the team'}: {again.share(path, audience=whom)}; "
        f"or, for everybody: {again.share(path, audience=PUBLIC)}",
    )
