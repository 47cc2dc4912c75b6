"""Garbage in a node's state: page lists, pages and journals that nothing here needs any more.

A command that is killed, a version that was replaced and an image that was discarded leave them behind. What
is needed is what an image here holds or stands on, what a file here was published as, and the layers of all
versions kept, by which an overlay is recognised wherever it turns up. Call :func:`collect` only while no
other command uses the home: a fetch keeps its pages before anything refers to them.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from pathlib import Path

from overlaysync.store.database import Database
from overlaysync.store.journal import MAX_PATH, JournalHeader
from overlaysync.store.pagestore import present_in, remove_unlisted
from overlaysync.store.target import part_path

_NEEDED = """
    SELECT disk FROM images
    UNION SELECT layer FROM images WHERE layer IS NOT NULL
    UNION SELECT parent FROM images WHERE parent IS NOT NULL
    UNION SELECT content FROM manifests WHERE kept AND kind = 'layer'
    UNION SELECT base FROM lists WHERE base IS NOT NULL
"""
_ID_SIZE = 32
_HEADER_SIZE = MAX_PATH + 64


def has_unneeded_lists(database: Database) -> bool:
    """Return whether there is a page list that nothing here needs. Pages without a list are not looked at."""
    with database.read() as connection:
        return bool(_unneeded(connection))


def collect(database: Database, journals: Path) -> None:
    """Remove what nothing here needs; does nothing while an interrupted fetch can still be resumed.

    Raises:
        CatalogError: a page list that is kept is damaged.
    """
    if _resumable(journals):
        return
    with database.write() as connection:
        connection.executemany("DELETE FROM lists WHERE id = ?", [(id,) for id in _unneeded(connection)])
        remove_unlisted(database, connection, present_in(connection))


def _unneeded(connection: sqlite3.Connection) -> list[bytes]:
    """Return the ids of the page lists that nothing here needs."""
    lists = connection.execute(f"SELECT id FROM lists WHERE id NOT IN ({_NEEDED})").fetchall()
    if not lists:
        return []
    held = b"".join(ids for (ids,) in connection.execute("SELECT manifests FROM held"))
    published: set[bytes] = set()
    for at in range(0, len(held), _ID_SIZE):
        query = "SELECT content, parent, result FROM manifests WHERE id = ?"
        published.update(*connection.execute(query, (held[at : at + _ID_SIZE],)))
    return [id for (id,) in lists if id not in published]


def _resumable(journals: Path) -> bool:
    """Whether a part file waits for the rest; journals without one are removed."""
    found = False
    for path in journals.glob("*.journal"):
        with suppress(OSError):
            with open(path, "rb") as file:
                header = JournalHeader.decode(file.read(_HEADER_SIZE))
            if header is not None and os.path.lexists(part_path(Path(os.fsdecode(header.target)))):
                found = True
            else:
                path.unlink()
    return found
