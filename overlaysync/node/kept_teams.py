"""Keep teams while a share runs: bring what they have saved to where it belongs, and save what runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from overlaysync.node.keeping import Keeper
from overlaysync.node.live_saves import LiveSaves
from overlaysync.node.reach import Reach
from overlaysync.node.sharing import Share


@asynccontextmanager
async def kept_teams(share: Share, reach: Reach) -> AsyncIterator[None]:
    """Keep the teams that the node of ``share`` keeps, while the block runs."""
    work = (
        Keeper(share.node, reach, share.observer, reach.faults).run(),
        LiveSaves(share.node, share.observer, reach.faults).run(),
    )
    tasks = [asyncio.create_task(each) for each in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
