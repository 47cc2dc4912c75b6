"""What commands that stay take of their machine: memory, descriptors, threads, their home, their log."""

from __future__ import annotations

import os
import re
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from overlaysync.units import KIB, MIB
from tests.e2e.nodes import Process, check_words
from tests.month.machines import Machine

_LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d +\S.*|  +\S.*")
_MOST_GROWTH = 1.1
_ALLOWED = 6 * MIB
_FEW = 6
_LEAST_SAMPLES = 16


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at a process.

    Attributes:
        change: after which change it was taken.
        home: bytes of the files in its node's home.
        parts: number of part files and journals of all its node's directories.
        open: what its descriptors are, for whoever has to find out which of them have become more.
    """

    change: int
    memory: int
    descriptors: int
    threads: int
    home: int
    parts: int
    open: Counter[str] = field(default_factory=Counter)


def sample(machine: Machine, change: int) -> Sample | None:
    """None when the command does not run."""
    if machine.process is None or not machine.process.running:
        return None
    process = Path(f"/proc/{machine.process.popen.pid}")
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    home, parts = 0, 0
    for path in (*machine.node.home.rglob("*"), *machine.node.place.iterdir()):
        try:
            size = path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # it has just gone
            continue
        home += size if path.is_relative_to(machine.node.home) else 0
        parts += "part" in path.suffix or "journal" in path.name
    opened = _open(process)
    return Sample(
        change,
        int(status["VmRSS"].split()[0]) * KIB,
        opened.total(),
        int(status["Threads"]),
        home,
        parts,
        opened,
    )


def _open(process: Path) -> Counter[str]:
    """What the descriptors of a process are: kinds of sockets with their state, directories of files."""
    sockets: dict[str, str] = {}
    for table in ("tcp", "tcp6", "udp", "udp6", "unix", "netlink"):
        for line in (process / "net" / table).read_text().splitlines()[1:]:
            words = line.split()
            inode = {"unix": 6, "netlink": 9}.get(table, 9)
            state = f" {words[3]}" if table.startswith("tcp") else ""
            sockets[f"socket:[{words[inode]}]"] = table + state
    opened: Counter[str] = Counter()
    for descriptor in (process / "fd").iterdir():
        with suppress(FileNotFoundError):  # closed since
            target = os.readlink(descriptor)
            opened[sockets.get(target) or (str(Path(target).parent) if target[0] == "/" else target)] += 1
    return opened


@dataclass(frozen=True, slots=True)
class Course:
    """How a number went, of one process: the medians of its second and of its last quarter.

    The first quarter is left out: caches fill, and modules are loaded when they are needed first.
    """

    early: float
    late: float

    @classmethod
    def of(cls, values: list[int]) -> Course:
        quarter = max(1, len(values) // 4)
        return cls(median(values[quarter : 2 * quarter] or values), median(values[-quarter:]))


def not_flat(samples: list[Sample]) -> list[str]:
    """What has grown of one process; with few samples nothing can be said."""
    if len(samples) < _LEAST_SAMPLES:
        return []
    memory = Course.of([one.memory for one in samples])
    grown = []
    if memory.late > memory.early * _MOST_GROWTH + _ALLOWED:
        grown.append(f"memory from {memory.early / MIB:.1f} to {memory.late / MIB:.1f} MiB")
    for what in ("descriptors", "threads", "parts"):
        course = Course.of([getattr(one, what) for one in samples])
        if course.late > course.early + _FEW:
            more = samples[-1].open - samples[len(samples) // 4].open if what == "descriptors" else None
            grown.append(
                f"{what} from {course.early:g} to {course.late:g}{f', of them {dict(more)}' if more else ''}"
            )
    return grown


def unreadable(process: Process) -> list[str]:
    """Lines of a log that have neither a time nor stand below one that has."""
    check_words(process.stderr)
    return [line for line in process.stderr.splitlines() if not _LINE.fullmatch(line)]
