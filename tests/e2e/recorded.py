"""A peer made by the test: repeats what an honest share said, counts it, and lies when told to.

It does not announce itself, so a fetch that names it and nobody else depends on it alone, and the share that
was recorded need not run any more.
"""

from __future__ import annotations

import asyncio
import threading
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self, TypeAlias

from aiohttp import web

from overlaysync.model.datamap import DataMap
from overlaysync.model.pages import PageList
from overlaysync.net.bounds import MAX_SLOTS
from overlaysync.net.messages import (
    CatalogMessage,
    decode_catalog,
    decode_slots,
    encode_catalog,
    encode_peers,
    encode_slots,
)
from overlaysync.trust.envelope import Manifest, open_envelope

Answer: TypeAlias = Callable[[web.Request, str, bytes], Awaitable[web.StreamResponse]]
"""Answers a request, given what it is for (``catalog``, ``peers``, ``list``, ``page``, ``data``), and the
honest body."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """One manifest, and all that belongs to it."""

    manifest: Manifest
    page_list: bytes
    pages: dict[str, bytes]
    data: bytes

    @property
    def map(self) -> DataMap:
        bodies = {bytes.fromhex(digest): body for digest, body in self.pages.items()}
        return DataMap(PageList.decode(self.page_list), bodies.__getitem__)


@dataclass(frozen=True, slots=True)
class Recording:
    """Everything a share serves."""

    catalog: CatalogMessage
    manifests: dict[str, Recorded]

    def only(self, name: str) -> Recording:
        """Without what has another name."""
        kept = {
            id: recorded for id, recorded in self.manifests.items() if recorded.manifest.header.name == name
        }
        envelopes = tuple(recorded.manifest.envelope for recorded in kept.values())
        return Recording(replace(self.catalog, envelopes=envelopes), kept)

    def named(self, name: str) -> Recorded:
        """What has that name."""
        (recorded,) = self.only(name).manifests.values()
        return recorded


def record(port: int, host: str = "127.0.0.1") -> Recording:
    """Ask the share at ``port`` for everything it has."""

    def get(path: str) -> bytes:
        with urllib.request.urlopen(f"http://{host}:{port}/v1/{path}", timeout=20) as answer:
            body: bytes = answer.read()
        return body

    catalog = decode_catalog(get("catalog"))
    manifests = {}
    for manifest in map(open_envelope, catalog.envelopes):
        path = f"manifests/{manifest.id.hex()}"
        page_list = get(f"{path}/pages")
        pages = {
            digest.hex(): get(f"{path}/pages/{digest.hex()}") for digest in PageList.decode(page_list).digests
        }
        recorded = Recorded(manifest, page_list, pages, b"")
        data = b"".join(
            get(f"{path}/data?slots={encode_slots([(first, min(MAX_SLOTS, recorded.map.count - first))])}")
            for first in range(0, recorded.map.count, MAX_SLOTS)
        )
        manifests[manifest.id.hex()] = replace(recorded, data=data)
    return Recording(catalog, manifests)


def recording_of(recorded: Iterable[Recorded], node: bytes) -> Recording:
    """A recording of these manifests, by a node with that public key."""
    manifests = {item.manifest.id.hex(): item for item in recorded}
    envelopes = tuple(item.manifest.envelope for item in manifests.values())
    return Recording(CatalogMessage(node, "nobody@nowhere-abc234", envelopes), manifests)


async def honestly(request: web.Request, kind: str, body: bytes) -> web.StreamResponse:
    """The honest answer."""
    return web.Response(body=body)


class RecordedPeer:
    """Serves a recording while its block runs, in a thread, on a port of the loopback or of another address.

    Attributes:
        sent: bytes of bodies answered, by kind.
        asked: requests, by kind.
    """

    def __init__(
        self,
        recording: Recording,
        answer: Answer = honestly,
        *kinds: str,
        host: str = "127.0.0.1",
        peers: Sequence[str] = (),
    ) -> None:
        """Answer requests of these kinds by ``answer`` (all of them by default), the others honestly.

        ``peers`` are the others it knows.
        """
        self._recording = recording
        self._answer = answer
        self._kinds = kinds
        self._host = host
        self._peers = peers
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._runner: web.AppRunner | None = None
        self.sent: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.address = ""

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(self, *exc_info: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> None:
        application = web.Application()
        application.router.add_get("/v1/catalog", self._get_catalog)
        application.router.add_get("/v1/peers", self._get_peers)
        application.router.add_get("/v1/manifests/{id}/pages", self._get_list)
        application.router.add_get("/v1/manifests/{id}/pages/{digest}", self._get_page)
        application.router.add_get("/v1/manifests/{id}/data", self._get_data)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, 0)
        await site.start()
        self.address = f"{self._host}:{self._runner.addresses[0][1]}"

    async def _stop(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _give(self, request: web.Request, kind: str, body: bytes) -> web.StreamResponse:
        self.asked[kind] += 1
        self.sent[kind] += len(body)
        answer = self._answer if not self._kinds or kind in self._kinds else honestly
        return await answer(request, kind, body)

    async def _get_catalog(self, request: web.Request) -> web.StreamResponse:
        catalog = self._recording.catalog
        return await self._give(
            request, "catalog", encode_catalog(CatalogMessage(catalog.node, catalog.label, catalog.envelopes))
        )

    async def _get_peers(self, request: web.Request) -> web.StreamResponse:
        return await self._give(request, "peers", encode_peers(self._peers))

    async def _get_list(self, request: web.Request) -> web.StreamResponse:
        return await self._give(request, "list", self._recorded(request).page_list)

    async def _get_page(self, request: web.Request) -> web.StreamResponse:
        page = self._recorded(request).pages.get(request.match_info["digest"])
        if page is None:
            raise web.HTTPNotFound
        return await self._give(request, "page", page)

    async def _get_data(self, request: web.Request) -> web.StreamResponse:
        recorded = self._recorded(request)
        unit = recorded.map.pages.unit
        runs = decode_slots(request.query["slots"])
        body = b"".join(recorded.data[first * unit : (first + count) * unit] for first, count in runs)
        return await self._give(request, "data", body)

    def _recorded(self, request: web.Request) -> Recorded:
        recorded = self._recording.manifests.get(request.match_info["id"])
        if recorded is None:
            raise web.HTTPNotFound
        return recorded
