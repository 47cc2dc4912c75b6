"""Takes the snapshots: what is slow in a thread and now and then, the rest each time."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from overlaysync.net.messages import Address
from overlaysync.ops.matching import Listing
from overlaysync.web.lineage import Lineage
from overlaysync.web.machines import machines_of
from overlaysync.web.model import Health, Image, Machine, Snapshot, TeamView
from overlaysync.web.subject import Subject
from overlaysync.web.tasks import Tasks
from overlaysync.web.teams import keepers_of, teams_of
from overlaysync.web.transfers import Given, Rate

_Slow: TypeAlias = tuple[
    tuple[tuple[Image, ...], int], tuple[TeamView, ...], Mapping[str, tuple[str, ...]], int
]
"""Rows and how many are hidden; teams; who keeps them; bytes free."""

SLOW_S = 2.0
"""The catalog and the files are looked at again no sooner than this."""
FIRST_S = 20.0
"""A page begins with what was known this long ago, and is put right at once: a person waits for it."""


@dataclass(slots=True)
class Snapshots:
    """Takes snapshots of a subject, from the event loop.

    Args:
        subject: is shown.
        tasks: of the page.
    """

    subject: Subject
    tasks: Tasks
    _lineage: Lineage = field(init=False)
    _given: Given = field(init=False)
    _rate: Rate = field(default_factory=Rate)
    _slow: _Slow = field(default_factory=lambda: (((), 0), (), {}, 0))
    _machines: tuple[Machine, ...] = ()
    _slow_at: float = 0.0
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self._lineage = Lineage(self.subject.node)
        self._given = Given(self.subject.share)

    async def take(self, *, age_s: float = SLOW_S) -> Snapshot:
        """Return what there is now; what takes long to look up may be ``age_s`` old."""
        async with self._turn:
            if not self._slow_at or time.monotonic() - self._slow_at >= age_s:
                directory = self.subject.reach.directory
                self._slow = await asyncio.to_thread(self._look, directory.listings(), directory.answering())
                self._machines = machines_of(
                    self.subject.share, self.subject.port, self.subject.reach.directory.nodes(), self._slow[2]
                )
                self._slow_at = time.monotonic()
        (images, hidden), teams, _, free = self._slow
        share = self.subject.share
        at = asyncio.get_running_loop().time()
        health = Health(
            label=share.label,
            where=self.subject.where,
            port=self.subject.port,
            free=free,
            given=self._rate.read(share.given_size, at),
            taken=0,
            slow=self.subject.limit.rate,
        )
        tasks = self.tasks.all()
        taken = [transfer for task in tasks if (transfer := task.transfer(at))]
        return Snapshot(
            at=time.time(),
            health=replace(health, taken=sum(transfer.rate for transfer in taken)),
            images=images,
            hidden=hidden,
            machines=self._machines,
            transfers=(*taken, *self._given.transfers(at)),
            teams=teams,
            tasks=tuple(task.view() for task in tasks),
        )

    def paths(self, key: str) -> tuple[str, ...]:
        """Return the files of an image that is shown, by its key."""
        return self._lineage.paths.get(key, ())

    def _look(self, listings: Sequence[Listing], answering: Sequence[Address]) -> _Slow:
        """Look at the catalog, the vault and the files; in a thread."""
        node, share = self.subject.node, self.subject.share
        shared = {one.manifest.header.content_id: one.manifest.header.team for one in share.shared}
        rows = self._lineage.rows(listings, shared, [used.path for used in share.used])
        return rows, teams_of(node, answering), keepers_of(node), _free(share.paths)


def _free(paths: Sequence[str]) -> int:
    """Return the bytes that are free where the first of these is."""
    for path in paths:
        with suppress(OSError):
            return shutil.disk_usage(path if os.path.isdir(path) else os.path.dirname(path) or ".").free
    return 0
