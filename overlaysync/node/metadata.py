"""Gets the page list of a content, and its pages, from any peer into the catalog.

The sizes that the publisher has signed are checked here, before any space is reserved for the image: the list
against the header, and the sum of the pages against its ``data_size``. A manifest that does not match its
content leaves nothing behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import suppress

from overlaysync.errors import DecodeError, OverlaysyncError, VerificationError
from overlaysync.model.digest import Kind, kinds_of
from overlaysync.model.manifest import Header
from overlaysync.model.names import printable
from overlaysync.model.pages import LoadPage, PageList, page_length
from overlaysync.net.client import Client
from overlaysync.net.messages import Endpoint
from overlaysync.node.any_source import AnySource
from overlaysync.store.pagestore import PageStore
from overlaysync.trust.envelope import Manifest
from overlaysync.units import PAGE_UNITS, ceil_div

_PAGES_AT_ONCE = 6
_PAGES_KEPT = 64
"""Pages written to the catalog at a time."""


class Metadata:
    """Asks for page lists and pages.

    Args:
        client: asks.
        sources: those who have them.
        store: keeps them.
    """

    def __init__(self, client: Client, sources: AnySource, store: PageStore) -> None:
        self._client = client
        self._sources = sources
        self._store = store

    async def fetch(self, header: Header) -> tuple[PageList, int]:
        """Return the list of the header's content, kept with all its pages; and how many bytes came for that.

        Raises:
            NotFoundError, NetworkError: nobody gives it.
            VerificationError: nobody gives a usable one, or the header does not match its content.
        """
        pages = await self._sources.ask(header.content_id, self._list, team=header.team)
        check_list(header, pages)
        kept: set[bytes] = set()
        try:
            received = len(pages.encode()) + await self._pages(header, pages, kept)
            await asyncio.to_thread(self._store.keep_list, pages)
        except OverlaysyncError:
            with suppress(OverlaysyncError):  # the first error is the one to show
                await asyncio.to_thread(self._store.forget_unlisted, kept)
            raise
        return pages, received

    async def _list(self, address: Endpoint, manifest: Manifest) -> PageList:
        """Return the list as one peer has it, asked for as that peer describes it.

        Checked by its id alone.
        """
        header = manifest.header
        pages = PageList.decode(await self._client.page_list(address, manifest.id, header.list_size))
        if pages.id != header.content_id:
            raise DecodeError("a page list that is not the manifest's")
        return pages

    async def _pages(self, header: Header, pages: PageList, kept: set[bytes]) -> int:
        """Fetch those that are not here; returns how many bytes they had on the wire.

        Args:
            header: says what they add up to.
            pages: their list.
            kept: gets the digests of those that are kept now and were not here before.
        """
        sum_of = DataSum(header, pages)
        present = await asyncio.to_thread(self._store.has_pages, pages.digests)
        missing = [digest for digest in dict.fromkeys(pages.digests) if digest not in present]
        await asyncio.to_thread(self._add_present, sum_of, present)
        received = 0
        for at in range(0, len(missing), _PAGES_KEPT):
            bodies: dict[bytes, bytes] = {}
            wanted = iter(missing[at : at + _PAGES_KEPT])
            received += sum(
                await asyncio.gather(*(self._some(header, wanted, bodies) for _ in range(_PAGES_AT_ONCE)))
            )
            await asyncio.to_thread(sum_of.add, bodies)
            kept.update(bodies)
            await asyncio.to_thread(self._store.keep_pages, bodies)
        sum_of.check()
        return received

    def _add_present(self, sum_of: DataSum, digests: set[bytes]) -> None:
        for digest in digests:
            sum_of.add({digest: self._store.load_page(digest)})

    async def _some(self, header: Header, wanted: Iterator[bytes], bodies: dict[bytes, bytes]) -> int:
        """Fetch pages into ``bodies``; returns how many bytes they had on the wire."""
        total = 0
        for digest in wanted:

            async def ask(address: Endpoint, manifest: Manifest, digest: bytes = digest) -> tuple[bytes, int]:
                return await self._client.page(address, manifest.id, digest)

            bodies[digest], received = await self._sources.ask(header.content_id, ask, team=header.team)
            total += received
        return total


def check_list(header: Header, pages: PageList) -> None:
    """Check what the header says of its page list.

    Raises:
        VerificationError: it is another, or has no room for so many data.
    """
    said = (header.virtual_size, header.unit, header.parent_id, header.list_size)
    if said != (pages.virtual_size, pages.unit, pages.parent, len(pages.encode())):
        raise _lie(header)
    room = sum(page_length(pages.unit_count, index) for index in pages.indices) * pages.unit
    if header.data_size > room:
        raise _lie(header)


def check_pages(header: Header, load: LoadPage, pages: PageList) -> None:
    """Check what the header says of its page list, all pages of which can be loaded.

    Raises:
        VerificationError: it is another, or the pages add up to something else.
    """
    check_list(header, pages)
    sum_of = DataSum(header, pages)
    for digest in dict.fromkeys(pages.digests):
        sum_of.add({digest: load(digest)})
    sum_of.check()


class DataSum:
    """What the pages of a list add up to, as they come; never more than their header says.

    Args:
        header: says how much it is.
        pages: the list.
    """

    def __init__(self, header: Header, pages: PageList) -> None:
        self._header = header
        self._pages = pages
        self._final = ceil_div(pages.unit_count, PAGE_UNITS) - 1
        self._places: dict[bytes, list[int]] = {}
        for index, digest in zip(pages.indices, pages.digests, strict=True):
            self._places.setdefault(digest, []).append(index)
        self._size = 0

    def add(self, bodies: Mapping[bytes, bytes]) -> None:
        """Add pages, each at all its places.

        Raises:
            VerificationError: one is not in canonical form, or there are more data than the header says.
        """
        for digest, body in bodies.items():
            # All places but the end of the list are alike.
            alike = [index for index in self._places[digest] if index != self._final]
            if alike:
                self._size += len(alike) * self._measure(alike[0], body)
            if len(alike) < len(self._places[digest]):
                self._size += self._measure(self._final, body)
            if self._size > self._header.data_size:
                raise _lie(self._header)

    def check(self) -> None:
        """Check the sum of all pages.

        Raises:
            VerificationError: there are fewer data than the header says.
        """
        if self._size != self._header.data_size:
            raise _lie(self._header)

    def _measure(self, index: int, body: bytes) -> int:
        """Bytes of the DATA units of a page."""
        try:
            is_data = kinds_of(self._pages.check_page(index, body)) == Kind.DATA
        except DecodeError as error:
            raise _wrong(self._header, str(error)) from None
        size = int(is_data.sum()) * self._pages.unit
        if index == self._final and is_data[-1]:
            size -= self._pages.unit - self._pages.unit_length(self._pages.unit_count - 1)
        return size


def _lie(header: Header) -> VerificationError:
    return _wrong(header, "its manifest does not match its content")


def _wrong(header: Header, why: str) -> VerificationError:
    by = printable(header.by) or "its publisher"
    return VerificationError(f"Cannot fetch '{header.name}'", why=why, hint=f"ask {by} to share it again")
