"""The signed manifests that are known: the kept ones, and the headers of versions that were only seen.

Left out: what a manifest says (the caller gives the columns to find it by) and whether its publisher is
trusted (:mod:`.pins` keeps what that is decided by).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import Literal, TypeAlias

from overlaysync.model.history import History
from overlaysync.model.pin import Sighting
from overlaysync.store.columns import split_ids
from overlaysync.store.database import Database

ManifestKind: TypeAlias = Literal["disk", "layer"]

MAX_UNKEPT = 1 << 14
"""Headers kept of what was never taken here; then the ones seen first are forgotten. Any peer can make up as
many as it likes, and a home may have a quota."""

_COLUMNS = (
    "id, envelope, kind, team, name, version, publisher, content, parent, result, created, label, follows"
)
_INSERT = f"INSERT OR IGNORE INTO manifests VALUES ({', '.join('?' * 15)})"
_UNKEPT = """
    NOT kept AND team = '' AND publisher NOT IN (SELECT publisher FROM trusted)
    AND NOT EXISTS (SELECT 1 FROM pins WHERE (pins.team, pins.name, pins.publisher)
        = (manifests.team, manifests.name, manifests.publisher))
"""
"""What of the versions seen is of no team, and of no publisher whose name it is here."""


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """A signed manifest and what it is found by.

    Attributes:
        id: 32 bytes.
        envelope: the signed bytes, as they travel.
        kind: of ``content``.
        team: ``""`` for public.
        name: of the thing.
        version: 1 .. MAX_VERSION.
        publisher: the publisher's key or node id.
        content: disk id or layer id.
        parent: of a layer: disk id below it.
        result: of a layer: disk id that it makes.
        created: ISO 8601 UTC, as the publisher says.
        label: of the publisher's node, as it says.
        follows: ids of the manifests it follows.
    """

    id: bytes
    envelope: bytes
    kind: ManifestKind
    team: str
    name: str
    version: int
    publisher: bytes
    content: bytes
    parent: bytes | None
    result: bytes | None
    created: str
    label: str = ""
    follows: tuple[bytes, ...] = ()

    @property
    def full_name(self) -> str:
        """``team/name`` or ``name``."""
        return f"{self.team}/{self.name}" if self.team else self.name

    @property
    def title(self) -> str:
        """``team/name:version``."""
        return f"{self.full_name}:{self.version}"


class ManifestStore:
    """The manifests in ``database``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def keep(self, manifest: ManifestRow, *, at: str = "") -> None:
        """Keep a manifest of something that is or was here, its signature checked; seen at that time."""
        with self._database.write() as connection:
            keep_in(connection, manifest, at)

    def note_seen(self, manifests: Iterable[ManifestRow], *, at: str) -> None:
        """Keep the headers of versions that were only seen, so that ancestry is known later.

        Writes only when one is new. Those of names and publishers this node has nothing to do with are
        bounded in number.
        """
        with self._database.read() as connection:
            new = [row for row in manifests if find_in(connection, row.id) is None]
        if not new:
            return
        with self._database.write() as connection:
            for row in new:
                connection.execute(_INSERT, (*_values(row), at, 0))
            _forget_unkept(connection)

    def matching(
        self,
        *,
        team: str | None = None,
        name: str | None = None,
        content: bytes | None = None,
        disk: bytes | None = None,
    ) -> list[ManifestRow]:
        """All kept ones that fit (None fits all; public is ``""``), by team and name, newest first.

        ``disk`` fits masters of that disk, and overlays that make it.
        """
        wanted = {"team": team, "name": name, "content": content, "coalesce(result, content)": disk}
        given = {column: value for column, value in wanted.items() if value is not None}
        condition = " AND ".join(("kept", *(f"{column} = ?" for column in given)))
        return self._select(condition, *given.values())

    def versions(self, team: str, name: str) -> list[ManifestRow]:
        """All versions of a name ever seen, those that were never here as well, newest version first."""
        return self._select("team = ? AND name = ?", team, name)

    def layers(self) -> list[ManifestRow]:
        """All versions of overlays ever seen, those that were never here as well."""
        return self._select("kind = 'layer'")

    def find(self, id: bytes) -> ManifestRow | None:
        """Return the manifest with that id, kept or only seen."""
        with self._database.read() as connection:
            return find_in(connection, id)

    def sightings(self) -> list[Sighting]:
        """Return the highest version seen of every name by every publisher, by team and name."""
        query = (
            "SELECT team, name, publisher, max(version), seen_at, label FROM manifests"
            " GROUP BY team, name, publisher ORDER BY team, name, publisher"
        )
        with self._database.read() as connection:
            return [Sighting(*row) for row in connection.execute(query)]

    def _select(self, condition: str, *values: object) -> list[ManifestRow]:
        with self._database.read() as connection:
            return select_from(connection, condition, *values)


def select_from(connection: sqlite3.Connection, condition: str, *values: object) -> list[ManifestRow]:
    """Return the manifests that fulfil a condition, by team and name, newest first."""
    order = "team, name, version DESC, id"
    query = f"SELECT {_COLUMNS} FROM manifests WHERE {condition} ORDER BY {order}"
    rows = connection.execute(query, values)
    return [ManifestRow(*(*row[:-1], split_ids(row[-1]))) for row in rows]


def find_in(connection: sqlite3.Connection, id: bytes) -> ManifestRow | None:
    """Return the manifest with that id."""
    return next(iter(select_from(connection, "id = ?", id)), None)


def keep_in(connection: sqlite3.Connection, manifest: ManifestRow, at: str) -> None:
    """Keep a manifest, also one that was only seen so far."""
    connection.execute(_INSERT, (*_values(manifest), at, 1))
    connection.execute("UPDATE manifests SET kept = 1 WHERE id = ? AND NOT kept", (manifest.id,))


def _values(manifest: ManifestRow) -> tuple[object, ...]:
    *fields, follows = astuple(manifest)
    return (*fields, b"".join(follows))


def _forget_unkept(connection: sqlite3.Connection) -> None:
    """Keep the newest of what strangers made up; but whatever a kept version follows stays."""
    (count,) = connection.execute("SELECT count(*) FROM manifests WHERE NOT kept").fetchone()
    if count <= MAX_UNKEPT:
        return
    needed = _past_of_kept(connection)
    rows = connection.execute(f"SELECT rowid, id FROM manifests WHERE {_UNKEPT} ORDER BY rowid DESC")
    strange = [rowid for rowid, id in rows if id not in needed]
    connection.executemany(
        "DELETE FROM manifests WHERE rowid = ?", ((rowid,) for rowid in strange[MAX_UNKEPT:])
    )


def _past_of_kept(connection: sqlite3.Connection) -> set[bytes]:
    """Return the ids of all versions that a kept one follows, directly or through others."""
    kept = select_from(connection, "kept")
    rest = select_from(connection, "NOT kept AND follows != x''")
    return History([*kept, *rest]).before(*(row.id for row in kept))
