"""The timeline of a drill, drawn to scale: lanes of bars, an axis, and marks, as numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from overlaysync.ops.drill.report import PHASES, Phase, Report

WIDTH = 1000.0
"""Units of the picture from the start of the drill to its end."""
MOST_LANES = 7
"""VMs that have a lane of their own."""
ALL = "all"

_LEAST = 2.0
"""Units of the shortest bar: one that is shorter could not be seen."""
_TICKS = 8
_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400)


@dataclass(frozen=True, slots=True)
class Bar:
    """A phase in a lane: from ``x``, ``width`` units long."""

    phase: Phase
    x: float
    width: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Lane:
    """What happened to one VM, or to all together.

    Attributes:
        name: of the VM; :data:`ALL`.
        bars: in the order of time.
        back: where it was back; None where it was not.
    """

    name: str
    bars: tuple[Bar, ...]
    back: float | None = None


@dataclass(frozen=True, slots=True)
class Tick:
    """A line of the axis."""

    x: float
    label: str


@dataclass(frozen=True, slots=True)
class Timeline:
    """The picture.

    Attributes:
        lanes: from above.
        ticks: of the axis.
        target: where the RTO was to be; None where there is none, or where it is off the picture.
        phases: those that occur.
        hidden: how many VMs have no lane.
    """

    lanes: tuple[Lane, ...]
    ticks: tuple[Tick, ...]
    target: float | None
    phases: tuple[Phase, ...]
    hidden: int


def timeline_of(report: Report) -> Timeline:
    """Return the picture of a drill."""
    end = max([span.end_s for span in report.spans] + [report.rto_s or 0.0, 0.1])
    target = report.targets.rto_s
    # A target that is near belongs into the picture; one that is far away would leave nothing to see.
    shown = max(end, target) if target is not None and target <= 2 * end else end
    scale = WIDTH / shown
    lanes = [Lane(ALL, _bars(report, "", scale))]
    for vm in report.vms[:MOST_LANES]:
        back = None if vm.back_s is None else vm.back_s * scale
        lanes.append(Lane(vm.name, _bars(report, vm.name, scale), back))
    return Timeline(
        tuple(lanes),
        _ticks(shown, scale),
        target * scale if target is not None and target <= shown else None,
        tuple(phase for phase in PHASES if any(span.phase == phase for span in report.spans)),
        max(0, len(report.vms) - MOST_LANES),
    )


def _bars(report: Report, vm: str, scale: float) -> tuple[Bar, ...]:
    found = []
    for span in report.spans:
        if span.vm == vm:
            seconds = span.end_s - span.start_s
            found.append(Bar(span.phase, span.start_s * scale, max(_LEAST, seconds * scale), seconds))
    return tuple(found)


def _label(seconds: float) -> str:
    """Return a place on the axis in words."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length and not seconds % length:
            return f"{seconds / length:g} {unit}"
    return f"{round(seconds, 1):g} s"


def _ticks(seconds: float, scale: float) -> tuple[Tick, ...]:
    step = next((step for step in _STEPS if seconds / step <= _TICKS), _STEPS[-1])
    return tuple(Tick(n * step * scale, _label(n * step)) for n in range(math.floor(seconds / step) + 1))
