"""Pages on their way into the catalog while an image is hashed."""

from __future__ import annotations

from overlaysync.store.catalog import Catalog

_KEEP_PAGES = 64


class PageKeeper:
    """Keeps pages in the catalog, many to a transaction."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._pages: dict[bytes, bytes] = {}
        self._like: dict[bytes, bytes] = {}

    def keep(self, digest: bytes, body: bytes, like: bytes | None = None) -> None:
        """Keep a page; ``like`` is the digest of one that is here, and that it differs little from."""
        self._pages[digest] = body
        if like is not None:
            self._like[digest] = like
        if len(self._pages) >= _KEEP_PAGES:
            self.flush()

    def flush(self) -> None:
        if self._pages:
            self._catalog.pages.keep_pages(self._pages, self._like)
            self._pages, self._like = {}, {}
