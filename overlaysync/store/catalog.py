"""What a node knows: its images with their cached ids, and manifests, its own and others'.

Left out: what a manifest says (the caller gives the columns to find it by) and whether its publisher is
trusted (:mod:`pins` keeps what that is decided by).
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from overlaysync.model.digest import derive
from overlaysync.model.fingerprint import Fingerprint
from overlaysync.model.history import History
from overlaysync.model.pin import Sighting
from overlaysync.store.copies import CopyStore
from overlaysync.store.database import Database
from overlaysync.store.faultlog import FaultLog
from overlaysync.store.garbage import collect, has_unneeded_lists
from overlaysync.store.home import Home
from overlaysync.store.members import MemberStore
from overlaysync.store.pagestore import PageStore
from overlaysync.store.pins import PinStore

ManifestKind: TypeAlias = Literal["disk", "layer"]


@dataclass(frozen=True, slots=True)
class ImageRow:
    """An image file whose ids are known.

    Attributes:
        path: real path; undecodable bytes as surrogates (``os.fsdecode``).
        chain: fingerprints of the image and of every backing file below it: a guest sees them all.
        format: ``raw``, ``qed`` or ``qcow2``.
        virtual_size: bytes.
        disk: id of what the guest sees.
        layer: id of what an overlay adds, None for a standalone image.
        parent: disk id of the backing file, None for a standalone image.
        verified_at: when the bytes were last hashed, seconds since 1970.
    """

    path: str
    chain: tuple[Fingerprint, ...]
    format: str
    virtual_size: int
    disk: bytes
    layer: bytes | None
    parent: bytes | None
    verified_at: float

    def __post_init__(self) -> None:
        if not self.chain:
            raise ValueError("an image has a fingerprint of its own")

    @property
    def fingerprint(self) -> Fingerprint:
        """That of the image itself."""
        return self.chain[0]


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """A signed manifest and what it is found by.

    Attributes:
        id: 32 bytes.
        envelope: the signed bytes, as they travel.
        kind: of ``content``.
        team: ``""`` for public.
        name: of the thing.
        version: 1 .. MAX_VERSION.
        publisher: the publisher's key or node id.
        content: disk id or layer id.
        parent: of a layer: disk id below it.
        result: of a layer: disk id that it makes.
        created: ISO 8601 UTC, as the publisher says.
        label: of the publisher's node, as it says.
        follows: ids of the manifests it follows.
    """

    id: bytes
    envelope: bytes
    kind: ManifestKind
    team: str
    name: str
    version: int
    publisher: bytes
    content: bytes
    parent: bytes | None
    result: bytes | None
    created: str
    label: str = ""
    follows: tuple[bytes, ...] = ()

    @property
    def full_name(self) -> str:
        """``team/name`` or ``name``."""
        return f"{self.team}/{self.name}" if self.team else self.name

    @property
    def title(self) -> str:
        """``team/name:version``."""
        return f"{self.full_name}:{self.version}"


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


@dataclass(frozen=True, slots=True)
class Made:
    """A file that was made here out of other images, and was neither fetched nor published since.

    Attributes:
        path: real path.
        disk: of a master: the disk it was made with, and must keep. None for an overlay, which is written to.
        file: the file's fingerprint then.
        at: when, seconds since 1970.
        content: id of what was made.
        sources: ids of versions that it was made of, which say whom it is for.
    """

    path: str
    disk: bytes | None
    file: Fingerprint
    at: float
    content: bytes = b""
    sources: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Doubt:
    """That nothing proves what a file is: an overlay that was put on a master without proof.

    Attributes:
        path: real path.
        file: the file's fingerprint then; None when the file was forgotten.
        content: its content id then.
        text: what is said of it.
        at: since when, ISO 8601 UTC.
    """

    path: str
    file: Fingerprint | None
    content: bytes
    text: str
    at: str


MAX_HOLDERS = 64
"""Other machines noted for one content; then the one seen longest ago is forgotten."""

MAX_UNKEPT = 1 << 14
"""Headers kept of what was never taken here; then the ones seen first are forgotten. Any peer can make up as
many as it likes, and a home may have a quota."""

_ID_SIZE = 32
MAX_HELD = 16
"""Versions noted for one file."""
_HELD_COLUMNS = "path, team, name, manifests, file"

Decide: TypeAlias = Callable[[Sequence["ManifestRow"], Sequence["ManifestRow"]], "ManifestRow"]
"""Given what a file held, and what is known under its name with its content: the manifest to publish."""

_IMAGE_COLUMNS = "path, chain, format, virtual_size, disk, layer, parent, verified_at"
_REMEMBER_IMAGE = (
    f"INSERT INTO images ({_IMAGE_COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"
    " ON CONFLICT (path) DO UPDATE SET chain = ?2, format = ?3, virtual_size = ?4, disk = ?5, layer = ?6,"
    " parent = ?7, verified_at = ?8"
)
_MANIFEST_COLUMNS = (
    "id, envelope, kind, team, name, version, publisher, content, parent, result, created, label, follows"
)


class Catalog:
    """The catalog in ``database``; ``pages``, ``pins``, ``members``, ``copies``, ``faults`` hold the rest."""

    def __init__(self, database: Database) -> None:
        self._database = database
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

    def has_garbage(self) -> bool:
        """Return whether there is a page list that nothing needs; see :mod:`overlaysync.store.garbage`."""
        return has_unneeded_lists(self._database)

    def collect_garbage(self, journals: Path) -> None:
        """Remove page lists, pages and ``journals`` that nothing needs, while no other command runs."""
        collect(self._database, journals)

    # -- images --------------------------------------------------------------------------------------

    def remember_image(self, image: ImageRow) -> None:
        """Keep what is known of the file at ``image.path``, instead of what was known before."""
        row = (
            os.fsencode(image.path),
            json.dumps(image.chain),
            image.format,
            image.virtual_size,
            image.disk,
            image.layer,
            image.parent,
            image.verified_at,
        )
        with self._database.write() as connection:
            connection.execute(_REMEMBER_IMAGE, row)

    def mark_named(self, path: str) -> None:
        """Note that the user named the image at a real path, which is known."""
        with self._database.write() as connection:
            connection.execute("UPDATE images SET named = 1 WHERE path = ?", (os.fsencode(path),))

    def is_named(self, path: str) -> bool:
        """Whether the user ever named the image at a real path."""
        query = "SELECT 1 FROM images WHERE path = ? AND named"
        with self._database.read() as connection:
            return connection.execute(query, (os.fsencode(path),)).fetchone() is not None

    def image_at(self, path: str | Path) -> ImageRow | None:
        """Return the image last known at the real path ``path``.

        Whether it still fits is for the caller to see.
        """
        return next(iter(self._images("path = ?", os.fsencode(path))), None)

    def images_with_disk(self, disk: bytes) -> list[ImageRow]:
        """Images whose guest sees ``disk``, latest verified first."""
        return self._images("disk = ?", disk)

    def all_images(self) -> list[ImageRow]:
        """All known images, latest verified first."""
        return self._images("1")

    def confirm_image(self, image: ImageRow, *, at: float) -> None:
        """Note that the bytes of ``image`` were read again, unless something else is known by now."""
        query = "UPDATE images SET verified_at = ? WHERE path = ? AND chain = ? AND disk = ?"
        with self._database.write() as connection:
            connection.execute(query, (at, os.fsencode(image.path), json.dumps(image.chain), image.disk))

    def forget_image(self, path: str | Path) -> None:
        """Forget what is known and noted of ``path``, and what it held; the file is not touched."""
        with self._database.write() as connection:
            for table in ("images", "held", "made"):
                connection.execute(f"DELETE FROM {table} WHERE path = ?", (os.fsencode(path),))
            connection.execute("UPDATE doubts SET file = NULL WHERE path = ?", (os.fsencode(path),))

    def doubt(self, doubt: Doubt) -> None:
        """Note that nothing proves what a file is, to be said wherever it is used.

        Its content is no evidence any more, also when the file is gone.
        """
        row = (os.fsencode(doubt.path), json.dumps(doubt.file), doubt.content, doubt.text, doubt.at)
        with self._database.write() as connection:
            connection.execute("INSERT OR REPLACE INTO doubts VALUES (?, ?, ?, ?, ?)", row)

    def doubt_about(self, path: str, file: Fingerprint) -> Doubt | None:
        """Return what was noted of the file at ``path``, written to or moved since.

        None when it is another file.
        """
        # A moved file keeps the time of its last write; only its inode's number may be another file's by now.
        return next(
            (
                doubt
                for doubt in self._doubts()
                if doubt.file is not None
                and ((doubt.path == path and doubt.file[:2] == file[:2]) or doubt.file[:4] == file[:4])
            ),
            None,
        )

    def doubts(self) -> dict[bytes, Doubt]:
        """Return what was noted of contents, by their ids; of several notes of one content the first."""
        return {doubt.content: doubt for doubt in reversed(self._doubts())}

    def settle_doubt(self, content: bytes) -> None:
        """Forget the doubts about a content: it was proven what it is."""
        with self._database.write() as connection:
            connection.execute("DELETE FROM doubts WHERE content = ?", (content,))

    def _doubts(self) -> list[Doubt]:
        query = "SELECT path, file, content, text, at FROM doubts ORDER BY at, rowid"
        with self._database.read() as connection:
            rows = connection.execute(query).fetchall()
        return [
            Doubt(os.fsdecode(path), Fingerprint(*json.loads(file)) if file else None, content, text, at)
            for path, file, content, text, at in rows
        ]

    def _images(self, condition: str, *values: object) -> list[ImageRow]:
        query = f"SELECT {_IMAGE_COLUMNS} FROM images WHERE {condition} ORDER BY verified_at DESC, path"
        with self._database.read() as connection:
            rows = connection.execute(query, values).fetchall()
        try:
            return [_image(row) for row in rows]
        except (ValueError, TypeError, IndexError) as error:
            raise self._database.damaged(f"an image's row: {error}") from error

    # -- manifests -----------------------------------------------------------------------------------

    def keep_manifest(self, manifest: ManifestRow, *, at: str = "") -> None:
        """Keep a manifest of something that is or was here, its signature checked; seen at that time."""
        with self._database.write() as connection:
            _keep(connection, manifest, at)

    def note_manifests(self, manifests: Iterable[ManifestRow], *, at: str) -> None:
        """Keep the headers of versions that were only seen, so that ancestry is known later.

        Writes only when one is new. Those of names and publishers this node has nothing to do with are
        bounded in number.
        """
        with self._database.read() as connection:
            new = [row for row in manifests if _find(connection, row.id) is None]
        if not new:
            return
        with self._database.write() as connection:
            for row in new:
                connection.execute(_INSERT, (*_values(row), at, 0))
            _forget_unkept(connection)

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
            held = _held_at(connection, path) or _moved(connection, team, name, continues)
            found = [_find(connection, id) for id in (held.manifests if held else ())]
            # Each name and each audience has a history of its own, and one file may be in several.
            followed = [row for row in found if row and (row.team, row.name) == (team, name)]
            others = [row.id for row in found if row and row not in followed]
            condition = "team = ? AND name = ? AND content = ? AND kept"
            manifest = decide(followed, _select(connection, condition, team, name, content))
            if (manifest.team, manifest.name, manifest.content) != (team, name, content):
                raise ValueError("not a manifest of that content under that name")
            _keep(connection, manifest, manifest.created)
            _hold(connection, replace(as_held, manifests=(manifest.id, *others)[:MAX_HELD]))
            if held and held.path != path and not os.path.lexists(held.path):  # so it can move once more
                connection.execute("DELETE FROM held WHERE path = ?", (os.fsencode(held.path),))
        return manifest

    def manifests(
        self,
        *,
        team: str | None = None,
        name: str | None = None,
        content: bytes | None = None,
        disk: bytes | None = None,
    ) -> list[ManifestRow]:
        """All kept ones that fit (None fits all; public is ``""``), by team and name, newest first.

        ``disk`` fits masters of that disk, and overlays that make it.
        """
        wanted = {"team": team, "name": name, "content": content, "coalesce(result, content)": disk}
        given = {column: value for column, value in wanted.items() if value is not None}
        condition = " AND ".join(("kept", *(f"{column} = ?" for column in given)))
        return self._manifests(condition, *given.values())

    def versions(self, team: str, name: str) -> list[ManifestRow]:
        """All versions of a name ever seen, those that were never here as well, newest version first."""
        return self._manifests("team = ? AND name = ?", team, name)

    def layers(self) -> list[ManifestRow]:
        """All versions of overlays ever seen, those that were never here as well."""
        return self._manifests("kind = 'layer'")

    def find_manifest(self, id: bytes) -> ManifestRow | None:
        """Return the manifest with that id, kept or only seen."""
        with self._database.read() as connection:
            return _find(connection, id)

    def sightings(self) -> list[Sighting]:
        """Return the highest version seen of every name by every publisher, by team and name."""
        query = (
            "SELECT team, name, publisher, max(version), seen_at, label FROM manifests"
            " GROUP BY team, name, publisher ORDER BY team, name, publisher"
        )
        with self._database.read() as connection:
            return [Sighting(*row) for row in connection.execute(query)]

    def _manifests(self, condition: str, *values: object) -> list[ManifestRow]:
        with self._database.read() as connection:
            return _select(connection, condition, *values)

    # -- what files hold -----------------------------------------------------------------------------

    def hold(self, held: Held) -> None:
        """Note what a file holds, instead of what was noted before."""
        with self._database.write() as connection:
            _hold(connection, held)

    def held_at(self, path: str) -> Held | None:
        """Return what the file at the real path ``path`` held when it was last fetched or published."""
        with self._database.read() as connection:
            return _held_at(connection, path)

    def all_held(self) -> list[Held]:
        """Return what all files held, by path."""
        with self._database.read() as connection:
            query = f"SELECT {_HELD_COLUMNS} FROM held ORDER BY path"
            return [_held(row) for row in connection.execute(query)]

    def note_made(self, made: Made) -> None:
        """Note that a file was made here: what its path held before says nothing of it."""
        row = (os.fsencode(made.path), made.disk, json.dumps(made.file), made.at, made.content)
        with self._database.write() as connection:
            query = "INSERT OR REPLACE INTO made VALUES (?, ?, ?, ?, ?, ?)"
            connection.execute(query, (*row, b"".join(made.sources)))

    def made_at(self, path: str) -> Made | None:
        """Return the file that was made at the real path ``path`` and neither fetched nor published since."""
        return next(iter(self._made("path = ?", os.fsencode(path))), None)

    def all_made(self) -> list[Made]:
        """All files that were made here, and neither fetched nor published since, by path."""
        return self._made("1")

    def _made(self, condition: str, *values: object) -> list[Made]:
        query = f"SELECT path, disk, file, at, content, sources FROM made WHERE {condition} ORDER BY path"
        with self._database.read() as connection:
            rows = connection.execute(query, values).fetchall()
        return [
            Made(os.fsdecode(path), disk, Fingerprint(*json.loads(file)), at, content, _ids(sources))
            for path, disk, file, at, content, sources in rows
        ]

    # -- who has what --------------------------------------------------------------------------------

    def note_holder(self, content: bytes, node: bytes, label: str, *, at: str) -> None:
        """Note that another node was seen to have a content."""
        with self._database.write() as connection:
            _note_holder(connection, content, node, label, at)

    def note_holdings(
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
                _note_holder(connection, content, node, label, at)

    def holdings(self, node: bytes, label: str) -> set[bytes]:
        """Return the contents that another node was seen to have, by its key or its label."""
        with self._database.read() as connection:
            rows = connection.execute(f"SELECT content FROM holders WHERE {_OF_NODE}", (node, label))
            return {content for (content,) in rows}

    def forget_holdings(self, node: bytes, label: str, contents: Iterable[bytes]) -> None:
        """Note that another node has contents no longer."""
        gone = [(node, label, content) for content in contents]
        if gone:
            with self._database.write() as connection:
                connection.executemany(f"DELETE FROM holders WHERE {_OF_NODE} AND content = ?", gone)

    def holders(self, content: bytes) -> list[Holder]:
        """Return the other nodes that were seen to have a content, the latest first."""
        query = "SELECT node, label, seen_at FROM holders WHERE content = ? ORDER BY seen_at DESC, node"
        with self._database.read() as connection:
            return [Holder(*row) for row in connection.execute(query, (content,))]


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


def _image(row: tuple[Any, ...]) -> ImageRow:
    path, chain, *rest = row
    return ImageRow(os.fsdecode(path), tuple(Fingerprint(*file) for file in json.loads(chain)), *rest)


def label_key(label: str) -> bytes:
    """Return what stands for the key of a node of which only the label is known."""
    return derive("overlaysync v1 holder's label", label.encode())


def _note_holder(connection: sqlite3.Connection, content: bytes, node: bytes, label: str, at: str) -> None:
    """Count a label once: a node known by its label may turn out to be one known by its key."""
    if node == label_key(label):
        query = "UPDATE holders SET seen_at = ? WHERE (content, label) = (?, ?)"
        if connection.execute(query, (at, content, label)).rowcount:
            return
    connection.execute("DELETE FROM holders WHERE (content, label) = (?, ?)", (content, label))
    connection.execute("INSERT OR REPLACE INTO holders VALUES (?, ?, ?, ?)", (content, node, label, at))
    connection.execute(_FORGET_HOLDERS, (content, MAX_HOLDERS))


_OF_NODE = "(node = ? OR label = ?)"

_FORGET_HOLDERS = """
    DELETE FROM holders WHERE rowid IN (
        SELECT rowid FROM holders WHERE content = ? ORDER BY seen_at DESC, rowid DESC LIMIT -1 OFFSET ?
    )
"""


def _is_news(connection: sqlite3.Connection, content: bytes, node: bytes, label: str, fresh: str) -> bool:
    """Whether a manifest of ``content`` is kept, and the holder was not noted of late."""
    kept = connection.execute("SELECT 1 FROM manifests WHERE content = ? AND kept", (content,)).fetchone()
    column, value = ("label", label) if node == label_key(label) else ("node", node)
    query = f"SELECT 1 FROM holders WHERE content = ? AND {column} = ? AND seen_at >= ?"
    return kept is not None and connection.execute(query, (content, value, fresh)).fetchone() is None


_INSERT = f"INSERT OR IGNORE INTO manifests VALUES ({', '.join('?' * 15)})"


def _values(manifest: ManifestRow) -> tuple[object, ...]:
    *fields, follows = astuple(manifest)
    return (*fields, b"".join(follows))


def _select(connection: sqlite3.Connection, condition: str, *values: object) -> list[ManifestRow]:
    order = "team, name, version DESC, id"
    query = f"SELECT {_MANIFEST_COLUMNS} FROM manifests WHERE {condition} ORDER BY {order}"
    rows = connection.execute(query, values)
    return [ManifestRow(*(*row[:-1], _ids(row[-1]))) for row in rows]


def _find(connection: sqlite3.Connection, id: bytes) -> ManifestRow | None:
    return next(iter(_select(connection, "id = ?", id)), None)


def _keep(connection: sqlite3.Connection, manifest: ManifestRow, at: str) -> None:
    connection.execute(_INSERT, (*_values(manifest), at, 1))
    connection.execute("UPDATE manifests SET kept = 1 WHERE id = ? AND NOT kept", (manifest.id,))


_UNKEPT = """
    NOT kept AND team = '' AND publisher NOT IN (SELECT publisher FROM trusted)
    AND NOT EXISTS (SELECT 1 FROM pins WHERE (pins.team, pins.name, pins.publisher)
        = (manifests.team, manifests.name, manifests.publisher))
"""
"""What of the versions seen is of no team, and of no publisher whose name it is here."""


def _forget_unkept(connection: sqlite3.Connection) -> None:
    """Keep the newest of what strangers made up; but whatever a kept version follows stays."""
    (count,) = connection.execute("SELECT count(*) FROM manifests WHERE NOT kept").fetchone()
    if count <= MAX_UNKEPT:
        return
    needed = _past_of_kept(connection)
    rows = connection.execute(f"SELECT rowid, id FROM manifests WHERE {_UNKEPT} ORDER BY rowid DESC")
    strange = [rowid for rowid, id in rows if id not in needed]
    connection.executemany(
        "DELETE FROM manifests WHERE rowid = ?", ((rowid,) for rowid in strange[MAX_UNKEPT:])
    )


def _past_of_kept(connection: sqlite3.Connection) -> set[bytes]:
    """Return the ids of all versions that a kept one follows, directly or through others."""
    kept = _select(connection, "kept")
    rest = _select(connection, "NOT kept AND follows != x''")
    return History([*kept, *rest]).before(*(row.id for row in kept))


def _hold(connection: sqlite3.Connection, held: Held) -> None:
    ids = b"".join(held.manifests)
    row = (os.fsencode(held.path), held.team, held.name, ids, json.dumps(held.file))
    connection.execute("INSERT OR REPLACE INTO held VALUES (?, ?, ?, ?, ?)", row)
    connection.execute("DELETE FROM made WHERE path = ?", row[:1])


def _held_at(connection: sqlite3.Connection, path: str) -> Held | None:
    query = f"SELECT {_HELD_COLUMNS} FROM held WHERE path = ?"
    row = connection.execute(query, (os.fsencode(path),)).fetchone()
    return _held(row) if row else None


def _moved(connection: sqlite3.Connection, team: str, name: str, continues: bool) -> Held | None:
    """Return what was held under a name by the one file that is gone, when no other file holds it.

    Or by any.
    """
    query = f"SELECT {_HELD_COLUMNS} FROM held WHERE team = ? AND name = ?"
    rows = [_held(row) for row in connection.execute(query, (team, name))]
    if continues and rows:
        return replace(rows[0], manifests=_newest_held(connection, rows))
    gone = [held for held in rows if not os.path.lexists(held.path)]
    return gone[0] if len(gone) == len(rows) == 1 else None


def _newest_held(connection: sqlite3.Connection, rows: Sequence[Held]) -> tuple[bytes, ...]:
    """Of the versions that several files hold, those that no other of them follows."""
    found = [_find(connection, id) for held in rows for id in held.manifests]
    newest = History(row for row in found if row).newest(row for row in found if row)
    return tuple(row.id for row in newest)


def _held(row: tuple[Any, ...]) -> Held:
    path, team, name, ids, file = row
    return Held(os.fsdecode(path), team, name, _ids(ids), Fingerprint(*json.loads(file)))


def _ids(joined: bytes) -> tuple[bytes, ...]:
    return tuple(joined[at : at + _ID_SIZE] for at in range(0, len(joined), _ID_SIZE))
