"""A fetch that is killed again and again: what it had claimed is not asked for again."""

from __future__ import annotations

import random
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from overlaysync.net.messages import decode_slots
from overlaysync.units import MIB
from tests.e2e import disks
from tests.e2e.recorded import RecordedPeer, honestly
from tests.torture.runner import KILLED, Runner

if TYPE_CHECKING:
    from aiohttp import web

_HEAD, _RECORD = struct.Struct("<4sH32sQ"), struct.Struct("<QQI")


def claimed(home: Path) -> set[int]:
    """The slots that the journals of a home claim; read here by the format's description alone."""
    slots: set[int] = set()
    for journal in (home / "journals").glob("*.journal"):
        data = journal.read_bytes()
        if len(data) >= _HEAD.size:
            start = _HEAD.size + _HEAD.unpack_from(data)[1] + 4
            for at in range(start, len(data) - _RECORD.size + 1, _RECORD.size):
                first, count, _ = _RECORD.unpack_from(data, at)
                slots.update(range(first, first + count))
    return slots


@dataclass(slots=True)
class Asked:
    """Notes which slots are asked for; an ``answer`` of a :class:`RecordedPeer`."""

    slots: set[int] = field(default_factory=set)

    async def answer(self, request: web.Request, kind: str, body: bytes) -> web.StreamResponse:
        if kind == "data":
            for first, count in decode_slots(request.query["slots"]):
                self.slots.update(range(first, first + count))
        return await honestly(request, kind, body)


@dataclass(slots=True)
class Killing:
    """A fetch of ``master`` from ``peer``, into ``place``, again and again.

    Attributes:
        counts: kills, slots claimed at kills, and how many of them were not asked for again.
    """

    runner: Runner
    peer: RecordedPeer
    asked: Asked
    master: Path
    place: Path
    chance: random.Random
    counts: Counter[str] = field(default_factory=Counter)

    def kill(self, times: int) -> Iterator[None]:
        """Kill it so often; when it is done it begins anew. Gives a moment for others to look after each."""
        images, home = self.place / "images", self.place / "home"
        for directory in (images, home):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        words = ("fetch", self.master.stem, "--peer", self.peer.address, "--json", "--quiet")
        target = images / self.master.name
        before: set[int] = set()
        while self.counts["kills"] < times:
            self.asked.slots.clear()
            end = self.peer.sent["data"] + self.chance.randint(1, 40 * MIB)

            def reached(end: int = end) -> bool:
                return self.peer.sent["data"] >= end

            outcome = self.runner.run(words, directory=images, home=home, kill_when=reached)
            assert outcome.code in (0, KILLED), outcome
            if self.peer.asked["data"]:
                self.counts["claimed"] += len(before)
                self.counts["reused"] += len(before - self.asked.slots)
            if outcome.code == KILLED:
                self.counts["kills"] += 1
                before = claimed(home) if not target.exists() else set()
            if target.exists():
                assert disks.identical(self.master, target)
                if outcome.code == 0:
                    self.counts["bytes resumed"] += outcome.document["fetched"][0]["resumed"]
                self.counts["fetches done"] += 1
                target.unlink()
                before = set()
            assert not [path for path in images.iterdir() if not path.name.startswith(".")]
            yield
