"""The drill command: rehearse a restore, timed and reported, without touching what is here."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from blake3 import blake3

from overlaysync.cli.common import (
    FIND_S,
    InterfaceOption,
    PeerOption,
    RateOption,
    WaitOption,
    compression,
    number_from,
    open_node,
    parse_peers,
    parse_rate,
)
from overlaysync.cli.drill_page import report_page
from overlaysync.cli.drill_watch import Clock, Told
from overlaysync.cli.output import Output, output_of
from overlaysync.cli.tables import Fail, Table
from overlaysync.cli.wishes import parse_wish
from overlaysync.errors import BrokenOffError, NotFoundError, OverlaysyncError, UsageError
from overlaysync.model.names import printable
from overlaysync.node.booting import BootRules
from overlaysync.node.drilling import Drill, DrillRules
from overlaysync.node.lost import Lost
from overlaysync.node.network import Network
from overlaysync.node.node import Node
from overlaysync.node.observer import Silent
from overlaysync.node.scratch import scratch, sweep
from overlaysync.ops.drill.history import drills_in, earlier_of, record_drill, record_of
from overlaysync.ops.drill.probes import parse_probes
from overlaysync.ops.drill.report import Report, Targets, VmReport, report_json
from overlaysync.ops.drill.verdict import VERDICTS, duration
from overlaysync.ops.recovery.choosing import Wish
from overlaysync.ops.recovery.vaults import space_of
from overlaysync.store.files import put_file, translate
from overlaysync.units import MIB, parse_size
from overlaysync.vault.directory import DirectoryObjects

_EARLIER = 5
_MOST_MIN = 7 * 24 * 60.0


def add_commands(app: typer.Typer) -> None:
    """Add the command of this module to ``app``."""
    app.command("drill")(drill)


def drill(
    context: typer.Context,
    teams: Annotated[
        list[str],
        typer.Argument(
            metavar="TEAM[:STATE]...",
            help="Teams, or states of teams by number or id; there is one drill for each.",
        ),
    ],
    lose: Annotated[
        list[str] | None,
        typer.Option(
            "--lose",
            metavar="HOST",
            help="Pretend that HOST, a machine or an archive, is gone. May be repeated.",
        ),
    ] = None,
    boot: Annotated[bool, typer.Option("--boot", help="Boot each VM, cut off from every network.")] = False,
    ready: Annotated[
        list[str] | None,
        typer.Option(
            "--ready",
            metavar="[VM=]PROBE",
            help="How to tell that a VM is ready: tcp:PORT, serial:REGEX, agent, or a command. "
            "May be repeated.",
        ),
    ] = None,
    rto: Annotated[
        float | None,
        typer.Option(
            "--rto",
            metavar="MIN",
            parser=number_from(0.001, _MOST_MIN),
            help="Fail if restoring all VMs takes more than this many minutes.",
        ),
    ] = None,
    rpo: Annotated[
        float | None,
        typer.Option(
            "--rpo",
            metavar="MIN",
            parser=number_from(0.001, _MOST_MIN),
            help="Fail if a VM's restored disks are more than this many minutes older than the drill.",
        ),
    ] = None,
    vm: Annotated[
        list[str] | None, typer.Option("--vm", metavar="NAME", help="Restore only this VM. May be repeated.")
    ] = None,
    to: Annotated[str, typer.Option("--to", metavar="DIR", help="Put the report into this directory.")] = ".",
    scratch_directory: Annotated[
        str | None,
        typer.Option("--scratch", metavar="DIR", help="Restore into a temporary directory in DIR."),
    ] = None,
    memory: Annotated[
        str, typer.Option("--memory", metavar="SIZE", help="Boot each VM with this much memory.")
    ] = "2G",
    boot_limit: Annotated[
        float,
        typer.Option(
            "--boot-limit",
            metavar="MIN",
            parser=number_from(0.001, _MOST_MIN),
            help="Give up on a VM after this many minutes, or after ten times as many without KVM.",
        ),
    ] = 5.0,
    emulate: Annotated[bool, typer.Option("--emulate", help="Boot without KVM.")] = False,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Show a clock and what is left of the RTO, for a whole room to read."),
    ] = False,
    masters: Annotated[
        list[str] | None,
        typer.Option(
            "--masters",
            metavar="DIR",
            help="Also look for masters in DIR; missing ones go into the scratch directory. May be repeated.",
        ),
    ] = None,
    peer: PeerOption = None,
    iface: InterfaceOption = None,
    limit_rate: RateOption = None,
    wait: WaitOption = FIND_S,
) -> None:
    """Rehearse the loss of machines: restore, boot and report."""

    output = output_of(context)
    if not boot and (ready or emulate):
        option = "--ready" if ready else "--emulate"
        raise UsageError(f"{option} has no meaning without --boot", hint="add --boot, or leave it out")
    rules = BootRules(parse_probes(ready or ()), boot_limit * 60, parse_size(memory) // MIB, emulate)
    if rules.memory_mib < 16:
        raise UsageError(f"--memory {memory} is too little for a VM", hint="--memory 512M")
    if watch and not sys.stderr.isatty():
        raise UsageError("--watch needs a terminal to show its clock on", hint="leave --watch out")
    if not os.path.isdir(to):
        raise NotFoundError(f"There is no directory '{printable(to)}' for the report", hint=f"mkdir '{to}'")
    network = Network(
        parse_peers(peer), iface or (), parse_rate(limit_rate), compression(), mdns_needed=False
    )
    targets = Targets(rto_s=_seconds(rto), rpo_s=_seconds(rpo))
    with open_node(output) as node:
        wishes = [parse_wish(node, name, "", vm or []) for name in dict.fromkeys(teams)]
        left = sweep(node.home.drills)
        if left:
            output.note(f"  removed what was left of {left} drill{'s' if left > 1 else ''} that were killed")
        drilling = _Drilling(output, node, network, Path(os.path.abspath(to)), watch=watch)
        reports = []
        for wish in wishes:
            if len(wishes) > 1 and not watch:
                output.note(f"team {wish.team}")
            own = DrillRules(
                Lost(tuple(dict.fromkeys(lose or ()))),
                targets,
                rules if boot else None,
                tuple(map(os.path.abspath, masters or ())),
                wait,
            )
            reports.append(drilling.run(wish, own, scratch_directory))
        drilling.show(reports)


class _Drilling:
    """The drill command's own part: what it shows, and where reports go."""

    def __init__(self, output: Output, node: Node, network: Network, to: Path, *, watch: bool) -> None:
        self._watch = watch
        self._output = output
        self._node = node
        self._network = network
        self._to = to

    def run(self, wish: Wish, rules: DrillRules, elsewhere: str | None) -> tuple[Report, Path, Path]:
        """Do one drill, write its report, and record it."""
        node = self._node
        space, objects = space_of(node.teams[wish.team]), DirectoryObjects(node.home.vault)
        earlier = earlier_of(drills_in(objects, space), _EARLIER)
        place = Path(os.path.abspath(elsewhere)) if elsewhere else None
        with scratch(node.home.drills, place) as found:
            clock = Clock(wish.team, rules.targets.rto_s) if self._watch else None
            observer, watcher = (self._output, Told(self._output)) if clock is None else (Silent(), clock)
            work = Drill(node, wish, rules, observer, watcher, self._network, found, earlier)
            try:
                with clock.shown() if clock else nullcontext():
                    report = asyncio.run(work.run())
            except KeyboardInterrupt:
                raise BrokenOffError("interrupted; the drill leaves nothing behind") from None
        data = report_json(report)
        digest = blake3(data).hexdigest()
        page = report_page(report, digest)
        stem = f"drill-{report.team}-{report.started.replace(':', '').replace('-', '')}"
        json_path, html_path = self._to / f"{stem}.json", self._to / f"{stem}.html"
        _put(self._to, {json_path.name: data, html_path.name: page.encode()})
        record_drill(objects, space, node.key, record_of(report, digest))
        return report, json_path, html_path

    def show(self, reports: Sequence[tuple[Report, Path, Path]]) -> None:
        """Print what came out, and fail if a drill did."""
        many = len(reports) > 1  # the only one that fails says why in its error
        lines = [line for one in reports for line in _lines(self._output, one[0], one[2], reasons=many)]
        table = [Table(_rows([report for report, _, _ in reports]))] if many else []
        self._output.result({"drills": [_fields(*one) for one in reports]}, *lines, *table)
        failed = [(report, page) for report, _, page in reports if report.exit_code]
        if len(failed) == 1 or (failed and len(reports) == 1):
            raise _failed(*failed[0])
        if failed:
            error = OverlaysyncError(
                f"{len(failed)} of {len(reports)} drills failed", hint="read their reports, named above"
            )
            error.exit_code = failed[0][0].exit_code
            raise error


def _put(directory: Path, files: Mapping[str, bytes]) -> None:
    """Write the files of a report.

    Raises:
        OverlaysyncError: they cannot be written.
    """
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name, data in files.items():
                put_file(fd, name, data, replaces=True)
        finally:
            os.close(fd)
    except OSError as error:
        raise translate(error, f"Cannot write the report into {directory}", hint="--to DIR") from error


def _seconds(minutes: float | None) -> float | None:
    return None if minutes is None else minutes * 60


def _failed(report: Report, page: Path) -> OverlaysyncError:
    error = OverlaysyncError(
        f"The drill of team '{report.team}' {_WORDS[report.verdict]}",
        why="; ".join(report.why),
        hint=f"read the report: {page}",
    )
    error.exit_code = report.exit_code
    return error


_WORDS = {
    "passed": "passed",
    "partial": "brought back only some of the VMs",
    "failed": "failed",
    "timed-out": "timed out",
    "not-tested": "brought all VMs back, but did not test whether they work",
}


def _lines(output: Output, report: Report, page: Path, *, reasons: bool) -> list[str]:
    head = f"{report.team}  the drill {_WORDS[report.verdict]}"
    good = report.exit_code == 0
    times = [f"RTO {duration(report.rto_s)}"] if report.rto_s is not None else []
    times += [f"RPO {duration(report.rpo_s)}"] if report.rpo_s is not None else []
    lines = [output.good(head) if good else f"✗ {head}"]
    lines += [f"  {' · '.join(times)}"] if times else []
    lines += [f"  {reason}" for reason in report.why] if reasons and not good else []
    lines += [f"  {_vm_words(vm)}" for vm in report.vms]
    return [*lines, f"  report: {page}"]


def _rows(reports: Sequence[Report]) -> list[tuple[str, ...]]:
    """Return the table of several teams: the quickest first, those that failed last."""
    worst = float("inf")
    ordered = sorted(
        reports, key=lambda one: (bool(one.exit_code), worst if one.rto_s is None else one.rto_s)
    )
    rows: list[tuple[str, ...]] = [("team", "verdict", "VMs back", "RTO", "RPO")]
    for one in ordered:
        back = sum(vm.back_s is not None for vm in one.vms)
        words = Fail(VERDICTS[one.verdict]) if one.exit_code else VERDICTS[one.verdict]
        times = ["–" if value is None else duration(value) for value in (one.rto_s, one.rpo_s)]
        rows.append((one.team, words, f"{back} of {len(one.vms)}", *times))
    return rows


def _vm_words(vm: VmReport) -> str:
    back = f"back after {duration(vm.back_s)}" if vm.back_s is not None else "not back"
    said = vm.boot.evidence if vm.boot and vm.verdict != "failed" else vm.why
    return "  ".join(filter(None, (vm.name, back, said)))


def _fields(report: Report, data: Path, page: Path) -> dict[str, Any]:
    return {
        "team": report.team,
        "verdict": report.verdict,
        "why": list(report.why),
        "exit_code": report.exit_code,
        "rto_s": report.rto_s,
        "rpo_s": report.rpo_s,
        "report": str(data),
        "page": str(page),
    }
