"""Copies of what members have saved, as they were seen: who holds what, and when that was proven.

A holder is a node, by its public key, or an archive, by its name. Left out: how a proof is made.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

from overlaysync.store.database import Database

MAX_COPIES = 1024
"""Copies noted of one space; then those seen longest ago are forgotten."""

_COLUMNS = "head, counter, holder, label, host, seen_at, proven_at, problem"


@dataclass(frozen=True, slots=True)
class Copy:
    """What one holder has of what one node has saved.

    Attributes:
        head: public key of the node that saved.
        counter: of the newest head of that node that the holder has whole.
        holder: the holder's public key, or the name of an archive.
        label: what people call it.
        host: what tells its machine apart; b"" when it says nothing.
        seen_at: when it was last seen to list this, ISO 8601 UTC.
        proven_at: when it last proved that it has it, ISO 8601 UTC; "" for never.
        problem: what was wrong with its last proof; "" for nothing.
    """

    head: bytes
    counter: int
    holder: bytes
    label: str
    host: bytes
    seen_at: str
    proven_at: str = ""
    problem: str = ""


class CopyStore:
    """The copies in ``database``; a space goes by its tag."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def note(self, tag: str, copies: Iterable[Copy]) -> None:
        """Note copies as they were seen now; a proof of before counts on as long as it is the same head."""
        with self._database.write() as connection:
            for copy in copies:
                connection.execute(_NOTE, (tag, *_values(copy)))
            connection.execute(_FORGET, (tag, MAX_COPIES))

    def seen(self, tag: str) -> list[Copy]:
        """Return the copies of what belongs to a space, the latest seen first."""
        with self._database.read() as connection:
            return _select(connection, tag)

    def counters(self, tag: str, holder: bytes) -> dict[bytes, int]:
        """Return the counter of each node's head that a holder has or had, by the node's public key."""
        with self._database.read() as connection:
            query = "SELECT head, counter FROM copies WHERE tag = ? AND holder = ?"
            return dict(connection.execute(query, (tag, holder)).fetchall())

    def newest(self, tag: str) -> dict[bytes, int]:
        """Return the highest counter of each node's heads that was seen at any holder, by its public key."""
        with self._database.read() as connection:
            query = "SELECT head, MAX(counter) FROM copies WHERE tag = ? GROUP BY head"
            return dict(connection.execute(query, (tag,)).fetchall())

    def forget(self, tag: str, holder: bytes) -> None:
        """Forget what a holder had."""
        with self._database.write() as connection:
            connection.execute("DELETE FROM copies WHERE tag = ? AND holder = ?", (tag, holder))


_NOTE = f"""
    INSERT INTO copies (tag, {_COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
    ON CONFLICT (tag, head, holder) DO UPDATE SET
        counter = ?3, label = ?5, host = ?6, seen_at = ?7,
        proven_at = CASE WHEN ?8 <> '' THEN ?8 WHEN counter = ?3 THEN proven_at ELSE '' END,
        problem = CASE WHEN ?8 = '' AND ?9 = '' THEN problem ELSE ?9 END
"""

_FORGET = """
    DELETE FROM copies WHERE rowid IN (
        SELECT rowid FROM copies WHERE tag = ? ORDER BY seen_at DESC, rowid DESC LIMIT -1 OFFSET ?
    )
"""


def _select(connection: sqlite3.Connection, tag: str) -> list[Copy]:
    query = f"SELECT {_COLUMNS} FROM copies WHERE tag = ? ORDER BY seen_at DESC, head, holder"
    return [Copy(*row) for row in connection.execute(query, (tag,))]


def _values(copy: Copy) -> tuple[object, ...]:
    return (
        copy.head,
        copy.counter,
        copy.holder,
        copy.label,
        copy.host,
        copy.seen_at,
        copy.proven_at,
        copy.problem,
    )
