"""Fetching nodes in this process: real servers, clients and files; who is around is what a test says."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from overlaysync.model.addresses import is_told_port
from overlaysync.net.bounds import CLIENT, ClientBounds
from overlaysync.net.client import Client
from overlaysync.net.faults import Faults
from overlaysync.net.messages import Address
from overlaysync.net.rate import RateLimit
from overlaysync.node.download import Download, Making, TransferStats
from overlaysync.node.host_budget import DialBudget
from overlaysync.node.reshare import PartialSeeder
from overlaysync.ops.assemble import Assembly
from overlaysync.ops.offer import Offer, PartOffer
from overlaysync.trust.keys import load_or_make
from tests.net.content_provider import make_part
from tests.node.observers import Heard


@dataclass
class Around:
    """Stands for :class:`~overlaysync.node.reach.Reach`: the seeds are known, and whoever they tell of."""

    node: Any
    client: Client
    whole: Offer
    seeds: Sequence[Address]
    observer: Heard = field(default_factory=Heard)
    believed: Callable[[str], bool] = lambda host: True
    looking: bool = False
    faults: Faults = field(default_factory=Faults)
    dials: DialBudget = field(default_factory=DialBudget)

    def sources(self, content: bytes, team: str = "") -> dict[str, tuple[Address, Any]]:
        assert content == self.whole.manifest.header.content_id
        return {str(address): (address, self.whole.manifest) for address in self.seeds}

    def may_dial(self, host: str, port: int, *, told_by: Address) -> bool:
        return is_told_port(port) and self.believed(host)

    def check(self) -> None:
        pass

    @property
    def directory(self) -> Any:
        return self

    def label_of(self, source: str) -> str:
        return source

    def answering(self) -> list[Address]:
        return list(self.seeds)


@dataclass
class Fetcher:
    """One node that fetches.

    Attributes:
        path: the file it makes.
        sent: bytes of data it has given to others.
    """

    label: str
    path: Path
    around: Around
    seeder: PartialSeeder
    part: PartOffer
    assembly: Assembly
    transfer: TransferStats
    download: Download

    async def run(self) -> None:
        """Fetch to the end, as the command does."""
        await self.download.run()
        os.close(self.assembly.finish(mode=0o644))
        await self.download.company.say_goodbye()
        self.seeder.finish(self.part)

    @property
    def content(self) -> bytes:
        return self.path.read_bytes()

    @property
    def dropped(self) -> dict[str, Any]:
        return self.download.schedule.dropped()


@asynccontextmanager
async def fetcher(
    place: Path,
    whole: Offer,
    seeds: Iterable[Address],
    *,
    label: str = "pl@bob",
    held: Iterable[tuple[int, bytes]] = (),
    rate: int | None = None,
    believed: Callable[[str], bool] = lambda host: True,
    bounds: ClientBounds = CLIENT,
) -> AsyncIterator[Fetcher]:
    """A fetcher of ``whole`` that can be reached while the block runs.

    Args:
        place: an own directory, made here.
        whole: what is fetched.
        seeds: who has it.
        label: of the node.
        held: (slot, bytes) that it has already.
        rate: most bytes per second, in each direction.
        believed: which hosts it dials that others tell of.
        bounds: of its client.
    """
    place.mkdir()
    node = SimpleNamespace(label=label, key=load_or_make(place / "key"), teams={})
    part, assembly = make_part(place / "copy.raw", whole)
    for slot, data in held:
        assert not assembly.accept(slot, 1, memoryview(data))
    transfer = TransferStats()
    step = SimpleNamespace(header=whole.manifest.header, listing=SimpleNamespace(manifest=whole.manifest))
    async with Client(limit=RateLimit(rate), bounds=bounds) as client:
        around = Around(node, client, whole, list(seeds), believed=believed)
        async with PartialSeeder.open(cast(Any, node), cast(Any, around), limit=RateLimit(rate)) as seeder:
            seeder.begin(part)
            threads = ThreadPoolExecutor(2)
            making = Making(cast(Any, step), assembly, part, transfer)
            download = Download(cast(Any, around), making, threads, seeder)
            try:
                yield Fetcher(label, place / "copy.raw", around, seeder, part, assembly, transfer, download)
            finally:
                threads.shutdown()
                assembly.close()


async def soon(condition: Callable[[], bool], *, within_s: float = 10) -> None:
    """Wait until something has happened."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.005)
