"""A room fetches from one node: real processes on shaped links, found by mDNS, beside libtorrent and HTTP.

``scripts/bench swarm`` runs it. A host is a network namespace with a link to one switch (tests/e2e/room.py),
and the one that shares is a host of its own. Times count from the moment when the processes are started
together: the start of Python is in them. Every file that arrives is compared with its source.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks import report
from benchmarks.bench import Bench
from benchmarks.images import GIB, MIB
from benchmarks.measure import say
from benchmarks.options import add_common, numbers
from benchmarks.room_rows import RoomRows, rate_of
from benchmarks.row import Row
from benchmarks.sides import libtorrent_version
from tests.e2e.namespaces import NoNamespaceError
from tests.e2e.room import SHAPE, room

SIZES = (1, 2, 4, 8, 16)
SIZE_MIB, IMAGE_MIB, RUNS = 256, 512, 3
BEFORE_LATE = 4
"""Hosts that fetch already when another one joins."""
MARKS = report.Marks(
    "<!-- the room, measured: scripts/bench swarm replaces everything from here ... -->",
    "<!-- ... to here: the room -->",
)


@dataclass(frozen=True, slots=True)
class Options:
    """What is asked for.

    Attributes:
        sizes: numbers of hosts that fetch together.
        size: of the random data, in bytes.
        image_size: of the file system image, in bytes.
        runs: measurements of each side; plain HTTP is measured once.
        others: whether libtorrent and HTTP are measured too.
        quick: whether this is only a smoke test.
        rows: numbers of rows; empty for all.
        place: where the files go.
        write: whether the figures go into the document.
    """

    sizes: tuple[int, ...]
    size: int
    image_size: int
    runs: int
    others: bool
    quick: bool
    rows: frozenset[int]
    place: Path
    write: bool

    def chosen_rows(self) -> list[Row]:
        before_late = 1 if self.quick else BEFORE_LATE
        rows = RoomRows(self.sizes, self.size, before_late, self.others).all()
        return [row for row in rows if not self.rows or row.number in self.rows]

    def space(self) -> int:
        """Bytes on disk: the sources, and the files of all hosts of one race."""
        copies = max(*self.sizes, BEFORE_LATE + 1)
        return (copies + 1) * self.size + 3 * self.image_size + GIB


def main(root: Path, words: Sequence[str]) -> int:
    """Measure, show, and write the figures into docs/benchmarks.md when everything was measured."""
    options = parse(root, words)
    try:
        with room(2, rate=rate_of(2)):
            pass
    except NoNamespaceError as error:
        return simulate(str(error))
    bench = Bench(size=options.image_size, runs=options.runs, quick=options.quick, root=root)
    with ExitStack() as stack:
        bench.start(options.place, options.space(), stack)
        results = [report.measure(row, bench) for row in options.chosen_rows()]
        about = facts(bench, options)
    report.show(results, about)
    if options.write:
        report.write(root / "docs" / "benchmarks.md", results, about, MARKS)
    say(f"docs/benchmarks.md {'written' if options.write else 'is left as it is'}")
    return 0


def parse(root: Path, words: Sequence[str]) -> Options:
    parser = argparse.ArgumentParser(prog="scripts/bench swarm", description=__doc__)
    add_common(parser, runs=str(RUNS))
    parser.add_argument("--sizes", type=numbers, metavar="N,N", help="numbers of hosts that fetch together")
    parser.add_argument("--size-mib", type=int, metavar="N", help=f"of random data (default: {SIZE_MIB})")
    parser.add_argument("--no-others", action="store_true", help="without libtorrent and plain HTTP")
    given = parser.parse_args(words)
    partly = given.quick or given.rows or given.sizes or given.size_mib or given.no_others or given.no_write
    return Options(
        sizes=tuple(sorted(given.sizes or ((1, 2) if given.quick else SIZES))),
        size=(given.size_mib or (16 if given.quick else SIZE_MIB)) * MIB,
        image_size=(64 if given.quick else IMAGE_MIB) * MIB,
        runs=given.runs or (1 if given.quick else RUNS),
        others=not given.no_others,
        quick=given.quick,
        rows=given.rows or frozenset(),
        place=Path(given.dir or root),
        write=not partly,
    )


def facts(bench: Bench, options: Options) -> list[tuple[str, str]]:
    """When, where and with what was measured."""
    torrent = libtorrent_version()
    return [
        *report.machine_facts(bench),
        ("others", f"libtorrent {torrent}" if torrent else "libtorrent is not installed"),
        ("links", f"tbf in both directions: {SHAPE}; TCP with cubic"),
        (
            "data",
            f"{options.size // MIB} MiB of random bytes" + (f"; {bench.filled}" if bench.filled else ""),
        ),
        ("runs", f"{bench.runs} of each side, in turns; plain HTTP once"),
    ]


def simulate(reason: str) -> int:
    """What can be done without a room."""
    say(f"no room of network namespaces here: {reason}")
    if importlib.util.find_spec("benchmarks.room_simulation") is None:
        say("and no simulator that could stand in for it (scripts/benchmarks/room_simulation.py)")
        return 1
    simulation = importlib.import_module("benchmarks.room_simulation")
    say("the simulator instead: the same decisions, but no processes and no data")
    simulation.run()
    return 0
