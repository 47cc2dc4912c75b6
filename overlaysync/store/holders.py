"""Which other nodes were seen to have what."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

from overlaysync.model.digest import derive
from overlaysync.store.database import Database

MAX_HOLDERS = 64
"""Other machines noted for one content; then the one seen longest ago is forgotten."""

_OF_NODE = "(node = ? OR label = ?)"

_FORGET_HOLDERS = """
    DELETE FROM holders WHERE rowid IN (
        SELECT rowid FROM holders WHERE content = ? ORDER BY seen_at DESC, rowid DESC LIMIT -1 OFFSET ?
    )
"""


@dataclass(frozen=True, slots=True)
class Holder:
    """Another node that was seen to have a content.

    Attributes:
        node: its public key.
        label: its label, then.
        seen_at: when, ISO 8601 UTC.
    """

    node: bytes
    label: str
    seen_at: str


class HolderStore:
    """The holders in ``database``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def note(self, content: bytes, node: bytes, label: str, *, at: str) -> None:
        """Note that another node was seen to have a content."""
        with self._database.write() as connection:
            _note(connection, content, node, label, at)

    def note_all(
        self, node: bytes, label: str, contents: Iterable[bytes], *, at: str, fresh: str = ""
    ) -> None:
        """Note that another node was seen to have contents, as far as manifests of them are kept here.

        Writes only what is news.

        Args:
            node: its public key; of a node that only its label is known of, :func:`label_key`.
            label: its label.
            contents: what it has.
            at: the time now, ISO 8601 UTC.
            fresh: what was noted at this time or later is not noted again.
        """
        with self._database.read() as connection:
            news = [
                content for content in contents if _is_news(connection, content, node, label, fresh or at)
            ]
        if not news:
            return
        with self._database.write() as connection:
            for content in news:
                _note(connection, content, node, label, at)

    def held_by(self, node: bytes, label: str) -> set[bytes]:
        """Return the contents that another node was seen to have, by its key or its label."""
        with self._database.read() as connection:
            rows = connection.execute(f"SELECT content FROM holders WHERE {_OF_NODE}", (node, label))
            return {content for (content,) in rows}

    def forget(self, node: bytes, label: str, contents: Iterable[bytes]) -> None:
        """Note that another node has contents no longer."""
        gone = [(node, label, content) for content in contents]
        if gone:
            with self._database.write() as connection:
                connection.executemany(f"DELETE FROM holders WHERE {_OF_NODE} AND content = ?", gone)

    def of(self, content: bytes) -> list[Holder]:
        """Return the other nodes that were seen to have a content, the latest first."""
        query = "SELECT node, label, seen_at FROM holders WHERE content = ? ORDER BY seen_at DESC, node"
        with self._database.read() as connection:
            return [Holder(*row) for row in connection.execute(query, (content,))]


def label_key(label: str) -> bytes:
    """Return what stands for the key of a node of which only the label is known."""
    return derive("overlaysync v1 holder's label", label.encode())


def _note(connection: sqlite3.Connection, content: bytes, node: bytes, label: str, at: str) -> None:
    """Count a label once: a node known by its label may turn out to be one known by its key."""
    if node == label_key(label):
        query = "UPDATE holders SET seen_at = ? WHERE (content, label) = (?, ?)"
        if connection.execute(query, (at, content, label)).rowcount:
            return
    connection.execute("DELETE FROM holders WHERE (content, label) = (?, ?)", (content, label))
    connection.execute("INSERT OR REPLACE INTO holders VALUES (?, ?, ?, ?)", (content, node, label, at))
    connection.execute(_FORGET_HOLDERS, (content, MAX_HOLDERS))


def _is_news(connection: sqlite3.Connection, content: bytes, node: bytes, label: str, fresh: str) -> bool:
    """Whether a manifest of ``content`` is kept, and the holder was not noted of late."""
    kept = connection.execute("SELECT 1 FROM manifests WHERE content = ? AND kept", (content,)).fetchone()
    column, value = ("label", label) if node == label_key(label) else ("node", node)
    query = f"SELECT 1 FROM holders WHERE content = ? AND {column} = ? AND seen_at >= ?"
    return kept is not None and connection.execute(query, (content, value, fresh)).fetchone() is None
