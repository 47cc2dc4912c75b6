"""The database: durability settings, several threads and processes, damage."""

import errno
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from overlaysync.errors import InUseError, NoSpaceError, NotAllowedError, OverlaysyncError
from overlaysync.store import database as database_module
from overlaysync.store.database import SCHEMA_VERSION, CatalogError, Database


@pytest.fixture
def path(tmp_path):
    return tmp_path / "catalog.sqlite"


def pragma(database, name):
    with database.read() as connection:
        return connection.execute(f"PRAGMA {name}").fetchone()[0]


def put(database, number):
    with database.write() as connection:
        connection.execute(
            "INSERT INTO pages (digest, body) VALUES (?, ?)", (number.to_bytes(4, "big"), b"body")
        )


def count(database):
    with database.read() as connection:
        return connection.execute("SELECT count(*) FROM pages").fetchone()[0]


@pytest.mark.parametrize(("network", "mode"), [(False, "wal"), (True, "delete")])
def test_journal_mode_follows_the_file_system(path, network, mode):
    database = Database.open(path, network=network)
    assert pragma(database, "journal_mode") == mode
    assert pragma(database, "synchronous") == 2
    assert pragma(database, "busy_timeout") == 10_000
    database.close()


def test_a_catalog_moved_to_a_network_home_leaves_wal(path):
    Database.open(path).close()
    database = Database.open(path, network=True)
    assert pragma(database, "journal_mode") == "delete"
    database.close()


def test_only_the_owner_may_read(path):
    database = Database.open(path)
    put(database, 1)
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    database.close()


def test_what_was_written_is_there_after_reopening(path):
    database = Database.open(path)
    put(database, 1)
    database.close()
    database = Database.open(path)
    assert count(database) == 1
    database.close()


def test_a_block_that_fails_leaves_nothing(path):
    database = Database.open(path)
    with pytest.raises(KeyError), database.write() as connection:
        connection.execute("INSERT INTO pages (digest, body) VALUES (x'00', x'00')")
        raise KeyError
    assert count(database) == 0
    put(database, 1)  # and the connection is usable
    database.close()


@pytest.mark.slow
def test_many_threads_share_one_database(path):
    database = Database.open(path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: put(database, number), range(200)))
    assert count(database) == 200
    database.close()


def test_connections_end_with_their_threads(path):
    database = Database.open(path)
    before = len(os.listdir("/proc/self/fd"))
    for number in range(20):
        thread = threading.Thread(target=put, args=(database, number))
        thread.start()
        thread.join()
    # SQLite keeps the descriptors of a few closed connections for the next one.
    assert len(os.listdir("/proc/self/fd")) <= before + 4
    database.close()


def test_a_closed_database_is_refused_in_every_thread(path):
    database = Database.open(path)
    database.close()
    with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="closed"):
        pool.submit(count, database).result()


WRITER = """
import sys
from pathlib import Path
from overlaysync.store.database import Database
database = Database.open(Path(sys.argv[1]), network=sys.argv[3] == "network")
for number in range(100):
    with database.write() as connection:
        key = f"{sys.argv[2]}-{number}".encode()
        connection.execute("INSERT INTO pages (digest, body) VALUES (?, ?)", (key, bytes(100)))
database.close()
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["local", "network"])
def test_processes_that_start_together_share_a_new_home(path, where):
    command = [sys.executable, "-c", WRITER, str(path)]
    writers = [subprocess.Popen([*command, str(number), where]) for number in range(6)]
    assert [writer.wait() for writer in writers] == [0] * 6
    database = Database.open(path, network=where == "network")
    assert count(database) == 600
    database.close()


def test_a_writer_that_does_not_end_is_named(path, monkeypatch):
    monkeypatch.setattr(database_module, "BUSY_TIMEOUT_S", 0.05)
    one, two = Database.open(path), Database.open(path)
    with one.write(), pytest.raises(InUseError, match="another overlaysync"):
        put(two, 1)
    put(two, 1)
    one.close()
    two.close()


def test_readers_do_not_wait_for_a_writer(path):
    one, two = Database.open(path), Database.open(path)
    with one.write() as connection:
        connection.execute("INSERT INTO pages (digest, body) VALUES (x'00', x'00')")
        assert count(two) == 0
    assert count(two) == 1
    one.close()
    two.close()


@pytest.mark.parametrize("version", [1, SCHEMA_VERSION - 1, SCHEMA_VERSION + 1, 99])
def test_another_schema_is_refused_and_left_alone(path, version):
    Database.open(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(CatalogError, match=f"version {version}") as caught:
        Database.open(path)
    assert "OVERLAYSYNC_HOME" in caught.value.hint
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_refused(path):
    path.write_bytes(b"not a database, but long enough to be taken for one" * 100)
    with pytest.raises(CatalogError, match="is damaged") as caught:
        Database.open(path)
    assert f"mv {path} {path}.damaged" in caught.value.hint


def test_the_advice_works(path):
    path.write_bytes(os.urandom(8192))
    with pytest.raises(CatalogError) as caught:
        Database.open(path)
    advice = caught.value.hint.partition("manifests: ")[2]
    subprocess.run(["sh", "-ec", advice], check=True)
    database = Database.open(path)
    put(database, 1)
    database.close()


@pytest.mark.slow
def test_a_truncated_file_is_damage(path):
    database = Database.open(path)
    for number in range(300):
        put(database, number)
    database.close()
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(CatalogError, match="is damaged"):
        database = Database.open(path)
        with database.read() as connection:
            connection.execute("SELECT digest, body FROM pages ORDER BY digest").fetchall()


def test_missing_tables_are_damage(path):
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    connection.close()
    database = Database.open(path)
    with pytest.raises(CatalogError, match="is damaged"):
        count(database)
    database.close()


def test_a_catalog_that_is_a_directory_is_a_clear_error(path):
    path.mkdir()
    with pytest.raises(NotAllowedError, match="Cannot use the catalog"):
        Database.open(path)


def test_a_full_disk_is_said_where_sqlite_does_not(path, monkeypatch):
    """It can say no more than "disk I/O error" when there is no room for its shared memory."""
    database = Database.open(path)
    unsure = sqlite3.OperationalError("disk I/O error")
    unsure.sqlite_errorcode = sqlite3.SQLITE_IOERR
    with pytest.raises(OverlaysyncError, match="disk I/O error"), database.read():
        raise unsure

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(NoSpaceError), database.read():
        raise unsure
    database.close()
