"""What files held when they were last fetched or published on this machine."""

from __future__ import annotations

import json
import os
import sqlite3
from dataclasses import dataclass
from typing import Any

from overlaysync.model.fingerprint import Fingerprint
from overlaysync.store.columns import split_ids
from overlaysync.store.database import Database

MAX_HELD = 16
"""Versions noted for one file."""
_COLUMNS = "path, team, name, manifests, file"


@dataclass(frozen=True, slots=True)
class Held:
    """What a file held when it was last fetched or published on this machine.

    Attributes:
        path: real path.
        team: "" for none.
        name: the name that the file is published under.
        manifests: ids of the versions: first the one that it holds. Then those that this was chosen over in a
            fork, and the last ones that the file held for others or under other names.
        file: the file's fingerprint then: while it is the same, what differs is rot and nobody's work.
    """

    path: str
    team: str
    name: str
    manifests: tuple[bytes, ...]
    file: Fingerprint


class HeldStore:
    """What files hold, in ``database``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def hold(self, held: Held) -> None:
        """Note what a file holds, instead of what was noted before."""
        with self._database.write() as connection:
            hold_in(connection, held)

    def at(self, path: str) -> Held | None:
        """Return what the file at the real path ``path`` held when it was last fetched or published."""
        with self._database.read() as connection:
            return held_at(connection, path)

    def all(self) -> list[Held]:
        """Return what all files held, by path."""
        with self._database.read() as connection:
            query = f"SELECT {_COLUMNS} FROM held ORDER BY path"
            return [_held(row) for row in connection.execute(query)]


def hold_in(connection: sqlite3.Connection, held: Held) -> None:
    """Note what a file holds; then it is not one that was only made here."""
    ids = b"".join(held.manifests)
    row = (os.fsencode(held.path), held.team, held.name, ids, json.dumps(held.file))
    connection.execute("INSERT OR REPLACE INTO held VALUES (?, ?, ?, ?, ?)", row)
    connection.execute("DELETE FROM made WHERE path = ?", row[:1])


def held_at(connection: sqlite3.Connection, path: str) -> Held | None:
    """Return what a file holds."""
    query = f"SELECT {_COLUMNS} FROM held WHERE path = ?"
    row = connection.execute(query, (os.fsencode(path),)).fetchone()
    return _held(row) if row else None


def held_as(connection: sqlite3.Connection, team: str, name: str) -> list[Held]:
    """Return what files held under a name."""
    query = f"SELECT {_COLUMNS} FROM held WHERE team = ? AND name = ?"
    return [_held(row) for row in connection.execute(query, (team, name))]


def forget_in(connection: sqlite3.Connection, path: str) -> None:
    """Forget what a file held."""
    connection.execute("DELETE FROM held WHERE path = ?", (os.fsencode(path),))


def _held(row: tuple[Any, ...]) -> Held:
    path, team, name, ids, file = row
    return Held(os.fsdecode(path), team, name, split_ids(ids), Fingerprint(*json.loads(file)))
