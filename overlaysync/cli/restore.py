"""The restore command: VMs of a team come back, with the masters they stand on."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any

import typer

from overlaysync.cli.common import (
    FIND_S,
    DryRunOption,
    InterfaceOption,
    MastersOption,
    PeerOption,
    RateOption,
    WaitOption,
    compression,
    interruptible,
    open_node,
    parse_peers,
    parse_rate,
)
from overlaysync.cli.output import Output, output_of
from overlaysync.cli.refusals import of_several, refusal_fields, refusal_lines
from overlaysync.cli.save import state_word
from overlaysync.cli.wishes import parse_wish
from overlaysync.errors import OverlaysyncError
from overlaysync.model.names import name_from
from overlaysync.node.archiving import archive_places
from overlaysync.node.fetch_session import fetching
from overlaysync.node.network import Network
from overlaysync.node.node import Node, now
from overlaysync.node.restore_plan import Restored, VmPlan, to_pull
from overlaysync.node.restoring import Restore
from overlaysync.node.vault_places import peer_places
from overlaysync.ops.dates import ago, local_minute
from overlaysync.ops.recovery.choosing import Wish
from overlaysync.ops.recovery.gathering import Gathered
from overlaysync.ops.recovery.pulling import Place
from overlaysync.ops.recovery.vaults import space_of
from overlaysync.ops.vms.inetdoc import read_lab
from overlaysync.ops.vms.start import start_line
from overlaysync.units import format_size


def add_commands(app: typer.Typer) -> None:
    """Add the command of this module to ``app``."""
    app.command("restore")(restore)


def restore(
    context: typer.Context,
    reference: Annotated[
        str,
        typer.Argument(metavar="TEAM[:STATE]", help="The team, or one of its states, by number or id."),
    ],
    to: Annotated[str, typer.Option("--to", metavar="DIR", help="Put the VMs into this directory.")] = ".",
    at: Annotated[
        str,
        typer.Option(
            "--at",
            metavar="TIME",
            help="Restore the newest states not later than TIME, such as '2026-11-29 14:30'.",
        ),
    ] = "",
    vm: Annotated[
        list[str] | None, typer.Option("--vm", metavar="NAME", help="Restore only this VM. May be repeated.")
    ] = None,
    masters: MastersOption = None,
    dry_run: DryRunOption = False,
    peer: PeerOption = None,
    iface: InterfaceOption = None,
    limit_rate: RateOption = None,
    wait: WaitOption = FIND_S,
) -> None:
    """Restore VMs of a team, with the masters they stand on."""

    output = output_of(context)
    network = Network(
        parse_peers(peer), iface or (), parse_rate(limit_rate), compression(), mdns_needed=False
    )
    with open_node(output) as node, interruptible():
        wish = parse_wish(node, reference, at, vm or [])
        work = _Restoring(output, node, network, wish, dry_run, wait)
        asyncio.run(work.run(os.path.abspath(to), [os.path.abspath(path) for path in masters or ()]))


class _Restoring:
    """The restore command's own part: what it shows, and in which order things happen."""

    def __init__(
        self, output: Output, node: Node, network: Network, wish: Wish, dry_run: bool, wait_s: float
    ) -> None:
        self._output = output
        self._node = node
        self._network = network
        self._wish = wish
        self._dry_run = dry_run
        self._wait_s = wait_s

    async def run(self, to: str, masters: Sequence[str]) -> None:
        """Find, plan, and unless it is a dry run pull and rebuild."""

        node, team = self._node, self._node.teams[self._wish.team]
        work = Restore(node, team, self._output, to, masters)
        async with fetching(node, self._output, self._network, work.options) as session:
            reach, tag = session.fetch.reach, space_of(team).tag
            archives = await asyncio.to_thread(archive_places, node)
            work.use([*await peer_places(node, reach, tag, wait_s=self._wait_s), *archives])
            gathered = await asyncio.to_thread(work.gather)
            self._tell(gathered)
            for place in archives:
                if place.problem:
                    self._output.note(f"  {place.label} cannot be used: {place.problem}")
            plans = await asyncio.to_thread(work.plan, gathered, self._wish, session.fetch)
            for plan in plans:
                self._show(plan, gathered)
            if plans:
                self._output.note(_pull_words(plans, archives))
            if self._dry_run:
                self._print_plan(plans, work)
                return
            restored = []
            async with work.pulling(plans):
                for plan in plans:
                    restored.append(await work.bring(plan, session.fetch))
            self._print(restored, work)

    def _tell(self, gathered: Gathered) -> None:
        for line in gathered.old:
            self._output.note(f"  {line}. The outdated list is not used")
        for line in gathered.stale:
            self._output.note(f"  {line}: what is restored may be older than you expect")
        for damage in gathered.damaged:
            self._output.note(f"  {damage.name} cannot be used: {damage.why}")

    def _show(self, plan: VmPlan, gathered: Gathered) -> None:
        state = plan.saving.state
        where = ", ".join(label or "this machine" for label in gathered.at.get(state.id, ()))
        self._output.note(
            f"  {plan.saving.vm.name}  from {state.state.team}:{state.state.number} "
            f"({state_word(state.id)}), {ago(plan.saving.vm.at, now())}, at {where}"
        )
        for disk in plan.disks:
            for step in disk.steps[:-1]:
                self._output.note(
                    f"    its master {step.header.name} is not on this machine, and will be restored first"
                )

    def _print_plan(self, plans: Sequence[VmPlan], work: Restore) -> None:
        document = {"plan": [_plan_fields(plan) for plan in plans]} | _failed(work)
        lines = [f"would write {disk.path}" for plan in plans for disk in plan.disks]
        self._output.result(document, *lines)
        self._complain(work, len(plans))

    def _print(self, restored: Sequence[Restored], work: Restore) -> None:
        warnings = [_warnings(one) for one in restored]
        lines = []
        for one, warned in zip(restored, warnings, strict=True):
            vm = one.plan.saving.vm
            before = f"  {format_size(one.resumed)} from before" if one.resumed else ""
            files = [*(disk.path for disk in one.plan.disks), *one.companions]
            lines.append(self._output.good(f"{vm.name}  {', '.join(files)}{before} · verified"))
            lines += [f"  not in the state: {left.file} ({left.why})" for left in vm.left_out]
            lines.append(f"  to start it: {start_line(vm, one.plan.directory, moved=True)}")
            lines += [f"  before you start it: {warning}" for warning in warned]
        fields = map(_restored_fields, restored, warnings)
        document = {"restored": list(fields)} | _failed(work)
        self._output.result(document, *lines)
        self._complain(work, len(restored))

    def _complain(self, work: Restore, done: int) -> None:
        if not work.refusals:
            return
        total = done + len(work.refusals)
        if total == 1:
            raise work.refusals[0].error
        for refusal in work.refusals:
            self._output.note("\n".join(refusal_lines(refusal)))
        raise of_several(work.refusals, total, "VMs could not be restored", told=self._output.tells)


def _warnings(one: Restored) -> list[str]:
    """Return what is to be known of the definitions of a VM before it is started."""

    found = []
    for path in one.companions:
        if path.endswith(".conf"):
            found.append(f"read {path}: quickemu runs it as a shell script, and a member wrote it")
        if path.endswith((".yaml", ".yml")):
            with open(path, "rb") as file:
                lab = None
                with suppress(OverlaysyncError):  # it is the user's, and no program's to judge
                    lab = read_lab(file.read(), path)
            found += [
                f"remove 'force_copy: true' from {path}, or lab-startup.py replaces the restored disk"
                for vm in lab or ()
                if vm.force_copy and name_from(vm.name) == one.plan.saving.vm.name
            ]
    return found


def _pull_words(plans: Sequence[VmPlan], archives: Sequence[Place]) -> str:
    """Return how much is pulled; from an archive, each object is a request, which may cost money."""

    count = len({name for plan in plans for name in plan.missing})
    words = f"  {format_size(to_pull(plans))} to pull"
    return f"{words}, in {count} requests" if count and archives else words


def _plan_fields(plan: VmPlan) -> dict[str, Any]:
    state = plan.saving.state
    return {
        "vm": plan.saving.vm.name,
        "state": state.state.number,
        "id": state.id.hex(),
        "at": plan.saving.vm.at,
        "saved": local_minute(state.state.saved),
        "directory": plan.directory,
        "disks": [
            {
                "path": disk.path,
                "missing_masters": [step.header.name for step in disk.steps[:-1]],
            }
            for disk in plan.disks
        ],
        "pull": sum(plan.missing.values()),
    }


def _restored_fields(one: Restored, warnings: list[str]) -> dict[str, Any]:
    vm, plan = one.plan.saving.vm, one.plan
    return _plan_fields(plan) | {
        "companions": list(one.companions),
        "left_out": [left.file for left in vm.left_out],
        "start": start_line(vm, plan.directory, moved=True),
        "resumed": one.resumed,
        "warnings": warnings,
    }


def _failed(work: Restore) -> dict[str, Any]:
    return {"failed": [refusal_fields(one) for one in work.refusals]} if work.refusals else {}
