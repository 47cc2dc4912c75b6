"""Page bodies and page lists, by digest and by id.

A list is kept only when all its pages are (referenced before referrer). Who keeps a page has checked it.
A body is stored as one zstd frame: pages that are mostly markers come over the wire in a few bytes, and must
not take a thousand times as much here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from overlaysync.errors import DecodeError, NotFoundError
from overlaysync.model.digest import format_id
from overlaysync.model.pages import PAGE_SIZE, PageList
from overlaysync.store.database import Database

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_LEVEL = 1
"""Of zstd: a page of random digests does not shrink at any level, one of markers does at each."""

_BATCH = 500
"""Digests in one query; SQLite's limit for parameters is 999 in old versions."""


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
            row = connection.execute("SELECT body FROM pages WHERE digest = ?", (digest,)).fetchone()
        if row is None:
            raise NotFoundError(f"The page {format_id(digest)} is not here")
        try:
            return _unpack(row[0])
        except (zstd.ZstdError, ValueError, TypeError) as error:
            raise self._database.damaged(f"the page {format_id(digest)} has changed") from error

    def keep_pages(self, pages: Mapping[bytes, bytes]) -> None:
        """Keep page bodies (at most 32 KiB each) by digest, in one transaction.

        Raises:
            DecodeError: a body is too long.
        """
        for digest, body in pages.items():
            if len(body) > PAGE_SIZE:
                raise DecodeError(f"the page {format_id(digest)} has {len(body)} bytes")
        rows = [(digest, zstd.compress(body, _LEVEL)) for digest, body in pages.items()]
        with self._database.write() as connection:
            connection.executemany("INSERT OR IGNORE INTO pages VALUES (?, ?)", rows)

    def forget_unlisted(self, digests: Iterable[bytes]) -> None:
        """Remove those of these pages that are in no list here."""
        unlisted = set(digests)
        if not unlisted:
            return
        with self._database.write() as connection:
            for (body,) in connection.execute("SELECT body FROM lists"):
                try:
                    unlisted.difference_update(PageList.decode(body).digests)
                except DecodeError as error:
                    raise self._database.damaged(str(error)) from error
            rows = [(digest,) for digest in unlisted]
            connection.executemany("DELETE FROM pages WHERE digest = ?", rows)

    def has_pages(self, digests: Iterable[bytes]) -> set[bytes]:
        """Those of ``digests`` whose pages are here."""
        found: set[bytes] = set()
        with self._database.read() as connection:
            for batch in _batches(digests):
                marks = ",".join("?" * len(batch))
                rows = connection.execute(f"SELECT digest FROM pages WHERE digest IN ({marks})", batch)
                found.update(digest for (digest,) in rows)
        return found

    def keep_list(self, pages: PageList) -> None:
        """Keep a page list whose pages are all here.

        Raises:
            NotFoundError: a page is missing.
        """
        missing = set(pages.digests) - self.has_pages(pages.digests)
        if missing:
            raise NotFoundError(f"{len(missing)} pages of {format_id(pages.id)} are not here")
        with self._database.write() as connection:
            row = (pages.id, pages.shape, pages.encode())
            connection.execute("INSERT OR IGNORE INTO lists VALUES (?, ?, ?)", row)

    def load_list(self, content: bytes) -> PageList | None:
        """Return the page list with the id ``content``.

        Raises:
            CatalogError: what is stored under that id is another list, or none.
        """
        with self._database.read() as connection:
            row = connection.execute("SELECT body FROM lists WHERE id = ?", (content,)).fetchone()
        if row is None:
            return None
        try:
            pages = PageList.decode(row[0])
        except DecodeError as error:
            raise self._database.damaged(str(error)) from error
        if pages.id != content:
            raise self._database.damaged(f"the page list {format_id(content)} has changed")
        return pages

    def lists_of_shape(self, shape: bytes) -> list[PageList]:
        """Return the kept page lists that differ in nothing but the parent they stand on."""
        with self._database.read() as connection:
            rows = connection.execute("SELECT id FROM lists WHERE shape = ? ORDER BY id", (shape,)).fetchall()
        return [pages for (id,) in rows if (pages := self.load_list(id)) is not None]


def _unpack(frame: bytes) -> bytes:
    """Return the page in a frame that was stored."""
    size = zstd.get_frame_info(frame).decompressed_size
    if not 0 <= size <= PAGE_SIZE:
        raise ValueError("too long for a page")
    body: bytes = zstd.decompress(frame)
    return body


def _batches(items: Iterable[bytes]) -> Iterator[list[bytes]]:
    iterator = iter(items)
    while batch := list(islice(iterator, _BATCH)):
        yield batch
