"""A month: random changes, each looked for from everywhere, and what is left of it in numbers."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from overlaysync.units import KIB, MIB
from tests.e2e.nodes import Lab
from tests.e2e.room import room
from tests.month.changes import Change, Changes
from tests.month.machines import STEADY, Found, Machine, School, faketime, wait_until_found
from tests.month.samples import Course, Sample, not_flat, sample, unreadable

SOON_S = 10.0
_PATIENCE_S = 60.0
_MONTH_H = 30 * 24


@dataclass(slots=True)
class Month:
    """What happened.

    Attributes:
        rounds: how many changes there are to be.
        limit_s: within which each must be found.
        found: of each change.
        samples: of each process that ran, by its machine and its life there.
        findings: what was not as it should be.
    """

    rounds: int
    seed: int
    limit_s: float = SOON_S
    tell: Callable[[str], None] = print
    until: float | None = None
    found: list[tuple[str, Found]] = field(default_factory=list)
    samples: dict[tuple[str, int], list[Sample]] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    logs: dict[tuple[str, int], str] = field(default_factory=dict)
    passed_s: int = 0
    published: int = 0
    clock: str = field(default_factory=faketime)

    def run(self, root: Path) -> None:
        """Live through it, in a directory that is empty."""
        with ExitStack() as stack:
            made = stack.enter_context(room(4))
            lab = stack.enter_context(Lab(root))
            school = School.of(made, lab, clock=self.clock)
            # About one change in nine is the end of a sleep.
            changes = Changes(school, random.Random(self.seed), hours=max(1, _MONTH_H * 9 // self.rounds))
            stack.callback(changes.close)
            stack.callback(self._wake_all, school)
            self._begin(school)
            for number in range(1, self.rounds + 1):
                if self.until is not None and time.monotonic() > self.until:
                    break
                self._live(school, changes.one(), number)
            while backwards := changes.last():
                self._live(school, backwards[0], len(self.found))
            self._judge(school)

    def _begin(self, school: School) -> None:
        """All begin, those that follow last."""
        for machine in sorted(school, key=lambda one: bool(one.follows)):
            machine.start()
            machine.ready()
        self._look(school, "all begin", time.monotonic(), 0)

    def _live(self, school: School, change: Change, number: int) -> None:
        began = time.monotonic()
        change.make()
        # Writing through QEMU takes its time, and is not over before.
        made = began if change.kind in _AT_ONCE else time.monotonic()
        self._look(school, change.what, made, number, change.kind)

    def _look(self, school: School, what: str, made: float, number: int, kind: str = "") -> None:
        found = wait_until_found(school, made, within_s=self.limit_s, patience_s=_PATIENCE_S)
        if kind:
            self.found.append((kind, found))
        self.tell(
            f"{number:4} {what:28} listed after {found.listed_s:4.1f} s, known after {found.known_s:4.1f} s"
            + "".join(f"\n       !! {line}" for line in found.late)
        )
        self.findings += [f"change {number} ({what}): {line}" for line in found.late]
        for machine in school:
            life = machine.name, len(machine.lives)
            if (taken := sample(machine, number)) is not None:
                self.samples.setdefault(life, []).append(taken)
            elif machine.process is not None:
                self.findings.append(f"change {number} ({what}): {machine.name}'s command has ended")
                machine.process = None
        self.passed_s, self.published = school.passed_s, school.published

    def _judge(self, school: School) -> None:
        for life, samples in self.samples.items():
            self.findings += [f"{life[0]}'s process {life[1]}: {grown}" for grown in not_flat(samples)]
        for machine in school:
            for number, process in enumerate(machine.lives, 1):
                self.logs[machine.name, number] = process.stderr
                self.findings += [f"{machine.name}'s log: {line!r}" for line in unreadable(process)[:3]]

    def _wake_all(self, school: School) -> None:
        for machine in filter(_is_asleep, school):
            machine.wake()

    # -- the report ----------------------------------------------------------------------------------

    def report(self) -> str:
        """Tables in Markdown."""
        return "\n".join([*self._of_changes(), "", *self._of_processes(), "", *self._of_logs()])

    def _of_changes(self) -> list[str]:
        kinds: dict[str, list[Found]] = {}
        for kind, found in self.found:
            kinds.setdefault(kind, []).append(found)
        kinds = dict(sorted(kinds.items()))
        kinds["all"] = [found for _, found in self.found]
        lines = [
            "| change | times | listed by all: median | slowest | known to all that stay: median | slowest |",
            "|---|---|---|---|---|---|",
        ]
        for kind, every in kinds.items():
            listed, known = [one.listed_s for one in every], [one.known_s for one in every]
            lines.append(
                f"| {kind} | {len(every)} | {median(listed):.1f} s | {max(listed):.1f} s "
                f"| {median(known):.1f} s | {max(known):.1f} s |"
            )
        return lines

    def _of_processes(self) -> list[str]:
        lines = [
            "| process | changes | memory, early and late | descriptors | threads | home at its end |",
            "|---|---|---|---|---|---|",
        ]
        longest = {
            name: max(
                (life for life in self.samples if life[0] == name), key=lambda one: len(self.samples[one])
            )
            for name in dict.fromkeys(life[0] for life in self.samples)
        }
        for name, life in longest.items():
            samples = self.samples[life]
            memory, descriptors, threads = (
                Course.of([getattr(one, what) for one in samples])
                for what in ("memory", "descriptors", "threads")
            )
            whole = (
                "all of it"
                if name in STEADY
                else f"the longest of {sum(one[0] == name for one in self.samples)}"
            )
            lines.append(
                f"| {name}, {whole} | {len(samples)} "
                f"| {memory.early / MIB:.1f}, {memory.late / MIB:.1f} MiB "
                f"| {descriptors.early:g}, {descriptors.late:g} | {threads.early:g}, {threads.late:g} "
                f"| {samples[-1].home / KIB:.0f} KiB, {samples[-1].parts} part files |"
            )
        lines += ["", f"{self.passed_s / 86400:.1f} days on the clock, {self.published} versions published."]
        return lines

    def _of_logs(self) -> list[str]:
        lines = []
        for name in dict.fromkeys(life[0] for life in self.logs):
            text = "".join(log for life, log in self.logs.items() if life[0] == name)
            said = text.splitlines()
            lines.append(f"{name}'s log: {len(said)} lines, {len(text.encode()) / KIB:.1f} KiB; the first:")
            lines += [f"    {line}" for line in said[:4]]
            often = Counter(line.partition(" ")[2] for line in said).most_common(1)
            lines += [f"    said most often ({times} times): {line}" for line, times in often]
        return lines


_AT_ONCE = frozenset(("sleep", "wake", "start"))


def _is_asleep(machine: Machine) -> bool:
    return machine.asleep
