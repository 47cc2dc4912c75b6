"""The status command: which VMs of a team are safe, and what would be lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from overlaysync.cli.common import (
    InterfaceOption,
    LocalOption,
    PeerOption,
    WaitOption,
    machines,
    open_node,
    parse_peers,
)
from overlaysync.cli.looking import LOOK_S
from overlaysync.cli.output import output_of
from overlaysync.cli.save import team_of
from overlaysync.cli.tables import Table, Warn
from overlaysync.cli.watching import EVERY_S, Notes, View, WatchOption, next_look
from overlaysync.cli.watching import show as show_once
from overlaysync.cli.watching import watch as watching
from overlaysync.errors import NotReplicatedError
from overlaysync.model.names import one_field
from overlaysync.node.network import Network
from overlaysync.node.node import Node, now
from overlaysync.node.observer import Observer, Silent
from overlaysync.node.session import looking
from overlaysync.node.status import TeamStatus, known_status, team_status
from overlaysync.ops.dates import ago
from overlaysync.ops.drill.verdict import VERDICTS, duration
from overlaysync.ops.recovery.choosing import numbers_of
from overlaysync.ops.recovery.standing import Holder, VmStanding
from overlaysync.trust.teams import Team
from overlaysync.vault.drill import DrillRecord

if TYPE_CHECKING:  # see overlaysync.node.session
    from overlaysync.node.reach import Reach

_UNPROVEN = "no machine within reach has proven that it has them"


def add_commands(app: typer.Typer) -> None:
    """Add the command of this module to ``app``."""
    app.command("status")(status)


def status(
    context: typer.Context,
    team: Annotated[
        str | None, typer.Argument(metavar="[TEAM]", help="The team (default: all of yours).")
    ] = None,
    local: LocalOption = False,
    peer: PeerOption = None,
    iface: InterfaceOption = None,
    wait: WaitOption = LOOK_S,
    watch: WatchOption = False,
) -> None:
    """Show which VMs of a team are safe, and what would be lost."""

    output = output_of(context)
    network = Network(parse_peers(peer), iface or (), mdns_needed=False)
    with open_node(output) as node:
        if team is None and len(node.teams) > 1:
            teams = [node.teams[name] for name in sorted(node.teams)]
        else:
            teams = [team_of(node, team or "", "status")]
        if watch:
            watching(output, lambda show: _looks(node, teams, network, None if local else wait, show))
        found = asyncio.run(_look(node, teams, output, network, None if local else wait))
    show_once(output, _view(found))


async def _look(
    node: Node, teams: list[Team], observer: Observer, network: Network, wait_s: float | None
) -> list[TeamStatus]:
    if wait_s is None:
        return [known_status(node, team) for team in teams]
    async with looking(node, Silent(), network) as reach:
        return await _ask(node, teams, reach, observer, wait_s)


async def _ask(
    node: Node, teams: list[Team], reach: Reach, observer: Observer, wait_s: float
) -> list[TeamStatus]:
    """Return how the teams stand; only for the first of them it has to wait for machines."""
    return [
        await team_status(node, team, reach, observer, wait_s=0 if at else wait_s)
        for at, team in enumerate(teams)
    ]


async def _looks(
    node: Node, teams: list[Team], network: Network, wait_s: float | None, show: Callable[[View], None]
) -> None:
    """Show views again and again; of what is known here only, where there is nothing to wait for."""
    while wait_s is None:
        show(_view([known_status(node, team) for team in teams]))
        await asyncio.sleep(EVERY_S)
    notes = Notes()
    async with looking(node, notes, network) as reach:
        asked_at = asyncio.get_running_loop().time()
        while True:
            show(_view(await _ask(node, teams, reach, notes, wait_s), notes.taken()))
            asked_at, wait_s = await next_look(reach, asked_at), 0


def _view(found: list[TeamStatus], notes: tuple[str, ...] = ()) -> View:
    parts = [part for one in found for part in _parts(one, now())]
    problems = [f"  {problem}" for one in found for problem in one.problems]
    fields: dict[str, object] = {"teams": [_fields(one) for one in found]}
    return View(fields, tuple(parts), (*notes, *problems), _complaint(found))


def _complaint(found: list[TeamStatus]) -> NotReplicatedError | None:
    """Return what to say when something is not replicated as it should be, or was never saved."""
    lacking = [(one, vm) for one in found for vm in one.lacking]
    never = [(one, name) for one in found for name in one.never]
    unknown = [one.team for one in found if one.is_unknown]
    if not lacking and not never and unknown:
        return NotReplicatedError(
            f"No saved states are known for: {', '.join(unknown)}",
            why="this machine keeps nothing of it, and no other machine answered",
            hint="overlaysync peers; to keep copies here from now on: overlaysync keep " + unknown[0],
        )
    if not lacking and not never:
        return None
    if lacking:
        one, vm = lacking[0]
        names = ", ".join(f"{status.team}/{item.name}" for status, item in lacking)
        alone = f"; if {vm.lost_with} is lost, so is the VM" if vm.lost_with else ""
        return NotReplicatedError(
            f"On fewer than {one.needed} machines: {names}",
            why=f"{one.team}/{vm.name} is on {machines(vm.copies)}{alone}" if vm.copies else _UNPROVEN,
            hint=f"here and on another machine of the team, and let both run: overlaysync keep {one.team}",
        )
    one = never[0][0]
    return NotReplicatedError(
        f"Never saved: {', '.join(f'{status.team}/{item}' for status, item in never)}",
        hint=f"in the directory of the VM: overlaysync save --team {one.team}",
    )


def _parts(one: TeamStatus, at: float) -> list[str | Table]:
    if not one.vms and not one.never:
        return [f"{one.team}  {_nothing(one)}"]
    rows = [_row(one, vm, at) for vm in one.vms]
    rows += [(name, Warn("never saved"), "", "", "") for name in one.never]
    # Tables of one row, since a terminal wraps the words of a cell.
    return [Table([(one.team, _rpo(one, at))]), Table(rows, indent=2), Table([(_drill(one, at),)], indent=2)]


def _nothing(one: TeamStatus) -> str:
    if one.answered is None:
        return f"nothing of it is kept on this machine; to ask the others: overlaysync status {one.team}"
    if not one.answered:
        return "nothing of it is kept on this machine, and no other machine answered"
    others = "the machine that answered has none"
    if one.answered > 1:
        others = f"none of the {one.answered} machines that answered has one"
    return f"no state is on this machine, and {others}; to save: overlaysync save --team {one.team}"


def _rpo(one: TeamStatus, at: float) -> str:
    safe = [vm for vm in one.vms if vm.copies >= one.needed]
    if not safe:
        return f"no VM is proven to be on {one.needed} machines"
    worst = min(safe, key=lambda vm: vm.at)
    others = "" if len(safe) == len(one.vms) else f"of the VMs on {one.needed} machines, "
    back = f"{worst.name} loses the most: it falls back to the state saved {ago(worst.at, at)}"
    return f"if a machine is lost now, {others}{back}"


def _drill(one: TeamStatus, at: float) -> str:
    """Return when a restore was last rehearsed."""
    passed, last = one.passed, one.drilled
    if last is None:
        return f"no drill yet: overlaysync drill {one.team}"
    words = f"last drill that passed: {ago(passed.started, at)}" if passed else "no drill has passed"
    if passed == last:
        rto = f", all VMs back in {duration(last.rto_s)}" if last.rto_s is not None else ""
        return f"{words}, by {one_field(last.by)}{rto}"
    return f"{words}; the last one {VERDICTS[last.verdict]} {ago(last.started, at)}"


def _drill_fields(record: DrillRecord | None) -> dict[str, Any] | None:
    if record is None:
        return None
    return {
        "started": record.started,
        "by": record.by,
        "verdict": record.verdict,
        "lost": list(record.lost),
        "rto_s": record.rto_s,
        "rpo_s": record.rpo_s,
        "booted": record.booted,
    }


def _row(one: TeamStatus, vm: VmStanding, at: float) -> tuple[str, ...]:
    numbers = numbers_of(saving.state for saving in vm.savings)
    states = " and ".join(f"{one.team}:{number}" for number in numbers.values())
    fork = "  forked" if len(vm.savings) > 1 else ""
    changed = {True: "changed since", False: "unchanged", None: ""}[vm.changed]
    copies = f"on {machines(vm.copies)}, {one.needed} needed"
    where = ", ".join(_holder(holder, at) for holder in vm.holders) or "nowhere"
    return (
        vm.name,
        f"{states}, {ago(vm.at, at)}{fork}",
        changed,
        copies if vm.copies >= one.needed else Warn(copies),
        where,
    )


def _holder(holder: Holder, at: float) -> str:
    label = one_field(holder.label)
    if holder.here:
        return "here"
    if holder.problem:
        return f"{label} ({holder.problem})"
    return f"{label} (proven {ago(holder.proven_at, at)})" if holder.proven_at else f"{label} (not proven)"


def _fields(one: TeamStatus) -> dict[str, Any]:
    return {
        "team": one.team,
        "wanted": one.wanted,
        "needed": one.needed,
        "machines": one.machines,
        "never_saved": list(one.never),
        "last_drill": _drill_fields(one.drilled),
        "last_drill_passed": _drill_fields(one.passed),
        "vms": [
            {
                "name": vm.name,
                "states": [saving.state.state.number for saving in vm.savings],
                "at": vm.at,
                "fork": len(vm.savings) > 1,
                "changed": vm.changed,
                "copies": vm.copies,
                "lost_with": vm.lost_with or None,
                "holders": [
                    {
                        "label": holder.label,
                        "here": holder.here,
                        "proven_at": holder.proven_at or None,
                        "problem": holder.problem or None,
                    }
                    for holder in vm.holders
                ],
            }
            for vm in one.vms
        ],
    }
