"""Everything that may change between two looks: networks, commands, clocks, images."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

from overlaysync.units import KIB, MIB
from tests.e2e import disks
from tests.e2e.room import INTERFACE
from tests.month.machines import STEADY, Image, Machine, School

_HOUR_S = 3600
_MOST_EXTRAS = 3
_BLOCKS = 16


@dataclass(slots=True)
class Change:
    """One that may be made now.

    Attributes:
        kind: of which table it is a row.
        what: with the machine it happens to.
        make: makes it.
        weight: how often it is taken, beside the others.
    """

    kind: str
    what: str
    make: Callable[[], None]
    weight: int = 2


@dataclass(slots=True)
class Changes:
    """Makes random changes of a school, and knows which of them can be made.

    Attributes:
        hours: that pass while a machine sleeps.
        vms: of the machines that run one.
    """

    school: School
    random: random.Random
    hours: int
    vms: dict[str, ExitStack] = field(default_factory=dict)
    _made: int = 0

    def one(self) -> Change:
        """Choose the next change: its kind first, so that it does not count how many machines it fits."""
        possible: dict[str, list[Change]] = {}
        for change in self.possible():
            possible.setdefault(change.kind, []).append(change)
        kinds = list(possible)
        weights = [possible[kind][0].weight for kind in kinds]
        (kind,) = self.random.choices(kinds, weights)
        return self.random.choice(possible[kind])

    def last(self) -> list[Change]:
        """What brings everything back to where all machines are awake, plugged in and running."""
        backwards = {"wake", "link up", "cable in", "switches joined", "start", "VM ends"}
        return [change for change in self.possible() if change.kind in backwards]

    def possible(self) -> list[Change]:
        changes = []
        for machine in self.school:
            if machine.asleep:
                changes.append(self._change("wake", machine, partial(self._wake, machine), 8))
            else:
                changes += [*self._of_network(machine), *self._of_command(machine), *self._of_images(machine)]
        if any(machine.segment for machine in self.school):
            changes.append(Change("switches joined", "switches joined", self._join, 6))
        else:
            changes.append(Change("switches part", "switches part", self._part, 1))
        return changes

    def close(self) -> None:
        for stack in self.vms.values():
            stack.close()

    # -- networks ------------------------------------------------------------------------------------

    def _of_network(self, machine: Machine) -> list[Change]:
        changes = []
        if machine.up:
            changes.append(self._change("link down", machine, lambda: self._up(machine, False), 1))
        else:
            changes.append(self._change("link up", machine, lambda: self._up(machine, True), 6))
        if machine.cable:
            changes.append(self._change("cable out", machine, lambda: self._plug(machine, False), 1))
        else:
            changes.append(self._change("cable in", machine, lambda: self._plug(machine, True), 6))
        if machine.addresses:
            changes.append(self._change("other address", machine, lambda: self._move(machine), 4))
            changes.append(self._change("IPv6 only", machine, lambda: self._only_ipv6(machine)))
        else:
            changes.append(self._change("IPv4 again", machine, lambda: self._move(machine), 4))
        if len(machine.addresses) == 1:
            changes.append(self._change("one address more", machine, lambda: self._one_more(machine), 1))
        return changes

    def _new_address(self) -> str:
        taken = {address for machine in self.school for address in machine.addresses}
        numbers = [n for n in range(10, 250) if f"10.77.0.{n}" not in taken]
        return f"10.77.0.{self.random.choice(numbers)}"

    def _move(self, machine: Machine) -> None:
        new = self._new_address()
        machine.on(f"ip -4 address flush dev {INTERFACE}", f"ip address add {new}/24 dev {INTERFACE}")
        machine.addresses = [new]

    def _one_more(self, machine: Machine) -> None:
        new = self._new_address()
        machine.on(f"ip address add {new}/24 dev {INTERFACE}")
        machine.addresses.append(new)

    def _only_ipv6(self, machine: Machine) -> None:
        machine.on(f"ip -4 address flush dev {INTERFACE}")
        machine.addresses = []

    def _up(self, machine: Machine, up: bool) -> None:
        machine.on(f"ip link set {INTERFACE} {'up' if up else 'down'}")
        machine.up = up

    def _plug(self, machine: Machine, cable: bool) -> None:
        (self.school.room.heal if cable else self.school.room.cut)(machine.host)
        machine.cable = cable

    def _part(self) -> None:
        """A cable between two switches is pulled: no machine is told of that."""
        apart = self.random.sample(list(self.school), self.random.choice((1, 2)))
        self.school.room.part([machine.host for machine in apart])
        for machine in apart:
            machine.segment = 1

    def _join(self) -> None:
        self.school.room.join()
        for machine in self.school:
            machine.segment = 0

    # -- commands and machines -----------------------------------------------------------------------

    def _of_command(self, machine: Machine) -> list[Change]:
        changes = []
        if machine.process is None:
            changes.append(self._change("start", machine, machine.start, 8))
            return changes
        if machine.name not in STEADY:
            for kind, number in (
                ("Ctrl-C", signal.SIGINT),
                ("SIGTERM", signal.SIGTERM),
                ("kill -9", signal.SIGKILL),
            ):
                changes.append(self._change(kind, machine, partial(machine.end, number), 1))
        if not any(other.asleep for other in self.school) and machine.name not in self.vms:
            changes.append(self._change("sleep", machine, machine.stop, 4))
        if machine.clock:
            changes.append(self._change("clock set", machine, lambda: self._set_clock(machine), 1))
        return changes

    def _wake(self, machine: Machine) -> None:
        """It has slept for hours; so says the clock at least."""
        self.school.pass_time(self.random.randint(1, 2 * self.hours) * _HOUR_S)
        machine.wake()

    def _set_clock(self, machine: Machine) -> None:
        """Somebody sets it wrong by up to two days, or right."""
        machine.drift_s = 0 if machine.drift_s else self.random.randint(-48, 48) * _HOUR_S
        machine.set_clock(self.school.passed_s)

    # -- images --------------------------------------------------------------------------------------

    def _of_images(self, machine: Machine) -> list[Change]:
        changes = []
        own = [image for image in machine.images.values() if image.name not in machine.follows]
        for image in own:
            if image.path.stem in ("web", "plan", "lab"):
                changes += self._of_overlay(machine, image)
        extras = [image for image in own if image.path.stem.startswith("extra")]
        if len(extras) < _MOST_EXTRAS and machine.name in ("ana", "dora"):
            changes.append(self._change("image added", machine, lambda: self._add(machine)))
        for image in extras:
            changes.append(self._change("image removed", machine, partial(self._remove, machine, image)))
        return changes

    def _of_overlay(self, machine: Machine, image: Image) -> list[Change]:
        if image.used:
            return [self._change("VM ends", machine, lambda: self._end_vm(machine, image), 6)]
        changes = [self._change("image changed", machine, lambda: self._write(image), 6)]
        if not image.changed:
            changes.append(self._change("VM begins", machine, lambda: self._begin_vm(machine, image), 3))
        return changes

    def _noise(self) -> tuple[int, bytes]:
        """Where to write, and what: never the same again."""
        self._made += 1
        offset = self.random.randrange(_BLOCKS) * 64 * KIB
        return offset, disks.noise(f"change {self._made}", 64 * KIB)

    def _write(self, image: Image) -> None:
        disks.write(image.path, *self._noise())
        image.changed = True

    def _begin_vm(self, machine: Machine, image: Image) -> None:
        """A VM begins, and may write at once."""
        stack = self.vms[machine.name] = ExitStack()
        stack.enter_context(disks.opened_by_qemu(image.path))
        image.used = True
        if self.random.random() < 0.7:
            disks.write_through_qemu(image.path, *self._noise())
            image.changed = True

    def _end_vm(self, machine: Machine, image: Image) -> None:
        self.vms.pop(machine.name).close()
        image.used = False

    def _add(self, machine: Machine) -> None:
        self._made += 1
        stem = f"extra{self._made}"
        path = disks.make_master(machine.node.place / f"{stem}.raw", size=MIB // 4)
        machine.images[stem] = Image(path, stem)

    def _remove(self, machine: Machine, image: Image) -> None:
        image.path.unlink()
        del machine.images[image.name]

    def _change(self, kind: str, machine: Machine, make: Callable[[], None], weight: int = 2) -> Change:
        return Change(kind, f"{machine.name}: {kind}", make, weight)
