"""Commands that stay: announce, publish, serve, keep teams and show the page until the command ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from overlaysync.cli.paged import page_of
from overlaysync.net.rate import RateLimit
from overlaysync.node.announcing import announcing
from overlaysync.node.kept_teams import kept_teams
from overlaysync.node.network import Network
from overlaysync.node.observer import Silent
from overlaysync.node.serving import serve
from overlaysync.node.session import looking
from overlaysync.node.sharing import Share

_DAY_S = 86400


@dataclass(frozen=True, slots=True)
class Serving:
    """How a share is served.

    ``port`` is 0 for a free one and None for the default; ``page_port`` is 0 for a free one and None for no
    page. ``rate`` is in bytes per second, None for no limit. Images last read more than ``recheck_days`` ago
    are read again; 0 for never.
    """

    port: int | None
    rate: int | None
    recheck_days: float
    page_port: int | None


@dataclass(frozen=True, slots=True)
class Running:
    """What runs: its port, the interfaces it is announced on ("" for none), and its page, if it has one."""

    port: int
    where: str
    page: Any


@asynccontextmanager
async def staying(
    share: Share, network: Network, serving: Serving, publish: Callable[[], None] | None = None
) -> AsyncIterator[Running]:
    """Run a share while the block runs.

    Args:
        share: what is served; the caller closes it.
        network: whom to look for, and the interfaces to announce on.
        serving: how it is served.
        publish: adds the images, in a thread, while a free name is looked for; None: none to add.

    Raises:
        OverlaysyncError: ``publish`` raised it.
        NetworkError: a port that was named is taken.
    """
    node, limit = share.node, RateLimit(serving.rate)
    recheck_s = serving.recheck_days * _DAY_S or None
    async with announcing(node, network.interfaces) as announcer:
        if publish is not None:
            await asyncio.to_thread(publish)
        async with (
            looking(node, Silent(), network, announcer.faults) as reach,
            serve(share, announcer, reach, port=serving.port, limit=limit, recheck_s=recheck_s) as bound,
            kept_teams(share, reach),
            page_of(share, reach, bound, limit, network, serving.page_port) as page,
        ):
            yield Running(*bound, page)
