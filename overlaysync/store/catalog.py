"""What a node knows: its images with their cached ids, and manifests, its own and others'.

Left out: what a manifest says (the caller gives the columns to find it by) and whether its publisher is
trusted.
"""

from __future__ import annotations

import json
import os
import sqlite3
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from overlaysync.errors import UsageError
from overlaysync.model.digest import DIGEST_SIZE
from overlaysync.model.fingerprint import Fingerprint
from overlaysync.store.database import Database
from overlaysync.store.home import Home
from overlaysync.store.pagestore import PageStore

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
        version: 1 .. 2**63 - 1.
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
_IDS = (
    ("images", "disk"),
    ("images", "layer"),
    ("manifests", "content"),
    ("manifests", "result"),
)


class Catalog:
    """The catalog in ``database``; ``pages`` holds the pages beside it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.pages = PageStore(database)

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
            json.dumps(image.fingerprint),
            json.dumps(image.chain),
            image.format,
            image.virtual_size,
            image.disk,
            image.layer,
            image.parent,
            image.verified_at,
        )
        with self._database.write() as connection:
            connection.execute("INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    def image_at(self, path: str | Path) -> ImageRow | None:
        """The image last known at the real path ``path``; whether it still fits is for the caller to see."""
        return next(iter(self._images("path = ?", os.fsencode(path))), None)

    def image_by_fingerprint(self, fingerprint: Fingerprint) -> ImageRow | None:
        """The latest known image with that fingerprint, wherever it was (moved files, hard links)."""
        return next(iter(self._images("fingerprint = ?", json.dumps(fingerprint))), None)

    def images_with_disk(self, disk: bytes) -> list[ImageRow]:
        """Images whose guest sees ``disk``, latest verified first."""
        return self._images("disk = ?", disk)

    def images_with_layer(self, layer: bytes) -> list[ImageRow]:
        """Overlays that add ``layer``, latest verified first."""
        return self._images("layer = ?", layer)

    def all_images(self) -> list[ImageRow]:
        """All known images, latest verified first."""
        return self._images("1")

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

    def keep_manifest(self, manifest: ManifestRow) -> None:
        """Keep a manifest whose signature has been checked; its version counts as seen."""
        with self._database.write() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO manifests VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", astuple(manifest)
            )
            _saw(connection, manifest.team, manifest.name, manifest.version, manifest.publisher)

    def manifest(self, manifest_id: bytes) -> ManifestRow | None:
        return next(iter(self._manifests("id = ?", manifest_id)), None)

    def manifests(
        self, *, team: str | None = None, name: str | None = None, content: bytes | None = None
    ) -> list[ManifestRow]:
        """All that fit (None fits all; the public team is ``""``), by team and name, newest version first."""
        wanted = {"team": team, "name": name, "content": content}
        given = {column: value for column, value in wanted.items() if value is not None}
        condition = " AND ".join(f"{column} = ?" for column in given) or "1"
        return self._manifests(condition, *given.values())

    def manifests_on(self, parent: bytes) -> list[ManifestRow]:
        """Layers that stand on the disk ``parent``."""
        return self._manifests("parent = ?", parent)

    def manifests_making(self, result: bytes) -> list[ManifestRow]:
        """Layers whose promotion makes the disk ``result``."""
        return self._manifests("result = ?", result)

    def forget_manifest(self, manifest_id: bytes) -> None:
        """Forget a manifest; that its version was seen stays known."""
        with self._database.write() as connection:
            connection.execute("DELETE FROM manifests WHERE id = ?", (manifest_id,))

    def saw(self, team: str, name: str, version: int, publisher: bytes) -> None:
        """Note that ``publisher`` has published ``version`` of a name; its manifest need not be kept."""
        with self._database.write() as connection:
            _saw(connection, team, name, version, publisher)

    def highest_version(self, team: str, name: str) -> int:
        """The highest version of that name ever seen, whoever published it; 0 when none was."""
        with self._database.read() as connection:
            row = connection.execute(
                "SELECT max(version) FROM seen WHERE team = ? AND name = ?", (team, name)
            ).fetchone()
        return int(row[0] or 0)

    def _manifests(self, condition: str, *values: object) -> list[ManifestRow]:
        order = "team, name, version DESC, id"
        query = f"SELECT {_MANIFEST_COLUMNS} FROM manifests WHERE {condition} ORDER BY {order}"
        with self._database.read() as connection:
            return [ManifestRow(*row) for row in connection.execute(query, values)]

    # -- both ----------------------------------------------------------------------------------------

    def ids_with_prefix(self, hex_prefix: str) -> set[bytes]:
        """Known disk and layer ids (of images, manifests and promotions) that begin with ``hex_prefix``.

        Raises:
            UsageError: it is not hexadecimal, or longer than an id.
        """
        digits = DIGEST_SIZE * 2
        try:
            low, high = (bytes.fromhex(hex_prefix.ljust(digits, digit)) for digit in "0f")
        except ValueError:
            low = high = b""
        if len(low) != DIGEST_SIZE or not hex_prefix.isalnum():
            raise UsageError(f"'{hex_prefix[:80]}' is not the beginning of an id")
        query = " UNION ".join(
            f"SELECT {column} FROM {table} WHERE {column} BETWEEN ?1 AND ?2" for table, column in _IDS
        )
        with self._database.read() as connection:
            return {row[0] for row in connection.execute(query, (low, high))}


def _image(row: tuple[Any, ...]) -> ImageRow:
    path, chain, *rest = row
    return ImageRow(os.fsdecode(path), tuple(Fingerprint(*file) for file in json.loads(chain)), *rest)


def _saw(connection: sqlite3.Connection, team: str, name: str, version: int, publisher: bytes) -> None:
    connection.execute(
        "INSERT INTO seen VALUES (?1, ?2, ?3, ?4)"
        " ON CONFLICT (team, name, publisher) DO UPDATE SET version = max(version, ?4)",
        (team, name, publisher, version),
    )
