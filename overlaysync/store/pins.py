"""Pins, trusted publishers and the highest versions seen, in the catalog. What they mean is for others."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import astuple

from overlaysync.model.pin import Pin, Sighting, TrustedPublisher
from overlaysync.store.database import Database

MAX_STRANGE = 1 << 16
"""Versions noted of what has never been taken here; then the ones noted first are forgotten. Anybody on the
wire can make up as many as he likes, and a home may have a quota."""

_SEEN_COLUMNS = "team, name, publisher, version, at, label"
_PIN_COLUMNS = "team, name, publisher, since, explicit, label"


class PinStore:
    """The pins in ``database``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def pins(self) -> list[Pin]:
        """All, by team and name."""
        with self._database.read() as connection:
            rows = connection.execute(f"SELECT {_PIN_COLUMNS} FROM pins ORDER BY team, name").fetchall()
        return [
            Pin(team, name, publisher, since, bool(explicit), label)
            for team, name, publisher, since, explicit, label in rows
        ]

    def trusted(self) -> list[TrustedPublisher]:
        """All publishers that the user trusts, whom first."""
        with self._database.read() as connection:
            query = "SELECT publisher, since, label FROM trusted ORDER BY since, publisher"
            return [TrustedPublisher(*row) for row in connection.execute(query)]

    def pin_first(self, pin: Pin) -> None:
        """Pin a name, unless it is pinned."""
        with self._database.write() as connection:
            connection.execute("INSERT OR IGNORE INTO pins VALUES (?, ?, ?, ?, ?, ?)", _row(pin))

    def trust(self, publisher: TrustedPublisher | None, pins: Iterable[Pin]) -> None:
        """Trust a publisher (if one is given) and pin names, whoever had them, in one step."""
        with self._database.write() as connection:
            if publisher:
                connection.execute("INSERT OR IGNORE INTO trusted VALUES (?, ?, ?)", astuple(publisher))
            connection.executemany("INSERT OR REPLACE INTO pins VALUES (?, ?, ?, ?, ?, ?)", map(_row, pins))

    def forget(self, publisher: bytes) -> None:
        """Forget that a publisher is trusted, and all its pins."""
        with self._database.write() as connection:
            for table in ("trusted", "pins"):
                connection.execute(f"DELETE FROM {table} WHERE publisher = ?", (publisher,))

    # -- versions seen -------------------------------------------------------------------------------

    def sightings(self) -> list[Sighting]:
        """The highest version of every name by every publisher, by team and name."""
        with self._database.read() as connection:
            query = f"SELECT {_SEEN_COLUMNS} FROM seen ORDER BY team, name, publisher"
            return [Sighting(*row) for row in connection.execute(query)]

    def sighting(self, team: str, name: str, publisher: bytes) -> Sighting | None:
        """The highest version of that name seen of that publisher."""
        with self._database.read() as connection:
            return _highest(connection, team, name, publisher)

    def note(self, sightings: Iterable[Sighting]) -> None:
        """Note what was seen; writes only when something is higher than what is noted."""
        with self._database.read() as connection:
            news = [seen for seen in sightings if _is_higher(connection, seen)]
        if news:
            with self._database.write() as connection:
                for seen in news:
                    note(connection, seen)
                _forget_strange(connection)


def note(connection: sqlite3.Connection, seen: Sighting) -> None:
    """Note a version within a transaction, unless a higher one is noted."""
    connection.execute(
        f"INSERT INTO seen ({_SEEN_COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6)"
        " ON CONFLICT (team, name, publisher)"
        " DO UPDATE SET version = ?4, at = ?5, label = ?6 WHERE version < ?4",
        astuple(seen),
    )


_STRANGE = """
    publisher NOT IN (SELECT publisher FROM trusted)
    AND NOT EXISTS (SELECT 1 FROM pins WHERE (pins.team, pins.name, pins.publisher)
        = (seen.team, seen.name, seen.publisher))
    AND NOT EXISTS (SELECT 1 FROM manifests WHERE (manifests.name, manifests.team, manifests.publisher)
        = (seen.name, seen.team, seen.publisher))
"""
"""What of the versions seen is of no name or publisher that this node has to do with."""


def _forget_strange(connection: sqlite3.Connection) -> None:
    """Keep the newest of what is strange."""
    (count,) = connection.execute("SELECT count(*) FROM seen").fetchone()
    if count > MAX_STRANGE:
        connection.execute(
            f"DELETE FROM seen WHERE rowid IN (SELECT rowid FROM seen WHERE {_STRANGE}"
            f" ORDER BY rowid DESC LIMIT -1 OFFSET {MAX_STRANGE})"
        )


def _is_higher(connection: sqlite3.Connection, seen: Sighting) -> bool:
    known = _highest(connection, seen.team, seen.name, seen.publisher)
    return known is None or known.version < seen.version


def _highest(connection: sqlite3.Connection, team: str, name: str, publisher: bytes) -> Sighting | None:
    query = f"SELECT {_SEEN_COLUMNS} FROM seen WHERE team = ? AND name = ? AND publisher = ?"
    row = connection.execute(query, (team, name, publisher)).fetchone()
    return Sighting(*row) if row else None


def _row(pin: Pin) -> tuple[str, str, bytes, str, int, str]:
    return (pin.team, pin.name, pin.publisher, pin.since, int(pin.explicit), pin.label)
