"""Pins, trusted and distrusted publishers, in the catalog. What they mean is for others.

While a publisher is distrusted its pins and its trust count for nothing, but they are kept: when the distrust
ends, all is as it was before, but for names that have become another's.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import astuple

from overlaysync.model.pin import DistrustedPublisher, Pin, TrustedPublisher
from overlaysync.store.database import Database

_PIN_COLUMNS = "team, name, publisher, since, explicit, label"
_COUNTS = "publisher NOT IN (SELECT publisher FROM distrusted)"


class PinStore:
    """The pins in ``database``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def pins(self) -> list[Pin]:
        """All that count, by team and name."""
        with self._database.read() as connection:
            return _select(connection, "true")

    def pin_of(self, team: str, name: str) -> Pin | None:
        """Return the pin of a name, if it counts."""
        with self._database.read() as connection:
            return next(iter(_select(connection, "(team, name) = (?, ?)", team, name)), None)

    def trusted(self) -> list[TrustedPublisher]:
        """All publishers that the user trusts, whom first."""
        with self._database.read() as connection:
            query = f"SELECT publisher, since, label FROM trusted WHERE {_COUNTS} ORDER BY since, publisher"
            return [TrustedPublisher(*row) for row in connection.execute(query)]

    def distrusted(self) -> list[DistrustedPublisher]:
        """All publishers that the user refuses for good, the first refused first."""
        with self._database.read() as connection:
            query = "SELECT publisher, since, label FROM distrusted ORDER BY since, publisher"
            return [DistrustedPublisher(*row) for row in connection.execute(query)]

    def pin_first(self, pin: Pin) -> None:
        """Pin a name, unless it is pinned to a publisher that counts."""
        if self.pin_of(pin.team, pin.name) is not None:
            return  # it is so nearly always, and then nothing is written
        with self._database.write() as connection:
            connection.execute(
                f"DELETE FROM pins WHERE (team, name) = (?, ?) AND NOT {_COUNTS}", (pin.team, pin.name)
            )
            connection.execute("INSERT OR IGNORE INTO pins VALUES (?, ?, ?, ?, ?, ?)", _row(pin))

    def trust(self, publisher: TrustedPublisher | None, pins: Iterable[Pin]) -> None:
        """Trust a publisher (if one is given) and pin names, whoever had them, in one step.

        A publisher that was distrusted is so no longer.
        """
        pins = list(pins)
        publishers = {pin.publisher for pin in pins} | ({publisher.publisher} if publisher else set())
        with self._database.write() as connection:
            connection.executemany(
                "DELETE FROM distrusted WHERE publisher = ?", [(key,) for key in publishers]
            )
            if publisher:
                connection.execute("INSERT OR IGNORE INTO trusted VALUES (?, ?, ?)", astuple(publisher))
            connection.executemany("INSERT OR REPLACE INTO pins VALUES (?, ?, ?, ?, ?, ?)", map(_row, pins))

    def forget(self, publisher: bytes) -> None:
        """Forget that a publisher is trusted, and all its pins; one that is distrusted stays so."""
        with self._database.write() as connection:
            _forget(connection, publisher)

    def distrust(self, publisher: DistrustedPublisher) -> None:
        """Refuse a publisher for good: that it was trusted and had names counts no more."""
        with self._database.write() as connection:
            connection.execute("INSERT OR IGNORE INTO distrusted VALUES (?, ?, ?)", astuple(publisher))

    def end_distrust(self, publisher: bytes) -> None:
        """Refuse a publisher no longer: what it was trusted for and had before counts again."""
        with self._database.write() as connection:
            connection.execute("DELETE FROM distrusted WHERE publisher = ?", (publisher,))


def _forget(connection: sqlite3.Connection, publisher: bytes) -> None:
    for table in ("trusted", "pins"):
        connection.execute(f"DELETE FROM {table} WHERE publisher = ?", (publisher,))


def _select(connection: sqlite3.Connection, condition: str, *values: object) -> list[Pin]:
    """Return the pins that count and fulfil a condition, by team and name."""
    query = f"SELECT {_PIN_COLUMNS} FROM pins WHERE {_COUNTS} AND {condition} ORDER BY team, name"
    return [
        Pin(team, name, publisher, since, bool(explicit), label)
        for team, name, publisher, since, explicit, label in connection.execute(query, values)
    ]


def _row(pin: Pin) -> tuple[str, str, bytes, str, int, str]:
    return (pin.team, pin.name, pin.publisher, pin.since, int(pin.explicit), pin.label)
