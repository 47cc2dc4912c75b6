"""Members of teams that were seen, in the catalog: which node, when, and what of the team it had then.

A team goes by an id that its key gives (:attr:`overlaysync.trust.teams.Team.id`), so one that was made anew
under an old name has no members here. Left out: how a node is known to be a member.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass, replace
from typing import Any

from overlaysync.store.database import Database

MAX_MEMBERS = 256
"""Members noted of one team; then the one seen longest ago is forgotten."""

MAX_THINGS = 512
"""Things noted of one member, which may list any number."""


@dataclass(frozen=True, slots=True, order=True)
class Thing:
    """A version that a member has of something of the team.

    Attributes:
        name, version: of the thing.
        is_overlay: else it is a master.
    """

    name: str
    version: int
    is_overlay: bool


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a team, as it was seen.

    Attributes:
        node: its public key.
        label: what it calls itself.
        seen_at: when, ISO 8601 UTC.
        things: what it had of the team.
    """

    node: bytes
    label: str
    seen_at: str
    things: tuple[Thing, ...] = ()


class MemberStore:
    """The members in ``database``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def note(self, team: bytes, member: Member, *, fresh: str) -> None:
        """Note that a member was seen. Writes only what is news.

        Args:
            team: the team's id.
            member: as it was seen now.
            fresh: what was noted at this time (ISO 8601 UTC) or later is not written again if it is the same.
        """
        member = replace(member, things=member.things[:MAX_THINGS])
        with self._database.read() as connection:
            known = _select(connection, "team = ? AND node = ?", team, member.node)
        if known and known[0].seen_at >= fresh and replace(known[0], seen_at=member.seen_at) == member:
            return
        with self._database.write() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO members VALUES (?, ?, ?, ?, ?)", (team, *_values(member))
            )
            connection.execute(_FORGET, (team, MAX_MEMBERS))

    def seen(self, team: bytes) -> list[Member]:
        """Return the members of a team that were seen, the latest first."""
        with self._database.read() as connection:
            return _select(connection, "team = ?", team)

    def forget(self, team: bytes) -> None:
        """Forget the members of a team."""
        with self._database.write() as connection:
            connection.execute("DELETE FROM members WHERE team = ?", (team,))


_FORGET = """
    DELETE FROM members WHERE rowid IN (
        SELECT rowid FROM members WHERE team = ? ORDER BY seen_at DESC, rowid DESC LIMIT -1 OFFSET ?
    )
"""


def _select(connection: sqlite3.Connection, condition: str, *values: object) -> list[Member]:
    query = f"SELECT node, label, seen_at, things FROM members WHERE {condition} ORDER BY seen_at DESC, node"
    return [_member(row) for row in connection.execute(query, values)]


def _member(row: tuple[Any, ...]) -> Member:
    node, label, seen_at, things = row
    return Member(node, label, seen_at, tuple(Thing(*thing) for thing in json.loads(things)))


def _values(member: Member) -> tuple[object, ...]:
    things = [(thing.name, thing.version, thing.is_overlay) for thing in member.things]
    return (member.node, member.label, member.seen_at, json.dumps(things, ensure_ascii=False))
