"""The files that were made here out of other images."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

from overlaysync.model.fingerprint import Fingerprint
from overlaysync.store.columns import split_ids
from overlaysync.store.database import Database


@dataclass(frozen=True, slots=True)
class Made:
    """A file that was made here out of other images, and was neither fetched nor published since.

    Attributes:
        path: real path.
        disk: of a master: the disk it was made with, and must keep. None for an overlay, which is written to.
        file: the file's fingerprint then.
        at: when, seconds since 1970.
        content: id of what was made.
        sources: ids of versions that it was made of, which say whom it is for.
    """

    path: str
    disk: bytes | None
    file: Fingerprint
    at: float
    content: bytes = b""
    sources: tuple[bytes, ...] = ()


class MadeStore:
    """The files made here, in ``database``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def note(self, made: Made) -> None:
        """Note that a file was made here: what its path held before says nothing of it."""
        row = (os.fsencode(made.path), made.disk, json.dumps(made.file), made.at, made.content)
        with self._database.write() as connection:
            query = "INSERT OR REPLACE INTO made VALUES (?, ?, ?, ?, ?, ?)"
            connection.execute(query, (*row, b"".join(made.sources)))

    def at(self, path: str) -> Made | None:
        """Return the file that was made at the real path ``path`` and neither fetched nor published since."""
        return next(iter(self._select("path = ?", os.fsencode(path))), None)

    def all(self) -> list[Made]:
        """All files that were made here, and neither fetched nor published since, by path."""
        return self._select("1")

    def _select(self, condition: str, *values: object) -> list[Made]:
        query = f"SELECT path, disk, file, at, content, sources FROM made WHERE {condition} ORDER BY path"
        with self._database.read() as connection:
            rows = connection.execute(query, values).fetchall()
        return [
            Made(os.fsdecode(path), disk, Fingerprint(*json.loads(file)), at, content, split_ids(sources))
            for path, disk, file, at, content, sources in rows
        ]
