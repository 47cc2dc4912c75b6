"""A month of machines that hold copies and come and go: nothing that had its copies is lost."""

from __future__ import annotations

import asyncio
import datetime
import os
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from overlaysync.errors import VerificationError
from overlaysync.store.keeping import Keeping
from overlaysync.trust.teams import Team
from overlaysync.units import KIB
from tests.counts import record_counts
from tests.node.holders import DAY, HOUR, Machine, World, keeps
from tests.torture.rot import memory_or

pytestmark = [pytest.mark.slow, pytest.mark.holds("D8")]

RED = Team("red", bytes(range(20)))
WANTED = 3
MEMBERS, SEALED, STAY = 8, 4, 2
STEP_S = 4 * HOUR
SEALED_BUDGET = 48 * KIB


@pytest.fixture
def seed() -> int:
    """Another one each day; OVERLAYSYNC_SEED repeats one."""
    return int(os.environ.get("OVERLAYSYNC_SEED") or datetime.datetime.now(datetime.UTC).date().toordinal())


@pytest.fixture
def world(tmp_path: Path, seed: int) -> Iterator[World]:
    with tempfile.TemporaryDirectory(dir=memory_or(tmp_path)) as root:
        made = World(Path(root), RED, random.Random(seed))
        yield made
        made.close()


@dataclass(slots=True)
class Month:
    """What happens in a month, and what has to hold all the time.

    Attributes:
        world: twelve machines, of which ten come and go.
        had: ids of the states that have had their wanted copies.
        forgotten: ids of those that were meant to go.
        held: by machine, the newest counter of each head that it had whole.
    """

    world: World
    had: set[bytes] = field(default_factory=set)
    forgotten: set[bytes] = field(default_factory=set)
    held: dict[Machine, dict[bytes, int]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def count(self, what: str, by: int = 1) -> None:
        self.counts[what] = self.counts.get(what, 0) + by

    def begin(self) -> None:
        for at in range(MEMBERS):
            self.world.add(f"member{at}", team=RED, keeping=keeps(RED, copies=WANTED))
        for at in range(SEALED):
            self.world.add(f"sealed{at}", keeping=Keeping(others=SEALED_BUDGET))

    def come_and_go(self) -> None:
        """All but two go and come back at random; some come back with an empty disk."""
        chance = self.world.chance
        for machine in self.movers():
            # Away about as long as there: hours, and sometimes days.
            if chance.random() < STEP_S / (0.7 * DAY):
                machine.up = not machine.up
                self.count("came or went")
        if chance.random() < STEP_S / (2 * DAY):
            self.replace(chance.choice(self.movers()))
        if chance.random() < STEP_S / DAY:
            self.rot()

    def movers(self) -> list[Machine]:
        return self.world.machines[STAY:]

    def replace(self, machine: Machine) -> None:
        """A machine is set up anew: another key, an empty vault."""
        sealed = machine.name.startswith("sealed")
        at = self.world.machines.index(machine)
        self.world.lose(machine)
        self.held.pop(machine, None)
        keeping = Keeping(others=SEALED_BUDGET) if sealed else keeps(RED, copies=WANTED)
        self.world.add(machine.name, team=None if sealed else RED, keeping=keeping)
        self.world.machines.insert(at, self.world.machines.pop())
        self.count("replaced")

    def rot(self) -> None:
        """A bit of an object turns over somewhere."""
        machine = self.world.chance.choice(self.world.machines)
        stored = [one for one in machine.objects.list("") if "/heads/" not in one.name]
        if stored:
            path = machine.objects.root / self.world.chance.choice(stored).name
            data = bytearray(path.read_bytes())
            data[self.world.chance.randrange(len(data))] ^= 1
            path.write_bytes(data)
            self.count("bits")

    def work(self) -> None:
        """Members that are there save, and forget what is old."""
        for machine in self.world.machines[:MEMBERS]:
            if machine.up and self.world.chance.random() < 0.5:
                try:
                    self.world.save(machine, public="master")
                    self.forgotten |= self.world.forget_all_but(machine, 5)
                except VerificationError:  # its last state has rotted: it does what the message says
                    self.world.check(machine)
                    self.count("refused")
                else:
                    self.count("saved")

    def look(self) -> None:
        """Nothing that had its copies is gone, no copy was dropped, no budget is passed."""
        copies = self.world.copies()
        self.had |= {state for state, at in copies.items() if len(at) >= WANTED}
        lost = self.had - self.world.sound() - self.forgotten
        assert not lost, f"{len(lost)} states are lost"
        for machine in self.world.machines:
            now = {key: head.head.counter for key, head in machine.heads(self.world.tag).items()}
            self.held[machine] = self.held.get(machine, {}) | now
            if machine.name.startswith("sealed"):
                assert machine.size <= SEALED_BUDGET, machine.size
        self.count("looks")


@pytest.mark.red_without("D8", "what a machine has saved that is gone is not copied on")
def test_a_month_of_holders_that_come_and_go(world: World, seed: int) -> None:
    month = Month(world)
    month.begin()

    async def run() -> None:
        for _ in range(30):
            month.work()
            await world.hours(24, STEP_S, month.come_and_go)
            month.look()
        for machine in world.machines:
            machine.up = True
        await world.hours(24, STEP_S)
        month.look()

    asyncio.run(run())
    record_counts("holders", seed=seed, states=len(month.had), **month.counts)
    assert month.had and month.counts["replaced"] and month.counts["bits"]
    # With all of them there again, everything that is listed is on as many machines as is wanted.
    few = {state for state, at in world.copies().items() if len(at) < WANTED} - month.forgotten
    assert not few, few


# -- liars -------------------------------------------------------------------------------------------

LIES = {
    "it lists what it does not have": (False, 0),
    "it gives other bytes": (True, 0),
    "it lists heads that there are not": (False, 1000),
}


@pytest.mark.red_without("D8", "a wrong proof counts like a right one")
@pytest.mark.red_without("D8", "a holder that gives no proof counts")
@pytest.mark.red_without("D8", "a head counts before the peer that lists it has shown it")
@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("already", [False, True], ids=["before", "after"])
def test_liars_are_noticed_within_a_day_and_do_not_count(
    world: World, tmp_path: Path, lie: str, already: bool
) -> None:
    """Two of seven lie, before anything is saved or when all of it has its copies."""
    gives, ahead = LIES[lie]
    said = tmp_path / "said"
    said.write_bytes(b"not what was asked for")
    for at in range(7):
        world.add(f"member{at}", team=RED, keeping=keeps(RED, copies=WANTED))
    saver, *others = world.machines
    state = world.save(saver)
    liars = others[:2]

    async def run() -> None:
        if already:
            await world.hours(3, HOUR)
            liars[:] = [one for one in world.copies()[state.id] if one is not saver]
        for machine in liars:
            world.lie(machine, said if gives else None, ahead=ahead)
        await world.hours(24, HOUR)

    asyncio.run(run())
    having = world.copies()[state.id]
    assert len(having) >= WANTED, [one.name for one in having]
    for machine in having:
        (vm,) = world.standings(machine)
        counting = {holder.label for holder in vm.holders if holder.counts}
        assert counting.isdisjoint(one.name for one in liars), (machine.name, counting)
    (vm,) = world.standings(saver)
    assert vm.copies >= WANTED
