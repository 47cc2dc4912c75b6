"""The report of a drill as a page that prints on one sheet of A4, in black and white too.

The page needs nothing but itself: no script, no other file. The template engine escapes every text in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from overlaysync.model.names import printable
from overlaysync.ops.dates import local_minute
from overlaysync.ops.drill.report import Report, VmReport
from overlaysync.ops.drill.timeline import timeline_of
from overlaysync.ops.drill.verdict import VERDICTS, duration
from overlaysync.units import format_size

_ACCELERATORS = {"no": "VMs were not booted", "kvm": "booted with KVM", "tcg": "booted under emulation"}
_CONSISTENCY = {"crash": "while it ran", "fs": "frozen"}
_EVIDENCE, _ROWS, _SENTENCES, _FEW = 4, 10, 3, 4
"""VMs that are shown with all they printed; VMs in the table; sentences of a list."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A time and its target, in words."""

    name: str
    french: str
    value: str
    target: str
    margin: str


def report_page(report: Report, digest: str) -> str:
    """Return the page.

    Args:
        report: of the drill.
        digest: of the report in JSON, which the page names.
    """
    environment = Environment(
        loader=PackageLoader("overlaysync.cli"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {
        "duration": duration,
        "size": format_size,
        "minute": local_minute,
        "safe_line": printable,
        "short": _short,
    }
    many = len(report.vms) > _FEW
    room = _EVIDENCE // 2 if many else _EVIDENCE
    # What failed is what people want to see.
    booted = sorted((vm for vm in report.vms if vm.boot), key=lambda vm: vm.verdict == "passed")
    shown = booted[:room]
    return environment.get_template("drill.html").render(
        report=report,
        digest=digest,
        timeline=timeline_of(report),
        measured=(
            _measured("RTO", "DMIA", report.rto_s, report.targets.rto_s),
            _measured("RPO", "PDMA", report.rpo_s, report.targets.rpo_s),
        ),
        verdicts=VERDICTS,
        accelerator=_ACCELERATORS[report.booted],
        consistency=_CONSISTENCY,
        rows=report.vms[:_ROWS],
        more_rows=len(report.vms) - _ROWS,
        shown=shown,
        console_lines=_console_lines(shown),
        many=many,
        losses=_cut(report.would_be_lost, _SENTENCES),
        advice=_cut(report.advice, _SENTENCES),
    )


def _measured(name: str, french: str, measured: float | None, target: float | None) -> Measured:
    margin = ""
    if measured is not None and target is not None:
        less = target - measured
        margin = f"{duration(less)} to spare" if less >= 0 else f"missed by {duration(-less)}"
    elif target is not None:
        margin = "missed: not all VMs came back"
    return Measured(
        name,
        french,
        "–" if measured is None else duration(measured),
        "no target" if target is None else f"target {duration(target)}",
        margin,
    )


def _cut(sentences: Sequence[str], most: int) -> list[str]:
    """Return as many sentences as there is room for."""
    more = len(sentences) - most
    kept = [printable(one, 300) for one in sentences[:most]]
    return [*kept, f"and {more} more, in the JSON report"] if more > 0 else kept


def _console_lines(shown: Sequence[VmReport]) -> int:
    """Return how many lines of a console there is room for."""
    return {0: 0, 1: 8, 2: 6}.get(len(shown), 4)


def _short(id: str) -> str:
    """Return the beginning of an id: enough to compare it with a list on paper."""
    return f"{id[:15]}…" if len(id) > 16 else id
