"""What a node knows: its images with their cached ids, and manifests, its own and others'.

One store for each kind of thing; here is what concerns several of them at once.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from overlaysync.model.history import History
from overlaysync.store.copies import CopyStore
from overlaysync.store.database import Database
from overlaysync.store.doubts import DoubtStore
from overlaysync.store.faultlog import FaultLog
from overlaysync.store.garbage import collect, has_unneeded_lists
from overlaysync.store.held import MAX_HELD, Held, HeldStore, forget_in, held_as, held_at, hold_in
from overlaysync.store.holders import HolderStore
from overlaysync.store.home import Home
from overlaysync.store.images import ImageStore
from overlaysync.store.made import MadeStore
from overlaysync.store.manifests import ManifestRow, ManifestStore, find_in, keep_in, select_from
from overlaysync.store.members import MemberStore
from overlaysync.store.pagestore import PageStore
from overlaysync.store.pins import PinStore

Decide: TypeAlias = Callable[[Sequence[ManifestRow], Sequence[ManifestRow]], ManifestRow]
"""Given what a file held, and what is known under its name with its content: the manifest to publish."""


class Catalog:
    """The catalog in ``database``.

    Attributes:
        images: the image files whose ids are known.
        doubts: those that nothing proves to be what they are taken for.
        held, made: what files held when they were last fetched or published; the files that were made here.
        manifests: what was published, here and elsewhere.
        holders: which other nodes have what.
        pages, pins, members, copies, faults: what is beside that.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.images = ImageStore(database)
        self.doubts = DoubtStore(database)
        self.held = HeldStore(database)
        self.made = MadeStore(database)
        self.manifests = ManifestStore(database)
        self.holders = HolderStore(database)
        self.pages = PageStore(database)
        self.pins = PinStore(database)
        self.members = MemberStore(database)
        self.copies = CopyStore(database)
        self.faults = FaultLog(database)

    @classmethod
    def open(cls, home: Home) -> Catalog:
        """Return the catalog of ``home``, whose directories must be there.

        Raises:
            CatalogError: damaged, or written by a newer overlaysync.
        """
        return cls(Database.open(home.catalog, network=bool(home.on_network)))

    def close(self) -> None:
        """End all connections; no thread may be using the catalog."""
        self._database.close()

    def copy_to(self, path: Path) -> None:
        """Write a copy of the catalog, as it is at this moment, to a file that is not there yet."""
        with self._database.read() as connection, closing(sqlite3.connect(path)) as copy:
            connection.backup(copy)

    def has_garbage(self) -> bool:
        """Return whether there is a page list that nothing needs; see :mod:`overlaysync.store.garbage`."""
        return has_unneeded_lists(self._database)

    def collect_garbage(self, journals: Path) -> None:
        """Remove page lists, pages and ``journals`` that nothing needs, while no other command runs."""
        collect(self._database, journals)

    def forget_image(self, path: str | Path) -> None:
        """Forget what is known and noted of ``path``, and what it held; the file is not touched."""
        with self._database.write() as connection:
            for table in ("images", "held", "made"):
                connection.execute(f"DELETE FROM {table} WHERE path = ?", (os.fsencode(path),))
            connection.execute("UPDATE doubts SET file = NULL WHERE path = ?", (os.fsencode(path),))

    def publish(
        self, as_held: Held, content: bytes, decide: Decide, *, continues: bool = False
    ) -> ManifestRow:
        """Keep what ``decide`` gives as the manifest of a file, and note that the file holds that.

        ``as_held`` says which file, under which name; its manifests are those that ``decide`` gives.

        No other thread or process decides meanwhile, so ``decide`` should not take long, and must not use the
        catalog itself. When it raises, nothing has changed. A name follows a file that was moved: where
        nothing is known of the file, what was held under this name by one that is gone counts; or, when it
        ``continues`` the name, by any.
        """
        path, team, name = as_held.path, as_held.team, as_held.name
        with self._database.write() as connection:
            held = held_at(connection, path) or _moved(connection, team, name, continues)
            found = [find_in(connection, id) for id in (held.manifests if held else ())]
            # Each name and each audience has a history of its own, and one file may be in several.
            followed = [row for row in found if row and (row.team, row.name) == (team, name)]
            others = [row.id for row in found if row and row not in followed]
            condition = "team = ? AND name = ? AND content = ? AND kept"
            manifest = decide(followed, select_from(connection, condition, team, name, content))
            if (manifest.team, manifest.name, manifest.content) != (team, name, content):
                raise ValueError("not a manifest of that content under that name")
            keep_in(connection, manifest, manifest.created)
            holds = replace(as_held, manifests=(manifest.id, *others)[:MAX_HELD])
            if held != holds:
                hold_in(connection, holds)
            if held and held.path != path and not os.path.lexists(held.path):  # so it can move once more
                forget_in(connection, held.path)
        return manifest


def _moved(connection: sqlite3.Connection, team: str, name: str, continues: bool) -> Held | None:
    """Return what was held under a name by the one file that is gone, when no other file holds it.

    Or by any.
    """
    rows = held_as(connection, team, name)
    if continues and rows:
        return replace(rows[0], manifests=_newest_held(connection, rows))
    gone = [held for held in rows if not os.path.lexists(held.path)]
    return gone[0] if len(gone) == len(rows) == 1 else None


def _newest_held(connection: sqlite3.Connection, rows: Sequence[Held]) -> tuple[bytes, ...]:
    """Of the versions that several files hold, those that no other of them follows."""
    found = [find_in(connection, id) for held in rows for id in held.manifests]
    newest = History(row for row in found if row).newest(row for row in found if row)
    return tuple(row.id for row in newest)
