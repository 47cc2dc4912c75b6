"""The image files whose ids are known. Whether they are still as they were is for others."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overlaysync.model.fingerprint import Fingerprint
from overlaysync.store.database import Database

_COLUMNS = "path, chain, format, virtual_size, disk, layer, parent, verified_at"
_REMEMBER = (
    f"INSERT INTO images ({_COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"
    " ON CONFLICT (path) DO UPDATE SET chain = ?2, format = ?3, virtual_size = ?4, disk = ?5, layer = ?6,"
    " parent = ?7, verified_at = ?8"
)


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


class ImageStore:
    """The images in ``database``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def remember(self, image: ImageRow) -> None:
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
            connection.execute(_REMEMBER, row)

    def mark_named(self, path: str) -> None:
        """Note that the user named the image at a real path, which is known."""
        with self._database.write() as connection:
            connection.execute("UPDATE images SET named = 1 WHERE path = ?", (os.fsencode(path),))

    def is_named(self, path: str) -> bool:
        """Whether the user ever named the image at a real path."""
        query = "SELECT 1 FROM images WHERE path = ? AND named"
        with self._database.read() as connection:
            return connection.execute(query, (os.fsencode(path),)).fetchone() is not None

    def at(self, path: str | Path) -> ImageRow | None:
        """Return the image last known at the real path ``path``.

        Whether it still fits is for the caller to see.
        """
        return next(iter(self._select("path = ?", os.fsencode(path))), None)

    def last_of(self, file: Fingerprint) -> ImageRow | None:
        """Return the image last known of a file that was not written to since, wherever it was then."""
        start = json.dumps([file[:4]]).removesuffix("]]") + ","
        return next(iter(self._select("substr(chain, 1, ?) = ?", len(start), start)), None)

    def with_disk(self, disk: bytes) -> list[ImageRow]:
        """Images whose guest sees ``disk``, latest verified first."""
        return self._select("disk = ?", disk)

    def all(self) -> list[ImageRow]:
        """All known images, latest verified first."""
        return self._select("1")

    def confirm(self, image: ImageRow, *, at: float) -> None:
        """Note that the bytes of ``image`` were read again, unless something else is known by now."""
        query = "UPDATE images SET verified_at = ? WHERE path = ? AND chain = ? AND disk = ?"
        with self._database.write() as connection:
            connection.execute(query, (at, os.fsencode(image.path), json.dumps(image.chain), image.disk))

    def _select(self, condition: str, *values: object) -> list[ImageRow]:
        query = f"SELECT {_COLUMNS} FROM images WHERE {condition} ORDER BY verified_at DESC, path"
        with self._database.read() as connection:
            rows = connection.execute(query, values).fetchall()
        try:
            return [_image(row) for row in rows]
        except (ValueError, TypeError, IndexError) as error:
            raise self._database.damaged(f"an image's row: {error}") from error


def _image(row: tuple[Any, ...]) -> ImageRow:
    path, chain, *rest = row
    return ImageRow(os.fsdecode(path), tuple(Fingerprint(*file) for file in json.loads(chain)), *rest)
