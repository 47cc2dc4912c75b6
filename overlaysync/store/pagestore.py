"""Page bodies and page lists, by digest and by id.

A list is kept only when all its pages are (referenced before referrer). Who keeps a page has checked it.
Bodies are stored as zstd frames: pages that are mostly markers come over the wire in a few bytes, and must
not take a thousand times as much here. What resembles something that is here already, as an overlay's disk
does its master's, is stored as what differs from that, its base. A base has none itself.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from types import MappingProxyType

from overlaysync.errors import DecodeError, NotFoundError
from overlaysync.model.digest import format_id
from overlaysync.model.pages import MAX_LIST_SIZE, PAGE_SIZE, PageList
from overlaysync.store.database import Database
from overlaysync.store.frames import pack, unpack

_BATCH = 500
"""Digests in one query; SQLite's limit for parameters is 999 in old versions."""

_ALONE: Mapping[bytes, bytes] = MappingProxyType({})
_STORED = "SELECT own.base, base.body, own.body FROM {0} AS own LEFT JOIN {0} AS base ON base.{1} = own.base"
_PAGES = _STORED.format("pages", "digest")
_LISTS = _STORED.format("lists", "id")
_BASE = "SELECT {1}, body FROM {0} WHERE {1} = coalesce((SELECT base FROM {0} WHERE {1} = ?1), ?1)"
_PAGE_BASE = _BASE.format("pages", "digest")
_LIST_BASE = _BASE.format("lists", "id")


class PageStore:
    """The pages in ``database``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def load_page(self, digest: bytes) -> bytes:
        """Return the body of a page.

        Raises:
            NotFoundError: it is not here.
            CatalogError: what is stored is no page.
        """
        with self._database.read() as connection:
            row = connection.execute(f"{_PAGES} WHERE own.digest = ?", (digest,)).fetchone()
        if row is None:
            raise NotFoundError(f"The page {format_id(digest)} is not here")
        try:
            return _body(row, PAGE_SIZE)
        except ValueError as error:
            raise self._database.damaged(f"the page {format_id(digest)} has changed") from error

    def keep_pages(self, pages: Mapping[bytes, bytes], like: Mapping[bytes, bytes] = _ALONE) -> None:
        """Keep page bodies (at most 32 KiB each) by digest, in one transaction.

        Args:
            pages: bodies by digest.
            like: to digests of them, those of pages that they differ little from.

        Raises:
            DecodeError: a body is too long.
        """
        for digest, body in pages.items():
            if len(body) > PAGE_SIZE:
                raise DecodeError(f"the page {format_id(digest)} has {len(body)} bytes")
        with self._database.write() as connection:
            for digest, body in pages.items():
                base, beside = self._base(connection, _PAGE_BASE, like.get(digest), PAGE_SIZE)
                if base != digest:
                    row = (digest, base, pack(body, beside))
                    connection.execute("INSERT OR IGNORE INTO pages VALUES (?, ?, ?)", row)

    def forget_unlisted(self, digests: Iterable[bytes]) -> None:
        """Remove those of these pages that no list here needs."""
        unlisted = set(digests)
        if unlisted:
            with self._database.write() as connection:
                remove_unlisted(self._database, connection, unlisted)

    def has_pages(self, digests: Iterable[bytes]) -> set[bytes]:
        """Those of ``digests`` whose pages are here."""
        found: set[bytes] = set()
        with self._database.read() as connection:
            for batch in _batches(digests):
                marks = ",".join("?" * len(batch))
                rows = connection.execute(f"SELECT digest FROM pages WHERE digest IN ({marks})", batch)
                found.update(digest for (digest,) in rows)
        return found

    def keep_list(self, pages: PageList, like: bytes | None = None) -> None:
        """Keep a page list whose pages are all here; ``like`` is the id of one that it differs little from.

        Raises:
            NotFoundError: a page is missing.
        """
        missing = set(pages.digests) - self.has_pages(pages.digests)
        if missing:
            raise NotFoundError(f"{len(missing)} pages of {format_id(pages.id)} are not here")
        with self._database.write() as connection:
            base, beside = self._base(connection, _LIST_BASE, like, MAX_LIST_SIZE)
            if base != pages.id:
                row = (pages.id, pages.shape, base, pack(pages.encode(), beside))
                connection.execute("INSERT OR IGNORE INTO lists VALUES (?, ?, ?, ?)", row)

    def load_list(self, content: bytes) -> PageList | None:
        """Return the page list with the id ``content``.

        Raises:
            CatalogError: what is stored under that id is another list, or none.
        """
        with self._database.read() as connection:
            row = connection.execute(f"{_LISTS} WHERE own.id = ?", (content,)).fetchone()
        if row is None:
            return None
        pages = _list_in(self._database, row)
        if pages.id != content:
            raise self._database.damaged(f"the page list {format_id(content)} has changed")
        return pages

    def lists_of_shape(self, shape: bytes) -> list[PageList]:
        """Return the kept page lists that differ in nothing but the parent they stand on."""
        with self._database.read() as connection:
            rows = connection.execute("SELECT id FROM lists WHERE shape = ? ORDER BY id", (shape,)).fetchall()
        return [pages for (id,) in rows if (pages := self.load_list(id)) is not None]

    def _base(
        self, connection: sqlite3.Connection, query: str, like: bytes | None, limit: int
    ) -> tuple[bytes | None, bytes]:
        """Return what resembles ``like``, that itself or its base, with its body; or nothing of both."""
        if like is None:
            return None, b""
        row = connection.execute(query, (like,)).fetchone()
        if row is None:
            return None, b""
        try:
            return row[0], unpack(row[1], limit)
        except ValueError as error:
            raise self._database.damaged(f"{format_id(row[0])} has changed") from error


def present_in(connection: sqlite3.Connection) -> set[bytes]:
    """Return the digests of all pages."""
    return {digest for (digest,) in connection.execute("SELECT digest FROM pages")}


def remove_unlisted(database: Database, connection: sqlite3.Connection, digests: set[bytes]) -> None:
    """Remove those of these pages that are in no list, and that none of those is stored beside.

    Raises:
        CatalogError: a page list is damaged.
    """
    listed: set[bytes] = set()
    for row in connection.execute(_LISTS):
        listed.update(_list_in(database, row).digests)
    bases = connection.execute("SELECT base, digest FROM pages WHERE base IS NOT NULL")
    needed = listed | {base for base, digest in bases if digest in listed or digest not in digests}
    connection.executemany("DELETE FROM pages WHERE digest = ?", [(digest,) for digest in digests - needed])


def _list_in(database: Database, row: tuple[bytes | None, bytes | None, bytes]) -> PageList:
    try:
        return PageList.decode(_body(row, MAX_LIST_SIZE))
    except (DecodeError, ValueError) as error:
        raise database.damaged(str(error)) from error


def _body(row: tuple[bytes | None, bytes | None, bytes], limit: int) -> bytes:
    """Return the bytes that a row of :data:`_STORED` stands for.

    Raises:
        ValueError: it has changed.
    """
    base, beside, frame = row
    if base is None:
        return unpack(frame, limit)
    if beside is None:
        raise ValueError("what it is stored beside is missing")
    return unpack(frame, limit, unpack(beside, limit))


def _batches(items: Iterable[bytes]) -> Iterator[list[bytes]]:
    iterator = iter(items)
    while batch := list(islice(iterator, _BATCH)):
        yield batch
