"""The page list of a content and its pages, from anyone who has them, into the catalog."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from overlaysync.errors import DecodeError
from overlaysync.model.manifest import Header
from overlaysync.model.pages import PageList
from overlaysync.net.client import Client
from overlaysync.net.messages import Endpoint
from overlaysync.node.asking import Anyone
from overlaysync.store.pagestore import PageStore
from overlaysync.trust.envelope import Manifest

_PAGES_AT_ONCE = 6
_PAGES_KEPT = 64
"""Pages written to the catalog at a time."""


class Describing:
    """Asks for page lists and pages.

    Args:
        client: asks.
        anyone: those who have them.
        store: keeps them.
    """

    def __init__(self, client: Client, anyone: Anyone, store: PageStore) -> None:
        self._client = client
        self._anyone = anyone
        self._store = store

    async def fetch(self, header: Header) -> tuple[PageList, int]:
        """The list of the header's content, kept with all its pages; and how many bytes came for that.

        Raises:
            NotFoundError, VerificationError, NetworkError: nobody gives it.
        """
        pages = await self._anyone.ask(header.content_id, self._list, team=header.team)
        received = len(pages.encode()) + await self._pages(header, pages)
        await asyncio.to_thread(self._store.keep_list, pages)
        return pages, received

    async def _list(self, address: Endpoint, manifest: Manifest) -> PageList:
        """The list as one peer has it, asked for as that peer describes it; checked by its id alone."""
        header = manifest.header
        pages = PageList.decode(await self._client.page_list(address, manifest.id, header.list_size))
        if pages.id != header.content_id:
            raise DecodeError("a page list that is not the manifest's")
        return pages

    async def _pages(self, header: Header, pages: PageList) -> int:
        """Fetch those that are not here; returns how many bytes they had on the wire."""
        present = await asyncio.to_thread(self._store.has_pages, pages.digests)
        missing = [digest for digest in dict.fromkeys(pages.digests) if digest not in present]
        received = 0
        for at in range(0, len(missing), _PAGES_KEPT):
            bodies: dict[bytes, bytes] = {}
            wanted = iter(missing[at : at + _PAGES_KEPT])
            received += sum(
                await asyncio.gather(*(self._some(header, wanted, bodies) for _ in range(_PAGES_AT_ONCE)))
            )
            await asyncio.to_thread(self._store.keep_pages, bodies)
        return received

    async def _some(self, header: Header, wanted: Iterator[bytes], bodies: dict[bytes, bytes]) -> int:
        """Fetch pages into ``bodies``; returns how many bytes they had on the wire."""
        total = 0
        for digest in wanted:

            async def ask(address: Endpoint, manifest: Manifest, digest: bytes = digest) -> tuple[bytes, int]:
                return await self._client.page(address, manifest.id, digest)

            bodies[digest], received = await self._anyone.ask(header.content_id, ask, team=header.team)
            total += received
        return total
