"""What a node knows: its images with their cached ids, and manifests, its own and others'.

Left out: what a manifest says (the caller gives the columns to find it by) and whether its publisher is
trusted (:mod:`pins` keeps what that is decided by).
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from overlaysync.errors import UsageError
from overlaysync.model.fingerprint import Fingerprint
from overlaysync.model.manifest import MAX_VERSION
from overlaysync.model.pin import Sighting
from overlaysync.store.database import Database
from overlaysync.store.home import Home
from overlaysync.store.pagestore import PageStore
from overlaysync.store.pins import PinStore, note

ManifestKind: TypeAlias = Literal["disk", "layer"]


@dataclass(frozen=True, slots=True)
class ImageRow:
    """An image file whose ids are known.

    Attributes:
        path: real path; undecodable bytes as surrogates (``os.fsdecode``).
        chain: fingerprints of the image and of every backing file below it: a guest sees them all.
        format: ``raw``, ``qed`` or ``qcow2``.
        virtual_size: bytes.
        disk: id of what the guest sees.
        layer: id of what an overlay adds, None for a standalone image.
        parent: disk id of the backing file, None for a standalone image.
        verified_at: when the bytes were last hashed, seconds since 1970.
    """

    path: str
    chain: tuple[Fingerprint, ...]
    format: str
    virtual_size: int
    disk: bytes
    layer: bytes | None
    parent: bytes | None
    verified_at: float

    def __post_init__(self) -> None:
        if not self.chain:
            raise ValueError("an image has a fingerprint of its own")

    @property
    def fingerprint(self) -> Fingerprint:
        """That of the image itself."""
        return self.chain[0]


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


_IMAGE_COLUMNS = "path, chain, format, virtual_size, disk, layer, parent, verified_at"
_MANIFEST_COLUMNS = "id, envelope, kind, team, name, version, publisher, content, parent, result, created"


class Catalog:
    """The catalog in ``database``; ``pages`` and ``pins`` hold what is beside it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.pages = PageStore(database)
        self.pins = PinStore(database)

    @classmethod
    def open(cls, home: Home) -> Catalog:
        """The catalog of ``home``, whose directories must be there.

        Raises:
            CatalogError: damaged, or written by a newer overlaysync.
        """
        return cls(Database.open(home.catalog, network=bool(home.on_network)))

    def close(self) -> None:
        """End all connections; no thread may be using the catalog."""
        self._database.close()

    # -- images --------------------------------------------------------------------------------------

    def remember_image(self, image: ImageRow) -> None:
        """Keep what is known of the file at ``image.path``, instead of what was known before."""
        row = (
            os.fsencode(image.path),
            json.dumps(image.chain),
            image.format,
            image.virtual_size,
            image.disk,
            image.layer,
            image.parent,
            image.verified_at,
        )
        with self._database.write() as connection:
            connection.execute("INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)

    def image_at(self, path: str | Path) -> ImageRow | None:
        """The image last known at the real path ``path``; whether it still fits is for the caller to see."""
        return next(iter(self._images("path = ?", os.fsencode(path))), None)

    def images_with_disk(self, disk: bytes) -> list[ImageRow]:
        """Images whose guest sees ``disk``, latest verified first."""
        return self._images("disk = ?", disk)

    def all_images(self) -> list[ImageRow]:
        """All known images, latest verified first."""
        return self._images("1")

    def confirm_image(self, image: ImageRow, *, at: float) -> None:
        """Note that the bytes of ``image`` were read again, unless something else is known by now."""
        query = "UPDATE images SET verified_at = ? WHERE path = ? AND chain = ? AND disk = ?"
        with self._database.write() as connection:
            connection.execute(query, (at, os.fsencode(image.path), json.dumps(image.chain), image.disk))

    def forget_image(self, path: str | Path) -> None:
        """Forget what is known of ``path``; the file is not touched."""
        with self._database.write() as connection:
            connection.execute("DELETE FROM images WHERE path = ?", (os.fsencode(path),))

    def _images(self, condition: str, *values: object) -> list[ImageRow]:
        query = f"SELECT {_IMAGE_COLUMNS} FROM images WHERE {condition} ORDER BY verified_at DESC, path"
        with self._database.read() as connection:
            rows = connection.execute(query, values).fetchall()
        try:
            return [_image(row) for row in rows]
        except (ValueError, TypeError, IndexError) as error:
            raise self._database.damaged(f"an image's row: {error}") from error

    # -- manifests -----------------------------------------------------------------------------------

    def keep_manifest(self, manifest: ManifestRow, *, at: str = "") -> None:
        """Keep a manifest whose signature has been checked; its version counts as seen, at that time."""
        with self._database.write() as connection:
            _keep(connection, manifest, at)

    def keep_next(self, team: str, name: str, make: Callable[[int], ManifestRow]) -> ManifestRow:
        """Keep what ``make`` makes as the next version of that name, and return it.

        No other thread or process is given the same version; they wait, so ``make`` should not take long. It
        must not write to the catalog itself. When it raises, no version is used up.

        Raises:
            UsageError: there is no version left.
        """
        with self._database.write() as connection:
            version = _highest(connection, team, name) + 1
            if version > MAX_VERSION:
                raise UsageError(
                    f"There is no next version of {f'{team}/{name}' if team else name}",
                    why=f"somebody has published version {version - 1}, and {MAX_VERSION} is the last",
                    hint="publish it under another name",
                )
            manifest = make(version)
            if (manifest.team, manifest.name, manifest.version) != (team, name, version):
                raise ValueError(f"not version {version} of that name")
            _keep(connection, manifest, manifest.created)
        return manifest

    def manifests(
        self, *, team: str | None = None, name: str | None = None, content: bytes | None = None
    ) -> list[ManifestRow]:
        """All that fit (None fits all; the public team is ``""``), by team and name, newest version first."""
        wanted = {"team": team, "name": name, "content": content}
        given = {column: value for column, value in wanted.items() if value is not None}
        condition = " AND ".join(f"{column} = ?" for column in given) or "1"
        return self._manifests(condition, *given.values())

    def highest_version(self, team: str, name: str) -> int:
        """The highest version of that name ever seen, whoever published it; 0 when none was."""
        with self._database.read() as connection:
            return _highest(connection, team, name)

    def _manifests(self, condition: str, *values: object) -> list[ManifestRow]:
        order = "team, name, version DESC, id"
        query = f"SELECT {_MANIFEST_COLUMNS} FROM manifests WHERE {condition} ORDER BY {order}"
        with self._database.read() as connection:
            return [ManifestRow(*row) for row in connection.execute(query, values)]


def _image(row: tuple[Any, ...]) -> ImageRow:
    path, chain, *rest = row
    return ImageRow(os.fsdecode(path), tuple(Fingerprint(*file) for file in json.loads(chain)), *rest)


def _highest(connection: sqlite3.Connection, team: str, name: str) -> int:
    query = "SELECT max(version) FROM seen WHERE team = ? AND name = ?"
    return int(connection.execute(query, (team, name)).fetchone()[0] or 0)


def _keep(connection: sqlite3.Connection, manifest: ManifestRow, at: str) -> None:
    connection.execute(
        "INSERT OR IGNORE INTO manifests VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", astuple(manifest)
    )
    note(connection, Sighting(manifest.team, manifest.name, manifest.publisher, manifest.version, at))
