"""The files here that nothing proves to be what they are taken for."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

from overlaysync.model.fingerprint import Fingerprint
from overlaysync.store.database import Database


@dataclass(frozen=True, slots=True)
class Doubt:
    """That nothing proves what a file is: an overlay that was put on a master without proof.

    Attributes:
        path: real path.
        file: the file's fingerprint then; None when the file was forgotten.
        content: its content id then.
        text: what is said of it.
        at: since when, ISO 8601 UTC.
    """

    path: str
    file: Fingerprint | None
    content: bytes
    text: str
    at: str


class DoubtStore:
    """The doubts in ``database``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def note(self, doubt: Doubt) -> None:
        """Note that nothing proves what a file is, to be said wherever it is used.

        Its content is no evidence any more, also when the file is gone.
        """
        row = (os.fsencode(doubt.path), json.dumps(doubt.file), doubt.content, doubt.text, doubt.at)
        with self._database.write() as connection:
            connection.execute("INSERT OR REPLACE INTO doubts VALUES (?, ?, ?, ?, ?)", row)

    def about(self, path: str, file: Fingerprint) -> Doubt | None:
        """Return what was noted of the file at ``path``, written to or moved since.

        None when it is another file.
        """
        # A moved file keeps the time of its last write; only its inode's number may be another file's by now.
        return next(
            (
                doubt
                for doubt in self._all()
                if doubt.file is not None
                and ((doubt.path == path and doubt.file[:2] == file[:2]) or doubt.file[:4] == file[:4])
            ),
            None,
        )

    def by_content(self) -> dict[bytes, Doubt]:
        """Return what was noted of contents, by their ids; of several notes of one content the first."""
        return {doubt.content: doubt for doubt in reversed(self._all())}

    def settle(self, content: bytes) -> None:
        """Forget the doubts about a content: it was proven what it is."""
        with self._database.write() as connection:
            connection.execute("DELETE FROM doubts WHERE content = ?", (content,))

    def _all(self) -> list[Doubt]:
        query = "SELECT path, file, content, text, at FROM doubts ORDER BY at, rowid"
        with self._database.read() as connection:
            rows = connection.execute(query).fetchall()
        return [
            Doubt(os.fsdecode(path), Fingerprint(*json.loads(file)) if file else None, content, text, at)
            for path, file, content, text, at in rows
        ]
