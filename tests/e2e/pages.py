"""Runs the commands of a page of the documentation, and compares what they print with what the page says.

A page shows sessions in blocks of the language ``console``. A line like ``pl@bob$ COMMAND`` is typed by pl,
at a terminal on a machine of his own, and the lines below it are what the terminal shows. Figures, ids, times
and the names of machines may differ, and ``…`` stands for any text, or on a line of its own for any lines.
``^C`` ends a command that stays, and others that stay end with the page. Where a page shows nothing below a
command, it must succeed. Questions are answered with yes, or with the last code of a team. Comments prepare
what a page tells people to do by hand::

    <!-- run: pl: qemu-io -c "write 0 1M" vm/web.qcow2 -->

and ``<!-- stop: pl -->`` ends what stays of pl. ``<!-- vms: pl: vm web db -->`` makes VMs that boot, in the
directory vm; ``<!-- cut: pl -->`` pulls the cable of pl's machine, and ``heal`` plugs it in again. Blocks may
be indented, as in a list. ``python -m tests.e2e.pages PAGE`` prints what is really shown, to be put into the
page.
"""

from __future__ import annotations

import re
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.bootable import make_bootable, make_vm, write_data
from tests.e2e.nodes import DONE, INTERRUPTED, Lab, Node, until
from tests.e2e.recovery import Machine, machines
from tests.e2e.room import Room, room
from tests.e2e.terminals import Terminal

COLUMNS = 300
_LIMIT_S = 120
"""Of a command; a drill boots VMs without KVM."""
_PROMPT = re.compile(r"(?P<person>[a-z]\w*)(@\w+)?\$ (?P<command>.+)")
_RUN = re.compile(r"<!-- (?P<what>run|stop|vms|cut|heal): (?P<person>\w+)(: (?P<command>.+))? -->")
_STAYS = re.compile(r"overlaysync (share|keep|ls .*--watch|sync .*--watch|peers .*--watch)\b")
_ONCE = re.compile(r"--once|--off|--help")
_ASKED = re.compile(r"Code of team \S+:|.*\[y/N\]:")
_CODE = re.compile(r"\b(?:[a-z2-7]{5}-){7}[a-z2-7]{5}\b")
_ADDRESS = re.compile(r"\b192\.0\.2\.(\d+)\b")

_SAME = (
    (re.compile(r"\b([a-z]\w*)@[\w-]+"), r"\1@HOST"),
    (_CODE, "CODE"),
    (re.compile(r"\b([a-z2-7]{4})(-[a-z2-7]{4})+\b"), "FINGERPRINT"),
    (re.compile(r"tag [a-z2-7]{4}-[a-z2-7]+"), "TAG"),
    (re.compile(r"b3:[0-9a-f]+"), "ID"),
    (re.compile(r"\([0-9a-f]{8}\)"), "(ID)"),
    (re.compile(r"just now|\d+ (s|min|hours?|days?) ago"), "AGO"),
    (re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\dZ)?)?"), "DATE"),
    (re.compile(r"on lo, (eth|lan)0"), "INTERFACES"),
    (re.compile(r"\d+(\.\d+)? ([KMG]i)?B\b"), "SIZE"),
    (re.compile(r"\b\d+\.\d+ s\b|\b\d+ s\b"), "TIME"),
    (re.compile(r"(?<=:)\d{4,5}\b|(?<=port )\d{4,5}\b"), "PORT"),
)
"""What may differ between two runs, and what it is compared as."""
_TAKEN = (re.compile(r"b3:[0-9a-f]{8}"), re.compile(r"\b[a-z2-7]{4}(?:-[a-z2-7]{4})+\b"))
"""What a page may repeat in a later command."""


@dataclass(frozen=True, slots=True)
class Step:
    """A command of a page; ``shown`` is None for a preparation, and ``what`` says which."""

    person: str
    command: str
    line: int
    shown: tuple[str, ...] | None
    what: str = "run"


def steps_of(text: str) -> Iterator[Step]:
    """Everything that a page has somebody do, in its order."""
    inside, current, indent = False, None, 0
    shown: list[str] = []
    for number, whole in enumerate(text.splitlines(), 1):
        if not inside:
            indent = len(whole) - len(whole.lstrip())
        line = whole[indent:]
        prompt = _PROMPT.fullmatch(line) if inside else None
        if current and (prompt or line.startswith("```")):
            yield Step(*current, tuple(shown))
            current = None
        if line.startswith("```"):
            inside = line == "```console" and not inside
        elif prompt:
            current, shown = (prompt["person"], prompt["command"].partition("     # ")[0], number), []
        elif current:
            shown.append(line)
        elif found := _RUN.fullmatch(line.strip()):
            yield Step(found["person"], found["command"] or "", number, None, found["what"])


def stays(step: Step) -> bool:
    """Whether it is a command that stays until it is ended."""
    return bool(_STAYS.match(step.command)) and not _ONCE.search(step.command)


def same(line: str) -> str:
    """A line with all that may differ made equal."""
    for pattern, word in _SAME:
        line = pattern.sub(word, line)
    return " ".join(line.split())


@dataclass(slots=True)
class Page:
    """A page while it is run.

    Attributes:
        steps: what it has people do.
        found: their machines, by name.
        world: the room in which these are.
        tell: print what is really shown.
    """

    steps: list[Step]
    found: dict[str, Machine]
    world: Room
    tell: bool = False
    _stay: dict[str, list[Terminal]] = field(default_factory=dict)
    _codes: list[str] = field(default_factory=list)
    _real: dict[str, str] = field(default_factory=dict)
    """What the page shows → what stands there this time."""

    def run(self) -> None:
        with ExitStack() as stack:
            for step in self.steps:
                if step.what != "run":
                    self._prepare(step)
                    continue
                node = self.found[step.person].node
                home = self._home(node)
                started = Terminal(node, shell=self._typed(step), columns=COLUMNS, environment=home)
                terminal = stack.enter_context(started)
                self._finish(step, node, terminal)
            for person in self.found:
                self._stop(person)

    def _prepare(self, step: Step) -> None:
        """Do what takes more than a command."""
        machine = self.found[step.person]
        if step.what == "stop":
            self._stop(step.person)
        elif step.what == "cut":
            self.world.cut(machine.host)
        elif step.what == "heal":
            self.world.heal(machine.host)
        else:
            directory, *names = step.command.split()
            place = machine.node.place / directory
            place.mkdir()
            master = make_bootable(place / "debian.raw")
            for name in names:
                write_data(make_vm(place / f"{name}.qcow2", master), f"{name} login:")

    def _stop(self, person: str) -> None:
        """End what stays of a person."""
        for terminal in self._stay.pop(person, []):
            terminal.interrupt()
            assert terminal.end() in (DONE, INTERRUPTED), terminal.shown

    def _home(self, node: Node) -> dict[str, str]:
        stub = node.base / "bin"
        if not stub.exists():
            stub.mkdir()
            program = stub / "overlaysync"
            program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m overlaysync "$@"\n')
            program.chmod(0o755)
        # How busy this machine is decides whether data are compressed, and that is printed.
        return {
            "HOME": str(node.place),
            "PATH": f"{stub}:{node.environment()['PATH']}:/usr/sbin",
            "OVERLAYSYNC_COMPRESSION": "never",
        }

    def _typed(self, step: Step) -> str:
        command = _ADDRESS.sub(lambda found: self._address(int(found[1])), step.command)
        for shown, real in self._real.items():
            command = command.replace(shown, real)
        # Not a child of the shell, which would keep a signal to itself.
        return f"exec {command}" if stays(step) else command

    def _address(self, number: int) -> str:
        """192.0.2.N of a page is the N-th machine, from 1."""
        return [*self.found.values()][number - 1].host.address

    def _finish(self, step: Step, node: Node, terminal: Terminal) -> None:
        expected = [] if step.shown is None else [line for line in step.shown if line != "^C"]
        answered = 0

        def done() -> bool:
            nonlocal answered
            ended, lines = terminal.ended, self._lines(node, terminal)
            questions = [found for line in lines if (found := _ASKED.fullmatch(line.strip()))]
            if len(questions) > answered:
                answered += 1
                terminal.type("y" if questions[-1][0].endswith("[y/N]:") else self._codes[-1])
            if self.tell or not expected:
                return ended or bool(stays(step) and "Ctrl-C" in terminal.shown)
            return ended or bool(stays(step) and fits(expected, lines) is not None)

        try:
            until(done, within_s=_LIMIT_S, what=lambda: f"the end of {step.command!r}: {terminal.shown}")
            time.sleep(self.tell)  # for what is printed after that
        finally:
            lines = self._lines(node, terminal)
            if self.tell and step.shown is not None:
                print("\n".join([f"{step.person}$ {step.command}", *lines]), flush=True)
        self._codes += _CODE.findall("\n".join(lines))
        if step.shown and step.shown[-1] == "^C":
            terminal.interrupt()
            terminal.end()
        elif stays(step):
            self._stay.setdefault(step.person, []).append(terminal)
        if self.tell:
            return
        where = f"line {step.line}: {step.command}\n" + "\n".join(lines)
        if not stays(step):
            failed = any(line.startswith("✗") for line in expected)
            assert (terminal.end() != DONE) == failed, where
        if expected:
            pairs = fits(expected, lines)
            assert pairs is not None, f"{where}\n-- but the page says\n" + "\n".join(expected)
            self._learn(pairs)

    def _lines(self, node: Node, terminal: Terminal) -> list[str]:
        """What the terminal shows, without lines that were drawn over."""
        text = re.sub(
            r"[^\n]*\r\x1b\[K|[^\n]*(\n[^\n]*)*\x1b\[\d+A\x1b\[J", "", terminal.shown.replace("\r\n", "\n")
        )
        text = text.replace(str(node.place), f"/home/{node.base.name}")
        return [line.rstrip() for line in text.replace("\r", "").split("\n") if line.strip()]

    def _learn(self, pairs: list[tuple[str, str]]) -> None:
        for shown, real in pairs:
            for pattern in _TAKEN:
                self._real |= dict(zip(pattern.findall(shown), pattern.findall(real), strict=False))


def fits(expected: list[str], lines: list[str]) -> list[tuple[str, str]] | None:
    """Each expected line with the real one; None if what is shown is something else."""
    wanted = [line for line in expected if line.strip()]
    pairs: list[tuple[str, str]] = []
    at = 0
    for number, line in enumerate(wanted):
        if line.strip() == "…":
            continue
        skip = number > 0 and wanted[number - 1].strip() == "…"
        pattern = re.compile(".*".join(map(re.escape, map(str.strip, same(line).split("…")))))
        while at < len(lines) and not pattern.fullmatch(same(lines[at])):
            if not skip:
                return None
            at += 1
        if at == len(lines):
            return None
        pairs.append((line, lines[at]))
        at += 1
    open_end = bool(wanted) and wanted[-1].strip() == "…"
    return pairs if open_end or at == len(lines) else None


def run_page(path: Path, root: Path, *, tell: bool = False) -> int:
    """Run a page; how many commands it has."""
    steps = list(steps_of(path.read_text(encoding="utf-8")))
    people = list(dict.fromkeys(step.person for step in steps))
    with room(len(people)) as world, Lab(root) as lab:
        Page(steps, machines(lab, world, " ".join(people)), world, tell).run()
    return len(steps)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        run_page(Path(sys.argv[1]), Path(directory), tell=True)
