"""One node: its home, key, catalog and the operations on them."""

from __future__ import annotations

import getpass
import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from overlaysync.errors import OverlaysyncError
from overlaysync.model.names import name_from
from overlaysync.node.identity import identify, words_of
from overlaysync.ops.dates import utc
from overlaysync.ops.library import Library
from overlaysync.ops.listed_versions import SeenVersions
from overlaysync.ops.make import Maker
from overlaysync.ops.publish import Publisher
from overlaysync.ops.versions import other_sides
from overlaysync.ops.vms.beside import describe
from overlaysync.store.catalog import Catalog
from overlaysync.store.home import Home
from overlaysync.store.manifests import ManifestRow
from overlaysync.store.presence import Presence
from overlaysync.trust.book import Book
from overlaysync.trust.envelope import Manifest
from overlaysync.trust.keys import NodeKey, load_or_make, short_node_id
from overlaysync.trust.team_files import load_teams
from overlaysync.trust.teams import Team

if TYPE_CHECKING:
    from overlaysync.net.faults import Faults

_TIDY_EVERY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Node:
    """Everything a command works with.

    Attributes:
        home: directories.
        key: the node key.
        label: ``user@host-abc234``.
        teams: those it is in, by name, as they were when it was opened.
        catalog, library, publisher, maker: see their modules.
        presence: this command among those that use the home.
    """

    home: Home
    key: NodeKey
    label: str
    teams: Mapping[str, Team]
    catalog: Catalog
    library: Library
    publisher: Publisher
    maker: Maker
    presence: Presence

    @classmethod
    def open(cls, environment: Mapping[str, str], *, tell: Callable[[str], None] | None = None) -> Node:
        """Return the node of this home; key and catalog are made at first use.

        Args:
            environment: variables.
            tell: is told when the home is a copy of another machine's, and the key was made anew for that;
                without it the key is taken as it is.
        """
        home = Home.from_environment(environment).prepare()
        presence = Presence.begin(home.root)
        key, exchange = (load_or_make(home.node_key), None) if tell is None else identify(home)
        if exchange is not None and tell is not None:
            tell(words_of(exchange))
        label = node_label(key, environment)
        teams = load_teams(home.teams)
        catalog = Catalog.open(home)
        library = Library(catalog, time.thread_time)
        publisher = Publisher(library, key, label, teams, describe)
        maker = Maker(library, home.journals)
        return cls(home, key, label, teams, catalog, library, publisher, maker, presence)

    def may_see(self, team: str) -> bool:
        """Whether what belongs to ``team`` ("" for everybody) is for this node."""
        return team == "" or team in self.teams

    def counts(self, manifest: Manifest) -> bool:
        """Whether what is known here by a team's name is that team's, not an earlier one's of that name.

        What is here of a team that this machine is not in keeps its name.
        """
        return manifest.header.team not in self.teams or manifest.belongs(self.teams)

    @property
    def versions(self) -> SeenVersions:
        """All versions ever seen here, by team and name."""
        return SeenVersions(self.catalog.manifests, self.teams)

    def other_sides(self, manifest: Manifest) -> list[ManifestRow]:
        """Return the other sides of a fork that a version is one of, without distrusted publishers'."""
        header = manifest.header
        versions = self.versions(header.team, header.name)
        if all(row.id == manifest.id for row in versions):
            return []
        refuses = self.book().refuses
        return other_sides([row for row in versions if not refuses(row.publisher)], manifest)

    def held(self) -> set[bytes]:
        """Return the ids of the versions that files here hold, or held and were chosen over."""
        rows = self.catalog.held.all()
        return {id for row in rows if os.path.lexists(row.path) for id in row.manifests}

    def book(self) -> Book:
        """Who is trusted for what at this moment."""
        pins = self.catalog.pins
        return Book.of(self.key.public, pins.pins(), pins.trusted(), pins.distrusted())

    def keep_faults(self, faults: Faults) -> None:
        """Keep what was counted of unexpected exceptions, for ``overlaysync doctor``."""
        self.catalog.faults.add(faults.take(), at=timestamp())

    def close(self) -> None:
        """Close the catalog; the last command that uses the home first removes what nothing needs."""
        try:
            if self.presence.is_last():
                self._tidy()
        finally:
            self.catalog.close()
            self.presence.end()

    def _tidy(self) -> None:
        """Remove page lists, pages and journals that nothing needs: when there are some, and once a day."""
        with suppress(OverlaysyncError, OSError):  # the command is done, and has told its own errors
            if self.catalog.has_garbage() or now() - self.presence.tidied_at > _TIDY_EVERY_S:
                self.catalog.collect_garbage(self.home.journals)
                self.presence.note_tidied()


def node_label(key: NodeKey, environment: Mapping[str, str]) -> str:
    """``user@host-abc234``, from names that are safe to show."""
    try:
        user = environment.get("OVERLAYSYNC_USER") or getpass.getuser()
    except (OSError, KeyError):
        user = "user"
    host = socket.gethostname().partition(".")[0]
    return f"{name_from(user)}@{name_from(host)}-{short_node_id(key.public)}"


def now() -> float:
    """Seconds since 1970."""
    return time.time()


def timestamp(*, ago_s: float = 0.0) -> str:
    """Return the present time, or a time ago, as manifests and results write it: ISO 8601 UTC, seconds."""
    return utc(now() - ago_s)
