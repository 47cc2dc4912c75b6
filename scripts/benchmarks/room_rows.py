"""The rows of the room: who fetches what from whom, and what is reached when."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench import Bench, Line, at_most
from benchmarks.heats import Heat, Times, take_turns_or_tell
from benchmarks.images import MIB
from benchmarks.measure import Series, say
from benchmarks.row import Row
from benchmarks.sides import OTHERS, Http, Ours, Side, Torrent, libtorrent_version
from tests.e2e.room import MBIT

_NOISE = "noise.raw"
_ENDS_LATER_S = 0.5
_WITHOUT = {"OVERLAYSYNC_COMPRESSION": "never"}
"""Of a ``fetch`` that asks for no compression."""


def rate_of(count: int) -> int:
    """Bits per second of each link: many links at full rate are more than a small machine can carry."""
    return 100 * MBIT if count <= 8 else 50 * MBIT


def reach_of(count: int) -> float:
    """What the last one's time should be at most, as a multiple of size / rate."""
    return 1.10 if count == 1 else 1.20 if count <= 8 else 1.35


@dataclass(frozen=True, slots=True)
class RoomRows:
    """The rows, for what was asked.

    Attributes:
        sizes: numbers of hosts that fetch together.
        size: of the random data, in bytes.
        before_late: hosts that fetch already when another one joins.
        others: whether libtorrent and HTTP are measured too.
    """

    sizes: tuple[int, ...]
    size: int
    before_late: int
    others: bool

    def all(self) -> tuple[Row, ...]:
        size = f"{self.size // MIB} MiB"
        return (
            Row(9, f"A room fetches {size} of random data from one node, all at once", self.together),
            Row(10, "One joins when half of the time is over", self.late),
            Row(11, "Compression, one fetch over a link of 100 Mbit/s", self.compression),
        )

    # -- 8: together -------------------------------------------------------------------------------------

    def together(self, bench: Bench) -> list[Line]:
        """All start at once; the last one's time counts."""
        return [line for count in self.sizes for line in self._of_size(bench, count)]

    def _of_size(self, bench: Bench, count: int) -> list[Line]:
        say(f"   -- {count} at {rate_of(count) // MBIT} Mbit/s")
        heat = Heat(bench, self._noise(bench), rate_of(count), (0.0,) * count)
        times, problems = take_turns_or_tell(bench.runs, self._sides(bench), heat)
        if self.others:
            once, failed = take_turns_or_tell(1, [Http(bench)], heat)
            times, problems = times | once, problems | failed
        what = f"N = {count} at {rate_of(count) // MBIT} Mbit/s"
        return [*together_lines(what, count, heat, times), *problem_lines(what, problems)]

    def _sides(self, bench: Bench) -> list[Side]:
        torrent = [Torrent(bench)] if self.others and libtorrent_version() else []
        return [Ours(bench), *torrent]

    # -- 9: late -----------------------------------------------------------------------------------------

    def late(self, bench: Bench) -> list[Line]:
        """The others began before; only the late one's time counts, from its own start."""
        count, rate = self.before_late, rate_of(self.before_late + 1)
        half_s = self.size * 8 / rate / 2
        heat = Heat(bench, self._noise(bench), rate, (*(0.0,) * count, half_s))
        times, problems = take_turns_or_tell(bench.runs, self._sides(bench), heat)
        what = f"N = {count} at {rate // MBIT} Mbit/s, and one more"
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
                for start in range(0, self.size, MIB):
                    file.write(os.urandom(min(MIB, self.size - start)))
        return path


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
    sent, what = times["overlaysync sent"], "the node that shares sends"
    size = f"{heat.size / MIB:.0f} MiB"
    lines = [
        compared(what, in_mib(sent), "the size", size, sent.median / heat.size, 1.5 if count == 8 else None)
    ]
    if count > 1 and (theirs := times.get("libtorrent sent")):
        ratio = sent.median / theirs.median
        lines.append(compared(what, in_mib(sent), "libtorrent's seed", in_mib(theirs), ratio))
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
    """Sides that failed; a failure of ours is a figure not reached."""
    return [
        Line(f"{what}: {name} failed: {text}", "", good=None if name in OTHERS else False)
        for name, text in problems.items()
    ]


def to_ideal(what: str, times: Series, heat: Heat, limit: float | None = None) -> Line:
    """Against size / rate."""
    ratio = times.median / heat.ideal_s
    return compared(what, times.text(), "size / rate", f"{heat.ideal_s:.2f} s", ratio, limit)


def compared(
    what: str, ours: str, against: str, theirs: str, ratio: float, limit: float | None = None
) -> Line:
    """A line that is only told, unless there is a limit."""
    if limit is None:
        return Line(what, ours, against, theirs, ratio)
    return at_most(limit, ratio, what=what, ours=ours, against=against, theirs=theirs)


def beside(what: str, ours: Series, against: str, theirs: Series, heat: Heat) -> Line:
    """Against another side, whose own ratio to size / rate is told."""
    text = f"{theirs.text()}, {theirs.median / heat.ideal_s:.2f} × size / rate"
    return Line(what, ours.text(), against, text, ours.median / theirs.median)


def in_mib(amount: Series) -> str:
    return amount.text("MiB", 1 / MIB, 0)
