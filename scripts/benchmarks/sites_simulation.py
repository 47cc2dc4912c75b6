"""How copies spread at ten sites of a hundred machines, and what an archive costs when they are needed.

Who takes what, and when, is decided by the program's own placement; links and hours are simulated. Sites do
not see each other, so one site is simulated and counted ten times. ``run()`` simulates and prints.

Left out: machines that are switched off, and the time that packing, sealing and writing take.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from overlaysync.ops.recovery.placement import place_of, wait_s
from overlaysync.units import GIB, MIB

SITES, MACHINES, TEAM = 10, 100, 5
VOLUNTEERS = 10
"""Machines of a site that keep what belongs to others as well."""
COPIES = 3
FIRST, DAILY, MASTERS = 400 * MIB, 4 * MIB, 6 * GIB
PACK = 16 * MIB
LINK, UPLINK = 1e9 / 8, 1e8 / 8
"""Bytes per second: of each machine, and of a site to the archive."""
ROUND_S, STEP_S, DAY_S = 15.0, 1.0, 8 * 3600.0
PRICE = 0.09
"""Of a GiB that leaves the archive."""


@dataclass(slots=True, eq=False)
class Pull:
    """A transfer under way: bytes that are left, from one machine (-1: the archive) to another."""

    source: int
    sink: int
    left: float
    done: Callable[[float], None]


@dataclass(slots=True)
class Wire:
    """The links of a site. Each transfer gets the smaller of its shares in the two links that it uses."""

    pulls: list[Pull] = field(default_factory=list)
    moved: float = 0.0
    egress: float = 0.0

    def step(self, now: float) -> None:
        """Let a second go by."""
        using: dict[tuple[str, int], int] = {}
        for pull in self.pulls:
            for end in (("out", pull.source), ("in", pull.sink)):
                using[end] = using.get(end, 0) + 1
        for pull in self.pulls:
            out = (UPLINK if pull.source < 0 else LINK) / using["out", pull.source]
            size = min(pull.left, STEP_S * min(out, LINK / using["in", pull.sink]))
            pull.left -= size
            self.moved += size
            self.egress += size if pull.source < 0 else 0
        ended = [pull for pull in self.pulls if pull.left <= 0]
        self.pulls = [pull for pull in self.pulls if pull.left > 0]
        for pull in ended:
            pull.done(now)


@dataclass(slots=True)
class Saved:
    """What one machine has saved, who has it or pulls it, and since when each has seen it lack copies."""

    saver: int
    size: int
    at: float
    keepers: tuple[int, ...]
    holders: set[int]
    pulling: set[int] = field(default_factory=set)
    since: dict[int, float] = field(default_factory=dict)
    safe_after: float = 0.0

    @property
    def key(self) -> bytes:
        """The key of the node that saved it."""
        return key_of(self.saver)


def key_of(machine: int) -> bytes:
    """Stand for the public key of a machine."""
    return machine.to_bytes(32, "big")


class Site:
    """A hundred machines that save once a day and keep copies for each other."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.wire = Wire()

    def day(self, size: int, within_s: float) -> list[Saved]:
        """Let every machine save ``size`` bytes at some time of a day; return what became of it."""
        saved = [self._save(machine, size, within_s) for machine in range(MACHINES)]
        rounds = [self._random.uniform(0, ROUND_S) for _ in range(MACHINES)]
        now = 0.0
        while now < within_s + DAY_S:
            for machine in range(MACHINES):
                if rounds[machine] <= now:
                    rounds[machine] = now + ROUND_S * self._random.uniform(0.6, 1.4)
                    self._round(machine, [one for one in saved if one.at <= now], now)
            self.wire.step(now)
            now += STEP_S
            if now > within_s and not self.wire.pulls and all(one.safe_after for one in saved):
                break
        return saved

    def _save(self, machine: int, size: int, within_s: float) -> Saved:
        team = range(machine - machine % TEAM, machine - machine % TEAM + TEAM)
        keepers = {*team, *range(0, MACHINES, MACHINES // VOLUNTEERS)} - {machine}
        return Saved(machine, size, self._random.uniform(0, within_s), tuple(sorted(keepers)), {machine})

    def _round(self, machine: int, saved: list[Saved], now: float) -> None:
        """Take what is due, as a keeper does in each of its rounds."""
        for one in saved:
            missing = COPIES - len(one.holders)
            if machine not in one.keepers or machine in one.holders | one.pulling or missing <= 0:
                continue
            lacking = [key_of(other) for other in one.keepers if other not in one.holders]
            place = place_of(key_of(machine), "tag", one.key, lacking)
            if now - one.since.setdefault(machine, now) >= wait_s(place, missing):
                one.pulling.add(machine)
                source = self._random.choice(sorted(one.holders))
                self.wire.pulls.append(Pull(source, machine, one.size, self._taken(one, machine)))
                return  # one at a time

    def _taken(self, one: Saved, machine: int) -> Callable[[float], None]:
        def done(now: float) -> None:
            one.pulling.discard(machine)
            one.holders.add(machine)
            if len(one.holders) >= COPIES and not one.safe_after:
                one.safe_after = now - one.at

        return done


def restore_site() -> tuple[float, float]:
    """Restore all machines of a lost site; return seconds, and bytes that left the archive.

    The first machine pulls the masters from the archive, and each one that has them passes them on.
    """
    wire, now = Wire(), 0.0
    have_masters: list[int] = []
    waiting = list(range(1, MACHINES))
    finished: list[int] = []

    def own(machine: int, _: float) -> None:
        wire.pulls.append(Pull(-1, machine, FIRST, lambda _: finished.append(machine)))

    def masters(machine: int) -> Callable[[float], None]:
        def done(now: float) -> None:
            have_masters.append(machine)
            own(machine, now)

        return done

    wire.pulls.append(Pull(-1, 0, MASTERS, masters(0)))
    while len(finished) < MACHINES:
        serving = {pull.source for pull in wire.pulls}
        for source in have_masters:
            if waiting and source not in serving:
                machine = waiting.pop(0)
                wire.pulls.append(Pull(source, machine, MASTERS, masters(machine)))
        wire.step(now)
        now += STEP_S
    return now, wire.egress


def run(seeds: tuple[int, ...] = (0, 1, 2)) -> None:
    """Simulate, and print what came out; of several runs the worst."""
    print(f"{SITES} sites of {MACHINES} machines, teams of {TEAM}, {VOLUNTEERS} volunteers, {COPIES} copies")
    for what, size, within_s in (
        ("first save, all within 10 min", FIRST, 600.0),
        ("daily save, over 8 hours", DAILY, DAY_S),
    ):
        worst, extra, moved = 0.0, 0, 0.0
        for seed in seeds:
            site = Site(seed)
            saved = site.day(size, within_s)
            assert all(one.safe_after for one in saved), "something never had its copies"
            worst = max(worst, *(one.safe_after for one in saved))
            extra = max(extra, sum(len(one.holders) - COPIES for one in saved))
            moved = max(moved, site.wire.moved)
        print(
            f"{what}: {COPIES} copies of each after {worst:.0f} s at the latest; {extra} of {MACHINES} "
            f"had one too many; {SITES * moved / GIB:.1f} GiB moved, nothing left the archive"
        )
    packs = -(-FIRST // PACK)
    print(
        f"first push of a site: {MACHINES * (FIRST / UPLINK) / 60 + MASTERS / UPLINK / 60:.0f} min, "
        f"{SITES * (MACHINES * (packs + 3) + MASTERS // PACK)} requests for all sites"
    )
    push_s = MACHINES * DAILY / UPLINK
    print(f"daily push of a site: {push_s:.0f} s, {SITES * MACHINES * 4} requests for all sites")
    seconds, egress = restore_site()
    requests = (egress // PACK) + 3 * MACHINES
    print(
        f"a site is lost: all {MACHINES} machines have their VM after {seconds / 60:.0f} min, "
        f"{egress / GIB:.0f} GiB in {requests:.0f} requests leave the archive, "
        f"at a price of {PRICE * egress / GIB:.1f}"
    )


if __name__ == "__main__":
    run()
