"""A room fetches from one node: real processes on shaped links, found by mDNS, beside libtorrent and HTTP.

``scripts/bench swarm`` runs it. A host is a network namespace with a link to one switch (tests/e2e/room.py),
and the one that shares is a host of its own. Times count from the moment when the processes are started
together: the start of Python is in them. Every file that arrives is compared with its source.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import shutil
import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from blake3 import blake3

from benchmarks import report
from benchmarks.bench import Bench, Line, at_most
from benchmarks.images import GIB, MIB
from benchmarks.measure import CannotMeasureError, Series, say, take_turns
from benchmarks.options import add_common, numbers
from benchmarks.race import Entry, Finish, race
from benchmarks.rows import Row
from benchmarks.sides import Http, Ours, Side, Torrent, libtorrent_version
from tests.e2e.namespaces import NoNamespaceError
from tests.e2e.room import MBIT, SHAPE, Room, room

SIZES = (1, 2, 4, 8, 16)
SIZE_MIB, IMAGE_MIB, RUNS = 256, 512, 3
BEFORE_LATE = 4
"""Hosts that fetch already when another one joins."""
MARKS = report.Marks(
    "<!-- the room, measured: scripts/bench swarm replaces everything from here ... -->",
    "<!-- ... to here: the room -->",
)
_NOISE = "noise.raw"
_ENDS_LATER_S = 0.5
_WITHOUT = {"OVERLAYSYNC_COMPRESSION": "never"}
"""Of a ``fetch`` that asks for no compression."""


def rate_of(count: int) -> int:
    """Bits per second of each link: many links at full rate are more than a small machine can carry."""
    return 100 * MBIT if count <= 8 else 50 * MBIT


def reach_of(count: int) -> float:
    """What the last one's time should be at most, as a multiple of size / rate."""
    return 1.10 if count == 1 else 1.25 if count <= 8 else 1.35


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

    @property
    def before_late(self) -> int:
        return 1 if self.quick else BEFORE_LATE


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
        bench.start(options.place, space(options), stack)
        results = [report.measure(row, bench) for row in Swarm(options).rows() if chosen(row, options)]
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


def space(options: Options) -> int:
    """Bytes on disk: the sources, and the files of all hosts of one race."""
    copies = max(*options.sizes, BEFORE_LATE + 1)
    return (copies + 1) * options.size + 3 * options.image_size + GIB


def chosen(row: Row, options: Options) -> bool:
    return not options.rows or row.number in options.rows


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


@dataclass(frozen=True, slots=True)
class Swarm:
    """The rows, as far as they are asked for."""

    options: Options

    def rows(self) -> tuple[Row, ...]:
        size = f"{self.options.size // MIB} MiB"
        return (
            Row(8, f"A room fetches {size} of random data from one node, all at once", self.together),
            Row(9, "One joins when half of the time is over", self.late),
            Row(10, "Compression, one fetch over a link of 100 Mbit/s", self.compression),
        )

    # -- 8: together -------------------------------------------------------------------------------------

    def together(self, bench: Bench) -> list[Line]:
        """All start at once; the last one's time counts."""
        return [line for count in self.options.sizes for line in self._of_size(bench, count)]

    def _of_size(self, bench: Bench, count: int) -> list[Line]:
        say(f"   -- {count} at {rate_of(count) // MBIT} Mbit/s")
        heat = Heat(bench, self._noise(bench), rate_of(count), (0.0,) * count)
        times, problems = take_turns_or_tell(bench.runs, self._sides(bench), heat)
        if self.options.others:
            once, failed = take_turns_or_tell(1, [Http(bench)], heat)
            times, problems = times | once, problems | failed
        what = f"N = {count} at {rate_of(count) // MBIT} Mbit/s"
        return [*together_lines(what, count, heat, times), *problem_lines(what, problems)]

    def _sides(self, bench: Bench) -> list[Side]:
        torrent = [Torrent(bench)] if self.options.others and libtorrent_version() else []
        return [Ours(bench), *torrent]

    # -- 9: late -----------------------------------------------------------------------------------------

    def late(self, bench: Bench) -> list[Line]:
        """The others began before; only the late one's time counts, from its own start."""
        count, rate = self.options.before_late + 1, rate_of(self.options.before_late + 1)
        ideal_s = self.options.size * 8 / rate
        heat = Heat(bench, self._noise(bench), rate, (*(0.0,) * (count - 1), ideal_s / 2))
        times, problems = take_turns_or_tell(bench.runs, self._sides(bench), heat)
        what = f"N = {count - 1} at {rate // MBIT} Mbit/s, and one more"
        return [*late_lines(what, heat, times), *problem_lines(what, problems)]

    # -- 10: compression ---------------------------------------------------------------------------------

    def compression(self, bench: Bench) -> list[Line]:
        """The same fetch with and without."""
        bench.make_master()
        return [
            *self._compressed(bench, bench.master, "a file system of real files", 0.65),
            *self._compressed(bench, self._noise(bench), "random data", 1.03),
        ]

    def _compressed(self, bench: Bench, source: Path, what: str, limit: float) -> list[Line]:
        sides = [Ours(bench, "allowed"), Ours(bench, "never", _WITHOUT)]
        heat = Heat(bench, source, rate_of(1), (0.0,))
        times, problems = take_turns_or_tell(bench.runs, sides, heat)
        if problems:
            return problem_lines(what, problems)
        return compression_lines(what, limit, times)

    def _noise(self, bench: Bench) -> Path:
        """Random bytes, made once."""
        path = bench.directory("noise") / _NOISE
        if not path.exists():
            with path.open("wb") as file:
                for start in range(0, self.options.size, MIB):
                    file.write(os.urandom(min(MIB, self.options.size - start)))
        return path


# -- one race ----------------------------------------------------------------------------------------


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
        """One race: seconds of the last, median and latest-started host, and bytes that the first host sends.

        Raises:
            CannotMeasureError: a process failed, or what it fetched is not the source.
        """
        target = self.bench.directory("fetched")
        try:
            with room(len(self.delays_s) + 1, rate=self.rate) as made, side.serving(made, self.source):
                entries = self._entries(side, made, target)
                before = made.hosts[0].sent()
                finishes = race(entries, self._limit_s(), self.bench.scratch)
                sent = made.hosts[0].sent() - before
            self._check(sorted(target.glob(f"*/{self.source.name}")))
        finally:
            shutil.rmtree(target)
        return figures(finishes) | {"sent": float(sent)}

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


def digest(path: Path) -> bytes:
    """Of the whole file."""
    return blake3(max_threads=blake3.AUTO).update_mmap(path).digest()


def figures(finishes: Sequence[Finish]) -> dict[str, float]:
    """Seconds until the last, the median, the last started had their files; until all processes had ended."""
    arrived = [finish.arrived_s for finish in finishes]
    times = {"last": max(arrived), "median": statistics.median(arrived), "late": arrived[-1]}
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


# -- lines -------------------------------------------------------------------------------------------


def together_lines(what: str, count: int, heat: Heat, times: Times) -> list[Line]:
    if "overlaysync last" not in times:
        return []
    last = times["overlaysync last"]
    lines = [
        to_ideal(f"{what}, the last one has it", last, heat, reach_of(count)),
        to_ideal("the median one has it", times["overlaysync median"], heat),
    ]
    ended = times.get("overlaysync ended")
    if ended and ended.median - last.median > _ENDS_LATER_S:
        lines.append(to_ideal("the last process has ended", ended, heat))
    for name, label in (
        ("libtorrent", f"libtorrent {libtorrent_version()}"),
        ("HTTP", "HTTP from one host"),
    ):
        if f"{name} last" in times:
            lines.append(beside("the last one has it", last, label, times[f"{name} last"], heat))
    return [*lines, *sent_lines(count, heat, times)]


def sent_lines(count: int, heat: Heat, times: Times) -> list[Line]:
    """What the first host sends, headers included."""
    sent = times["overlaysync sent"]
    size, what, ours = f"{heat.size / MIB:.0f} MiB", "the node that shares sends", in_mib(sent)
    ratio = sent.median / heat.size
    told = Line(what, ours, "the size", size, ratio)
    lines = (
        [at_most(1.5, ratio, what=what, ours=ours, against="the size", theirs=size)] if count == 8 else [told]
    )
    if count > 1 and (theirs := times.get("libtorrent sent")):
        lines.append(Line(what, ours, "libtorrent's seed", in_mib(theirs), sent.median / theirs.median))
    return lines


def late_lines(what: str, heat: Heat, times: Times) -> list[Line]:
    if "overlaysync late" not in times:
        return []
    late = times["overlaysync late"]
    lines = [to_ideal(f"{what}: from its start until it has it", late, heat, 1.3)]
    if theirs := times.get("libtorrent late"):
        lines.append(beside("the same", late, f"libtorrent {libtorrent_version()}", theirs, heat))
    return lines


def compression_lines(what: str, limit: float, times: Times) -> list[Line]:
    allowed, never = times["allowed last"], times["never last"]
    sent = times["allowed sent"], times["never sent"]
    ratio = allowed.median / never.median
    against = "without compression"
    return [
        at_most(limit, ratio, what=what, ours=allowed.text(), against=against, theirs=never.text()),
        Line("bytes on the wire", in_mib(sent[0]), against, in_mib(sent[1]), sent[0].median / sent[1].median),
    ]


def problem_lines(what: str, problems: Mapping[str, str]) -> list[Line]:
    return [Line(f"{what}: {name} failed: {text}", "", good=False) for name, text in problems.items()]


def to_ideal(what: str, times: Series, heat: Heat, limit: float | None = None) -> Line:
    """Against size / rate."""
    ratio, ideal = times.median / heat.ideal_s, f"{heat.ideal_s:.2f} s"
    if limit is None:
        return Line(what, times.text(), "size / rate", ideal, ratio)
    return at_most(limit, ratio, what=what, ours=times.text(), against="size / rate", theirs=ideal)


def beside(what: str, ours: Series, against: str, theirs: Series, heat: Heat) -> Line:
    """Against another side, whose own ratio to size / rate is told."""
    text = f"{theirs.text()}, {theirs.median / heat.ideal_s:.2f} × size / rate"
    return Line(what, ours.text(), against, text, ours.median / theirs.median)


def in_mib(amount: Series) -> str:
    return amount.text("MiB", 1 / MIB, 0)
