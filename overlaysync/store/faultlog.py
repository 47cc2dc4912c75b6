"""Unexpected exceptions that peers caused, by kind, kept so that ``overlaysync doctor`` can tell of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from overlaysync.store.database import Database

MAX_KINDS = 64
"""Kinds kept; then those that occurred longest ago are forgotten."""


@dataclass(frozen=True, slots=True)
class FaultCount:
    """How often one kind of exception has occurred.

    Attributes:
        kind: what was done, and the exception's type.
        count: how often.
        last_at: when it was last counted, ISO 8601 UTC.
    """

    kind: str
    count: int
    last_at: str


class FaultLog:
    """The exceptions in ``database``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, counts: Mapping[str, int], *, at: str) -> None:
        """Add what a command has counted by ``at`` (ISO 8601 UTC)."""
        if not counts:
            return
        rows = [(kind, count, at) for kind, count in counts.items()]
        with self._database.write() as connection:
            connection.executemany(_ADD, rows)
            connection.execute(_FORGET, (MAX_KINDS,))

    def all(self) -> list[FaultCount]:
        """Return all kinds, the latest first."""
        query = "SELECT kind, count, last_at FROM faults ORDER BY last_at DESC, kind"
        with self._database.read() as connection:
            return [FaultCount(*row) for row in connection.execute(query)]


_ADD = """
    INSERT INTO faults VALUES (?1, ?2, ?3)
    ON CONFLICT (kind) DO UPDATE SET count = count + ?2, last_at = ?3
"""
_FORGET = """
    DELETE FROM faults WHERE kind IN (SELECT kind FROM faults ORDER BY last_at DESC LIMIT -1 OFFSET ?)
"""
