"""The one SQLite file of a home: connections, transactions, the schema, and errors in plain words.

Threads may share a :class:`Database` (each gets its own connection), processes a file. What is committed
lasts (synchronous=FULL). Write-ahead log on local disks only: it needs memory shared by all who use the file.
This module knows no table; what is in them is for :mod:`catalog` and :mod:`pagestore`.
Source: sqlite.org/wal.html, sqlite.org/lang_transaction.html.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shlex
import sqlite3
import tempfile
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from overlaysync.errors import InUseError, NoSpaceError, NotAllowedError, OverlaysyncError
from overlaysync.store.files import translate

BUSY_TIMEOUT_S = 10.0
_SAMPLE = 65536
"""Bytes written to find out whether there is room: more than SQLite wants at a time for its shared memory."""

_SCHEMA = """
CREATE TABLE pages (digest BLOB NOT NULL PRIMARY KEY, base BLOB, body BLOB NOT NULL) STRICT;
CREATE TABLE lists (id BLOB NOT NULL PRIMARY KEY, shape BLOB NOT NULL, base BLOB, body BLOB NOT NULL) STRICT;
CREATE INDEX lists_by_shape ON lists (shape);
CREATE TABLE images (
    path BLOB NOT NULL PRIMARY KEY,
    chain TEXT NOT NULL,
    format TEXT NOT NULL,
    virtual_size INTEGER NOT NULL,
    disk BLOB NOT NULL,
    layer BLOB,
    parent BLOB,
    verified_at REAL NOT NULL,
    named INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX images_by_disk ON images (disk);
CREATE TABLE manifests (
    id BLOB NOT NULL PRIMARY KEY,
    envelope BLOB NOT NULL,
    kind TEXT NOT NULL,
    team TEXT NOT NULL,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    publisher BLOB NOT NULL,
    content BLOB NOT NULL,
    parent BLOB,
    result BLOB,
    created TEXT NOT NULL,
    label TEXT NOT NULL,
    follows BLOB NOT NULL,
    seen_at TEXT NOT NULL,
    kept INTEGER NOT NULL
) STRICT;
CREATE INDEX manifests_by_name ON manifests (name, team, version);
CREATE INDEX manifests_by_content ON manifests (content);
CREATE TABLE held (
    path BLOB NOT NULL PRIMARY KEY,
    team TEXT NOT NULL,
    name TEXT NOT NULL,
    manifests BLOB NOT NULL,
    file TEXT NOT NULL
) STRICT;
CREATE INDEX held_by_name ON held (name, team);
CREATE TABLE made (
    path BLOB NOT NULL PRIMARY KEY,
    disk BLOB,
    file TEXT NOT NULL,
    at REAL NOT NULL,
    content BLOB NOT NULL,
    sources BLOB NOT NULL
) STRICT;
CREATE TABLE doubts (
    path BLOB NOT NULL,
    file TEXT,
    content BLOB NOT NULL,
    text TEXT NOT NULL,
    at TEXT NOT NULL,
    PRIMARY KEY (path, content)
) STRICT;
CREATE TABLE holders (
    content BLOB NOT NULL,
    node BLOB NOT NULL,
    label TEXT NOT NULL,
    seen_at TEXT NOT NULL,
    PRIMARY KEY (content, node)
) STRICT;
CREATE TABLE copies (
    tag TEXT NOT NULL,
    head BLOB NOT NULL,
    counter INTEGER NOT NULL,
    holder BLOB NOT NULL,
    label TEXT NOT NULL,
    host BLOB NOT NULL,
    seen_at TEXT NOT NULL,
    proven_at TEXT NOT NULL,
    problem TEXT NOT NULL,
    PRIMARY KEY (tag, head, holder)
) STRICT;
CREATE TABLE members (
    team BLOB NOT NULL,
    node BLOB NOT NULL,
    label TEXT NOT NULL,
    seen_at TEXT NOT NULL,
    things TEXT NOT NULL,
    PRIMARY KEY (team, node)
) STRICT;
CREATE TABLE pins (
    team TEXT NOT NULL,
    name TEXT NOT NULL,
    publisher BLOB NOT NULL,
    since TEXT NOT NULL,
    explicit INTEGER NOT NULL,
    label TEXT NOT NULL,
    PRIMARY KEY (team, name)
) STRICT;
CREATE TABLE trusted (
    publisher BLOB NOT NULL PRIMARY KEY,
    since TEXT NOT NULL,
    label TEXT NOT NULL
) STRICT;
CREATE TABLE faults (kind TEXT NOT NULL PRIMARY KEY, count INTEGER NOT NULL, last_at TEXT NOT NULL) STRICT;
CREATE TABLE distrusted (
    publisher BLOB NOT NULL PRIMARY KEY,
    since TEXT NOT NULL,
    label TEXT NOT NULL
) STRICT;
"""
SCHEMA_VERSION = 10
"""Stored as SQLite's user_version; 0 is a file without tables."""


class CatalogError(OverlaysyncError):
    """The catalog is damaged, or of a version that this program does not know."""


class _Owner:
    """Owns the connection of one thread, and closes it when the thread is gone.

    A connection alone would wait for the cycle collector: it refers to itself through its statement cache.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def __del__(self) -> None:
        self.connection.close()


class Database:
    """An open database; ``close`` ends the connections of all threads."""

    def __init__(self, path: Path, *, journal_mode: str) -> None:
        self.path = path
        self._journal_mode = journal_mode
        self._local = threading.local()
        self._lock = threading.Lock()
        self._owners: weakref.WeakSet[_Owner] = weakref.WeakSet()
        self._closed = False

    @classmethod
    def open(cls, path: Path, *, network: bool = False) -> Database:
        """Open the database at ``path``, or make it; ``network``: it is on a network file system.

        Raises:
            CatalogError: damaged, or written by a newer overlaysync.
            NotAllowedError: not readable or writable.
        """
        database = cls(path, journal_mode="delete" if network else "wal")
        try:
            with _opening(path):
                database._prepare()
        except OSError as error:
            raise translate(
                error, f"Cannot open the catalog {path}", hint=f"look at: ls -l '{path.parent}'"
            ) from error
        except BaseException:
            database.close()
            raise
        return database

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection to read with; every statement sees one state of the database."""
        try:
            yield self._connection()
        except sqlite3.DatabaseError as error:
            raise self._translate(error) from error
        except UnicodeDecodeError as error:  # in SQLite's own message, which quotes the file
            raise self.damaged(str(error)) from error

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """Do all of the block in a transaction, durably, or nothing. Waits up to 10 s for another writer.

        Raises:
            InUseError: the other writer did not end.
            NoSpaceError: the disk is full.
        """
        with self.read() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                # Some errors make SQLite roll back by itself; the first error is the one to show.
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise

    def damaged(self, why: str) -> CatalogError:
        """Return the error for a database that cannot be used any more."""
        path, aside = shlex.quote(str(self.path)), shlex.quote(f"{self.path}.damaged")
        return CatalogError(
            f"The catalog {self.path} is damaged",
            why=why,
            hint="stop overlaysync and move the catalog away; no image is lost, only cached hashes and known "
            f"manifests: mv {path} {aside}; rm -f {path}-wal {path}-shm",
        )

    def close(self) -> None:
        """End all connections; no thread may be using one."""
        with self._lock:
            self._closed = True
            owners = list(self._owners)
        for owner in owners:
            owner.connection.close()

    def _connection(self) -> sqlite3.Connection:
        if self._closed:
            raise ValueError("the database is closed")
        owner: _Owner | None = getattr(self._local, "owner", None)
        if owner is None:
            owner = self._connect()
            with self._lock:
                self._owners.add(owner)
            self._local.owner = owner
        return owner.connection

    def _connect(self) -> _Owner:
        owner = _Owner(
            sqlite3.connect(
                self.path,
                timeout=BUSY_TIMEOUT_S,
                isolation_level=None,
                check_same_thread=False,  # only for close(); all other use stays in its thread
            )
        )
        owner.connection.execute("PRAGMA synchronous = FULL")
        return owner

    def _prepare(self) -> None:
        """Set the journal mode, and make the tables in a new file."""
        with self.read() as connection:
            (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
            if mode != self._journal_mode:
                # Busy when a home in use comes to lie on another kind of file system: the old mode stays.
                with contextlib.suppress(sqlite3.OperationalError):
                    connection.execute(f"PRAGMA journal_mode = {self._journal_mode}")
        with self.read() as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            with self.write() as connection:
                for statement in _SCHEMA.split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        elif version != SCHEMA_VERSION:
            raise CatalogError(
                f"The catalog {self.path} has version {version}, this overlaysync knows {SCHEMA_VERSION}",
                hint="use the overlaysync that made it, or another OVERLAYSYNC_HOME",
            )

    def _translate(self, error: sqlite3.DatabaseError) -> OverlaysyncError:
        if isinstance(error, sqlite3.ProgrammingError | sqlite3.IntegrityError):
            raise error  # ours, not the file's
        # No code: Python could not decode what the file holds.
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        what = f"Cannot use the catalog {self.path}"
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return InUseError(
                what,
                why=f"another overlaysync has been writing it for {BUSY_TIMEOUT_S:.0f} s",
                hint="try again",
            )
        if code == sqlite3.SQLITE_FULL:
            return NoSpaceError(
                what, why=str(error), hint="free some space on the disk of your home directory"
            )
        unexplained = code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
        if unexplained and (full := _fullness(self.path.parent)):
            return translate(full, what)
        if code in (
            sqlite3.SQLITE_READONLY,
            sqlite3.SQLITE_CANTOPEN,
            sqlite3.SQLITE_PERM,
            sqlite3.SQLITE_AUTH,
        ):
            return NotAllowedError(what, why=str(error), hint=f"look at: ls -l {self.path.parent}")
        if code == sqlite3.SQLITE_IOERR:
            return OverlaysyncError(what, why=str(error), hint="the disk may be failing: look at 'dmesg'")
        return self.damaged(str(error))


def _fullness(directory: Path) -> OSError | None:
    """Return what writing there fails with, if the disk or a quota is full: SQLite does not always say."""
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            os.ftruncate(file.fileno(), _SAMPLE)
            os.pwrite(file.fileno(), bytes(_SAMPLE), 0)
            os.fdatasync(file.fileno())
    except OSError as error:
        return error if error.errno in (errno.ENOSPC, errno.EDQUOT) else None
    return None


@contextmanager
def _opening(path: Path) -> Iterator[None]:
    """One process at a time opens the database: changing its journal mode does not wait for others.

    The lock is a file of its own. SQLite's locks are lost when *any* descriptor of the database is closed in
    the process, so the file itself is touched only when it is new.
    """
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        yield
    finally:
        os.close(lock)
