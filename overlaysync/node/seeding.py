"""Seeding: what was fetched is given to others for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from overlaysync.node.announcing import announcing
from overlaysync.node.fetch_session import FetchSession
from overlaysync.node.network import Network
from overlaysync.node.observer import Observer
from overlaysync.node.serving import serve
from overlaysync.node.sharing import Share


async def seed_for(
    session: FetchSession, paths: Sequence[str], seconds: float, *, network: Network, observer: Observer
) -> None:
    """Share images for some seconds; what is given counts against the rate of the fetch.

    Args:
        session: of the fetch, which is open.
        paths: the images.
        seconds: how long.
        network: as of the fetch.
        observer: is told what happens.
    """
    fetch = session.fetch
    reach = fetch.reach
    share = Share(fetch.node, paths, None, observer)
    try:
        async with announcing(fetch.node, network.interfaces, reach.faults) as announcer:
            await asyncio.to_thread(share.publish_all)
            async with serve(share, announcer, reach, limit=session.given):
                observer.note(f"sharing for {seconds:g} s; Ctrl-C ends it")
                with suppress(asyncio.CancelledError):  # what was asked for is done
                    await asyncio.sleep(seconds)
    finally:
        share.close()
