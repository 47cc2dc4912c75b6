"""Serve a share: the HTTP server, the announcement, the neighbours, and the watch over the files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

from overlaysync.errors import NetworkError
from overlaysync.net.discovery import Announcement, Announcer, Item
from overlaysync.net.rate import RateLimit
from overlaysync.net.server import Server
from overlaysync.node.reach import Reach
from overlaysync.node.sharing import Share, watch
from overlaysync.trust.keys import node_id


@asynccontextmanager
async def serve(
    share: Share,
    *,
    reach: Reach | None = None,
    port: int = 0,
    interfaces: Iterable[str] = (),
    rate: int | None = None,
    sent: Callable[[bytes, str, int], None] | None = None,
) -> AsyncIterator[tuple[int, str]]:
    """Serve ``share`` while the block runs; gives the port and the interfaces it is announced on.

    Without multicast the node serves all the same; others then need ``--peer``.
    """
    server = Server(share, limit=RateLimit(rate), sent=sent)
    port = await server.start(port=port)
    if reach is not None:
        share.neighbours = lambda: [str(address) for address in reach.answering()]
    announcer = Announcer(share.node.label, interfaces=tuple(interfaces))
    where = ""
    try:
        where = await announcer.start(_announcement(share, port))
    except NetworkError as error:
        share.observer.note(f"not announced: {error}")
    changes: asyncio.Queue[None] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    tasks = [
        asyncio.create_task(watch(share, lambda: loop.call_soon(changes.put_nowait, None))),
        asyncio.create_task(_announce(announcer, share, port, changes)),
    ]
    try:
        yield port, where
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await announcer.stop()
        await server.stop()


async def _announce(announcer: Announcer, share: Share, port: int, changes: asyncio.Queue[None]) -> None:
    while True:
        await changes.get()
        await announcer.update(_announcement(share, port))


def _announcement(share: Share, port: int) -> Announcement:
    items = tuple(
        Item(
            kind="overlay" if shared.manifest.header.is_layer else "master",
            name=shared.manifest.header.full_name,
            id=shared.manifest.header.content_id,
        )
        for shared in sorted(share.shared.values(), key=lambda shared: not shared.asked)
    )
    return Announcement(port=port, node_id=node_id(share.public_key), revision=share.revision, items=items)
