"""Four machines on one switch, and the model of them: what each has, whom it reaches, what it must see.

Ana and Dora share directories with everybody, Ben shares one with a team, and Cid, who is in the team as Ana
is, follows some of it with ``sync --watch``. The clock of all is a file (libfaketime), where that library is:
hours pass while a machine sleeps. Only the clock on the wall is moved. The other one stands still in Linux
while a machine sleeps, and Python's waits for locks do not end when it is moved.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from overlaysync.net.messages import DEFAULT_PORT, Address, decode_peers
from overlaysync.units import KIB, MIB
from tests.e2e import disks
from tests.e2e.nodes import DONE, Lab, Node, Process, until
from tests.e2e.room import INTERFACE, Host, Room

NAMES = ("ana", "ben", "cid", "dora")
STEADY = ("ben", "dora")
"""Their shares are never ended, so that they show what a month makes of a process."""

_LOOK_S = 4.0
"""How often all machines list what they see: two processors start four commands in half of that."""

_FAKETIME = "libfaketimeMT.so.1"
_PEERS = (
    "import sys, urllib.request as r; sys.stdout.buffer.write("
    "r.build_opener(r.ProxyHandler({})).open(sys.argv[1], timeout=3).read())"
)


def faketime() -> str:
    """The path of libfaketime for processes with threads; "" where it is not installed."""
    found = sorted(Path("/usr/lib").glob(f"*/faketime/{_FAKETIME}"))
    return str(found[0]) if found else ""


@dataclass(frozen=True, slots=True)
class Seen:
    """A line of ``ls``.

    Attributes:
        nodes: who serves it.
        used_at: where a VM uses it.
    """

    nodes: frozenset[str]
    used_at: frozenset[str] = frozenset()


View = Mapping[tuple[str, int], Seen]
"""(name with its team, version) → who has it."""


@dataclass(slots=True, eq=False)
class Image:
    """An image as a machine has it.

    Attributes:
        path: its file.
        name: with its team, as it is listed.
        team: who sees it; "" for everybody.
        version: the last that the machine has published or fetched; 0 before the first.
        changed: whether its file was written to since.
        used: whether a VM has it open.
    """

    path: Path
    name: str
    team: str = ""
    version: int = 0
    changed: bool = True
    used: bool = False


@dataclass(slots=True, eq=False)
class Machine:
    """A machine.

    Attributes:
        words: the command that it runs.
        process: the command; None while it does not run.
        images: by name.
        follows: names that it fetches, and passes on.
        teams: that it is in.
        up: whether its interface is.
        cable: whether it is plugged in.
        segment: the switch that it is on.
        asleep: whether all its processes are stopped.
        addresses: IPv4 addresses of its interface.
        drift_s: how wrong its clock is.
        lives: every process it has had.
    """

    host: Host
    node: Node
    words: tuple[str, ...]
    process: Process | None = None
    images: dict[str, Image] = field(default_factory=dict)
    follows: tuple[str, ...] = ()
    teams: frozenset[str] = frozenset({""})
    up: bool = True
    cable: bool = True
    segment: int = 0
    asleep: bool = False
    addresses: list[str] = field(default_factory=list)
    drift_s: int = 0
    clock: str = ""
    lives: list[Process] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.node.base.name

    @property
    def serves(self) -> bool:
        """Whether its command runs and is awake."""
        return self.process is not None and not self.asleep

    @property
    def plugged(self) -> bool:
        return self.up and self.cable

    def reaches(self, other: Machine) -> bool:
        """Whether packets go from one to the other."""
        return self is other or (self.plugged and other.plugged and self.segment == other.segment)

    def on(self, *lines: str) -> str:
        """What commands print that run on it."""
        command = [*self.host.prefix, "sh", "-e", "-c", "\n".join(lines)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{self.name}: {lines}: {done.stderr}"
        return done.stdout

    def own_link_local(self) -> str:
        shown = self.on(f"ip -6 -o address show dev {INTERFACE} scope link -tentative").split()
        return f"{shown[3].partition('/')[0]}%{INTERFACE}" if shown else ""

    def own_addresses(self) -> set[str]:
        """Where others reach it at this moment, without scopes."""
        shown = self.on(f"ip -o address show dev {INTERFACE} -tentative").splitlines()
        return {line.split()[3].partition("/")[0] for line in shown}

    # -- its command ---------------------------------------------------------------------------------

    def environment(self) -> dict[str, str]:
        """What moves its clock."""
        if not self.clock:
            return {}
        return {
            "LD_PRELOAD": self.clock,
            "FAKETIME_TIMESTAMP_FILE": str(self._clock_file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }

    @property
    def _clock_file(self) -> Path:
        return self.node.base / "clock"

    def set_clock(self, passed_s: int) -> None:
        """So many seconds have passed for all, and the clock is wrong besides."""
        new = self._clock_file.with_suffix(".new")
        new.write_text(f"{passed_s + self.drift_s:+d}\n")
        new.replace(self._clock_file)

    def start(self) -> None:
        self.process = self.node.start(*self.words, **self.environment())
        self.lives.append(self.process)

    def ready(self, *, within_s: float = 40) -> None:
        """Wait until it serves."""
        process = self.process
        assert process is not None

        def serves() -> bool:
            assert process.running, f"{self.name} ended: {process.stderr}"
            return "Ctrl-C ends" in process.stdout + process.stderr

        until(serves, within_s=within_s, what=f"{self.name} serving")

    def end(self, number: signal.Signals) -> None:
        """End the command by a signal."""
        assert self.process is not None
        self.process.popen.send_signal(number)
        result = self.process.wait(within_s=20)
        expected = {signal.SIGINT: 130, signal.SIGTERM: DONE, signal.SIGKILL: -signal.SIGKILL}
        assert result.code == expected[number], f"{self.name}: exit {result.code}: {result.stderr}"
        self.process = None

    def stop(self) -> None:
        """All its processes stand still."""
        assert self.process is not None
        os.killpg(self.process.popen.pid, signal.SIGSTOP)
        self.asleep = True

    def wake(self) -> None:
        assert self.process is not None
        os.killpg(self.process.popen.pid, signal.SIGCONT)
        self.asleep = False

    # -- what is seen from it ------------------------------------------------------------------------

    def look(self) -> Process:
        """Begin to list what a command sees here that knows nothing yet."""
        return self.node.start("ls", "--json", **self.environment())

    def known(self, asker: Machine | None = None) -> set[str]:
        """Hosts that its command, which runs for long, tells another machine of, or its own.

        A link-local address is told on its link only.
        """
        host, where = (self.own_link_local(), asker) if asker else ("127.0.0.1", self)
        url = f"http://{Address(host, DEFAULT_PORT)}/v1/peers"
        command = [*where.host.prefix, "python3", "-S", "-c", _PEERS, url]
        done = subprocess.run(command, capture_output=True, check=False)
        told = decode_peers(done.stdout) if host and done.returncode == 0 else ()
        return {address.host.partition("%")[0] for address in told}


def view_of(document: Any) -> View:
    """What ``ls --json`` says."""
    return {
        (f"{item['team']}/{item['name']}" if item["team"] else item["name"], item["version"]): Seen(
            frozenset(label.partition("@")[0] for label in item["nodes"]),
            frozenset(one["node"].partition("@")[0] for one in item["in_use_at"]),
        )
        for item in document["images"]
    }


@dataclass(slots=True)
class School:
    """All machines, and the time that has passed on their clocks."""

    room: Room
    machines: dict[str, Machine]
    team: str
    passed_s: int = 0
    published: int = 0

    @classmethod
    def of(cls, room: Room, lab: Lab, *, clock: str) -> School:
        """Four machines that are set up; their commands do not run yet."""
        nodes = {
            name: lab.node(name, prefix=host.prefix) for name, host in zip(NAMES, room.hosts, strict=True)
        }
        team = lab.team("red", nodes["ana"], nodes["ben"], nodes["cid"])
        follows = ("web", f"{team}/plan")
        words = {
            "ana": ("share", "--public", "--yes", str(nodes["ana"].place)),
            "ben": ("share", "--team", team, str(nodes["ben"].place)),
            "cid": ("sync", *follows, "--watch", "--to", str(nodes["cid"].place)),
            "dora": ("share", str(nodes["dora"].place)),
        }
        machines = {}
        for host, (name, node) in zip(room.hosts, nodes.items(), strict=True):
            teams = {""} if name == "dora" else {"", team}
            made = Machine(host, node, words[name], teams=frozenset(teams), clock=clock)
            made.addresses = [host.address]
            made.set_clock(0)
            machines[name] = made
        school = cls(room, machines, team)
        for name, stem, whom in (("ana", "web", ""), ("ben", "plan", team), ("dora", "lab", "")):
            school._make(machines[name], stem, whom)
        machines["cid"].follows = tuple(name for one in ("ana", "ben") for name in machines[one].images)
        return school

    def _make(self, machine: Machine, stem: str, team: str) -> None:
        """A master, which stays as it is, and an overlay on it."""
        place = machine.node.place
        master = disks.make_master(place / f"{stem}base.qcow2", size=MIB)
        overlay = disks.make_overlay(place / f"{stem}.qcow2", master, (0, 64 * KIB))
        master.chmod(0o444)
        for path in (master, overlay):
            name = f"{team}/{path.stem}" if team else path.stem
            machine.images[name] = Image(path, name, team)

    def __iter__(self) -> Iterator[Machine]:
        return iter(self.machines.values())

    def __getitem__(self, name: str) -> Machine:
        return self.machines[name]

    def pass_time(self, seconds: int) -> None:
        """The clocks on all walls go on."""
        self.passed_s += seconds
        for machine in self:
            machine.set_clock(self.passed_s)

    # -- the model -----------------------------------------------------------------------------------

    def settle(self) -> None:
        """What commands that run do about changes: publish them, and fetch what they follow."""
        for machine in self:
            for image in machine.images.values():
                own = image.name not in machine.follows
                if own and machine.serves and image.changed and not image.used:
                    image.version += 1
                    image.changed = False
                    self.published += 1
        for machine in self:
            for name in machine.follows if machine.serves else ():
                source = self._newest(machine, name)
                if source is None:
                    continue
                here = machine.images.setdefault(
                    name, Image(machine.node.place / source.path.name, name, source.team, changed=False)
                )
                here.version = max(here.version, source.version)

    def _newest(self, machine: Machine, name: str) -> Image | None:
        """The newest version that a machine can get."""
        found = [
            other.images[name]
            for other in self
            if other is not machine and other.serves and machine.reaches(other) and name in other.images
        ]
        served = [image for image in found if image.version and not image.used]
        return max(served, key=lambda image: image.version, default=None)

    def expected(self, looker: Machine) -> View:
        """What a command must list on a machine."""
        seen: dict[tuple[str, int], Seen] = {}
        for machine in self:
            if not machine.serves or not looker.reaches(machine):
                continue
            for image in machine.images.values():
                if image.team not in looker.teams or not image.version:
                    continue
                key = image.name, image.version
                before = seen.get(key, Seen(frozenset()))
                if image.used:
                    seen[key] = Seen(before.nodes, before.used_at | {machine.name})
                else:
                    seen[key] = Seen(before.nodes | {machine.name}, before.used_at)
        return seen

    def lookers(self) -> list[Machine]:
        return [machine for machine in self if not machine.asleep]

    def strangers(self, machine: Machine) -> list[str]:
        """Machines that a command which runs for long should know by now, and does not."""
        others = [other for other in self if other is not machine and other.serves and machine.reaches(other)]
        there = {other.name: other.own_addresses() for other in others}
        known = machine.known() if others else set()
        if others and not all(known & addresses for addresses in there.values()):
            known |= machine.known(others[0])
        return [name for name, addresses in there.items() if not known & addresses]


def wrong(expected: View, seen: View) -> list[str]:
    """How a list differs from what it should be."""

    def shown(view: View, key: tuple[str, int]) -> str:
        if key not in view:
            return "not listed"
        used = f", in use at {sorted(view[key].used_at)}" if view[key].used_at else ""
        return f"{sorted(view[key].nodes)}{used}"

    return [
        f"{key[0]}:{key[1]}: {shown(seen, key)} instead of {shown(expected, key)}"
        for key in sorted({*expected, *seen})
        if expected.get(key) != seen.get(key)
    ]


@dataclass(slots=True)
class Found:
    """How long it took until all saw a change.

    A command looks around for some seconds, so what counts is when it began. A change is seen first between
    the last look that was wrong and the first that was right; the later of the two is given here.

    Attributes:
        listed_s: from the change to the begin of the last machine's first command that listed it right.
        known_s: until the commands that stay knew each other.
        late: what was still wrong when a look began that should have been right.
    """

    listed_s: float = 0.0
    known_s: float = 0.0
    late: list[str] = field(default_factory=list)


def wait_until_found(school: School, changed_at: float, *, within_s: float, patience_s: float) -> Found:
    """Look from every machine again and again until all is seen as it should be.

    Args:
        changed_at: by ``time.monotonic``.
        within_s: what is wrong after that is told.
        patience_s: how long to look for it all the same, so that the next change is judged by itself.
    """
    school.settle()
    waiting = {machine.name: machine for machine in school.lookers()}
    strangers = {name: machine for name, machine in waiting.items() if machine.serves}
    found = Found()
    late: dict[str, list[str]] = {}
    began = 0.0
    while (waiting or strangers) and began <= patience_s:
        began = time.monotonic() - changed_at
        looks = {name: machine.look() for name, machine in waiting.items()}
        for name, machine in list(strangers.items()):
            asked_s = time.monotonic() - changed_at
            if missing := school.strangers(machine):
                if asked_s > within_s:
                    late.setdefault(f"{name}'s command", [f"does not know {', '.join(missing)}"])
            else:
                del strangers[name]
                found.known_s = max(found.known_s, asked_s)
        for name, look in looks.items():
            if differences := _differences(school.expected(waiting[name]), look):
                if began > within_s:
                    late.setdefault(name, differences)
            else:
                del waiting[name]
                found.listed_s = max(found.listed_s, began)
        if waiting or strangers:
            time.sleep(max(0.0, changed_at + began + _LOOK_S - time.monotonic()))
    end = "given up" if waiting or strangers else f"right after {max(found.listed_s, found.known_s):.1f} s"
    found.late = [f"{name}: {line} ({end})" for name, lines in late.items() for line in lines]
    return found


def _differences(expected: View, look: Process) -> list[str]:
    """What is wrong with the list of a command; where there is nothing it may say that nothing answers."""
    result = look.wait(within_s=60)
    if result.code == DONE:
        return wrong(expected, view_of(result.document))
    return [f"exit {result.code}: {result.stdout}{result.stderr}"] if expected else []
