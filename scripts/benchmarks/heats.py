"""One race after the other under the same conditions: a new room each time, new homes, empty directories."""

from __future__ import annotations

import os
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from blake3 import blake3

from benchmarks.bench import Bench
from benchmarks.measure import CannotMeasureError, Series, say, take_turns
from benchmarks.race import Entry, Finish, race
from benchmarks.sides import Side
from tests.e2e.namespaces import NoNamespaceError
from tests.e2e.room import Room, room


@dataclass(frozen=True, slots=True)
class Heat:
    """Races of different sides under the same conditions.

    Attributes:
        bench: gives places and homes.
        source: what is fetched.
        rate: of each link, in bits per second.
        delays_s: when each of the fetching hosts starts.
    """

    bench: Bench
    source: Path
    rate: int
    delays_s: tuple[float, ...]

    @property
    def size(self) -> int:
        return self.source.stat().st_size

    @property
    def ideal_s(self) -> float:
        """Size / rate: no link can bring it sooner; headers make it some 5 % more."""
        return self.size * 8 / self.rate

    def run(self, side: Side) -> dict[str, float]:
        """One race: its :func:`figures`, and bytes ``sent`` by the first host.

        If the last host starts later than the others, its seconds from then on are called ``late``.

        Raises:
            CannotMeasureError: a process failed, or what it fetched is not the source.
        """
        target = self.bench.directory("fetched")
        try:
            with room(len(self.delays_s) + 1, rate=self.rate) as made, side.serving(made, self.source):
                entries = self._entries(side, made, target)
                before, work = made.hosts[0].sent(), Work.now()
                finishes = race(entries, self._limit_s(), self.bench.scratch)
                sent = made.hosts[0].sent() - before
                say(f"      there after {listed(finishes)} s; {work.since()}")
            self._check(sorted(target.glob(f"*/{self.source.name}")))
        finally:
            shutil.rmtree(target)
        late = {"late": finishes[-1].arrived_s} if self.delays_s[-1] else {}
        return figures(finishes) | late | {"sent": float(sent)}

    def _entries(self, side: Side, made: Room, target: Path) -> list[Entry]:
        entries = []
        for host, delay_s in zip(made.hosts[1:], self.delays_s, strict=True):
            place = target / f"host{host.number}"
            place.mkdir()
            entries.append(replace(side.entry(host, made, self.source, place), delay_s=delay_s))
        return entries

    def _limit_s(self) -> float:
        """Longer than everyone needs who takes it all from one host."""
        return 60 + (len(self.delays_s) + 1) * self.ideal_s * 1.5

    def _check(self, fetched: list[Path]) -> None:
        expected = digest(self.source)
        if len(fetched) != len(self.delays_s) or any(digest(path) != expected for path in fetched):
            raise CannotMeasureError("what was fetched is not what was served")


def listed(finishes: Sequence[Finish]) -> str:
    return " ".join(f"{finish.arrived_s:.1f}" for finish in finishes)


@dataclass(frozen=True, slots=True)
class Work:
    """What this machine's processors have done until now; all hosts of a room share them.

    When they have hardly any rest left in a race, it is they that were measured and not the links.

    Attributes:
        busy_ticks: for whomever.
        all_ticks: idle ones too.
        ours_s: seconds of processes that we have started and that have ended: those that fetch.
    """

    busy_ticks: int
    all_ticks: int
    ours_s: float

    @classmethod
    def now(cls) -> Work:
        """From the first line of /proc/stat: user nice system idle iowait irq softirq steal ..."""
        ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        times = os.times()
        ours_s = times.children_user + times.children_system
        return cls(sum(ticks) - ticks[3] - ticks[4], sum(ticks), ours_s)

    def since(self) -> str:
        """What they have done since then."""
        now = Work.now()
        busy = (now.busy_ticks - self.busy_ticks) / max(1, now.all_ticks - self.all_ticks)
        return f"processors {busy:.0%} busy, {now.ours_s - self.ours_s:.1f} s of it for those that fetch"


def digest(path: Path) -> bytes:
    """Of the whole file."""
    return blake3(max_threads=blake3.AUTO).update_mmap(path).digest()


def figures(finishes: Sequence[Finish]) -> dict[str, float]:
    """Seconds until the last one and the median one had their files, and until all processes had ended."""
    arrived = [finish.arrived_s for finish in finishes]
    times = {"last": max(arrived), "median": statistics.median(arrived)}
    ended = [finish.ended_s for finish in finishes if finish.ended_s is not None]
    return times | ({"ended": max(ended)} if len(ended) == len(finishes) else {})


Times = Mapping[str, Series]
"""By ``side figure``."""


def take_turns_or_tell(
    runs: int, sides: Sequence[Side], heat: Heat
) -> tuple[dict[str, Series], dict[str, str]]:
    """Figures of the sides that work in every run; what went wrong with the others, by side."""
    problems: dict[str, str] = {}

    def measured(side: Side) -> Mapping[str, float]:
        try:
            return heat.run(side) if side.name not in problems else {}
        except (CannotMeasureError, NoNamespaceError) as error:
            problems[side.name] = str(error).replace(str(heat.bench.scratch), "...")
            say(f"   {side.name}: {problems[side.name]}")
            return {}

    times = take_turns(runs, {side.name: partial(measured, side) for side in sides})
    whole = {name: series for name, series in times.items() if name.rpartition(" ")[0] not in problems}
    return whole, problems
