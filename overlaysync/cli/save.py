"""The save command: keep what VMs are now, as a state of a team."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from overlaysync.cli.common import QmpOption, open_node, quoted
from overlaysync.cli.output import Output, output_of
from overlaysync.errors import BrokenOffError, UsageError
from overlaysync.model.digest import MIN_ID_DIGITS
from overlaysync.model.manifest import MAX_NOTE
from overlaysync.model.names import meant, one_field
from overlaysync.node.capturing import Means, wait_until_off
from overlaysync.node.node import Node, timestamp
from overlaysync.node.saving import Save, Saved
from overlaysync.node.vault_lock import WAIT_S
from overlaysync.ops.recovery.tips import Saving
from overlaysync.ops.recovery.vaults import space_of
from overlaysync.ops.vms.find import survey
from overlaysync.ops.vms.vm import Missed, Vm
from overlaysync.trust.teams import Team
from overlaysync.units import format_size
from overlaysync.vault.state import SavedVm

_LATELY_S = 86400.0
_CONSISTENCY = {
    "crash": "captured while it ran; its disks are as a power failure would have left them",
    "fs": "captured while it ran, with its file systems frozen",
}


def add_commands(app: typer.Typer) -> None:
    """Add the command of this module to ``app``."""
    app.command("save")(save)


def save(
    context: typer.Context,
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PATH...]",
            help="Directories, images, lab.yaml, domain XML or vm.toml (default: the current directory).",
        ),
    ] = None,
    team: Annotated[
        str, typer.Option("--team", metavar="TEAM", help="The team to save for (default: your only team).")
    ] = "",
    vm: Annotated[
        list[str] | None, typer.Option("--vm", metavar="NAME", help="Save only this VM. May be repeated.")
    ] = None,
    note: Annotated[
        str, typer.Option("-m", "--note", metavar="NOTE", help="Describe this state in one line.")
    ] = "",
    settle: Annotated[
        bool,
        typer.Option(
            "--settle", help="End a fork: the new state follows those that other machines saved of these VMs."
        ),
    ] = False,
    begin_anew: Annotated[
        bool, typer.Option("--begin-anew", help="Save even if the vault has lost what was saved before.")
    ] = False,
    qmp: QmpOption = None,
    pause: Annotated[
        bool,
        typer.Option("--pause", help="Pause a VM without a QMP monitor while its disks are copied."),
    ] = False,
    when_off: Annotated[
        bool, typer.Option("--when-off", help="Wait until the VMs are shut down, and save them then.")
    ] = False,
) -> None:
    """Save VMs as a state that can be restored."""

    output = output_of(context)
    if len(note) > MAX_NOTE or not note.isprintable():
        raise UsageError(
            f"A note is one line of at most {MAX_NOTE} characters",
            hint="overlaysync save -m 'A SHORTER NOTE'",
        )
    with open_node(output) as node:
        mine = team_of(node, team, "save")
        found = survey(paths or [os.getcwd()])
        vms = _chosen(found.vms, vm or [])
        work = Save(node, mine, output, note, settle, begin_anew, WAIT_S, Means(tuple(qmp or ()), pause))
        try:
            if when_off:
                wait_until_off(vms, output)
            saved = work.run(vms)
        except KeyboardInterrupt:
            raise BrokenOffError(
                "interrupted; no state was saved. Repeat the command: it reuses what is already in the vault"
            ) from None
        _print(output, saved, vms, found.left_out)
        for line in map(_fork, saved.beside):
            output.note(line)
        output.note(_copies(node, mine))


def team_of(node: Node, name: str, command: str) -> Team:
    """Return the team that is meant; without a name the only one that this machine is in.

    Raises:
        UsageError: it is in none, in several, or not in this one.
    """

    if not name and len(node.teams) == 1:
        return next(iter(node.teams.values()))
    if name in node.teams:
        return node.teams[name]
    if name:
        near = meant(name, node.teams)
        joined = f"overlaysync team join {name}"
        raise UsageError(
            f"This machine is not in team '{name}'",
            why=near,
            hint=f"overlaysync team show, for your teams; to join '{name}': {joined}" if near else joined,
        )
    if not node.teams:
        raise UsageError(
            "States belong to a team, and this machine is in none",
            hint="overlaysync team create NAME, or: overlaysync team join NAME",
        )
    names = sorted(node.teams)
    raise UsageError(
        f"This machine is in several teams: {', '.join(names)}",
        hint=f"overlaysync {command} --team {names[0]}",
    )


def _chosen(vms: Sequence[Vm], names: list[str]) -> list[Vm]:
    unknown = set(names) - {vm.name for vm in vms}
    if unknown:
        raise UsageError(
            f"There is no VM '{min(unknown)}' here",
            hint=f"use --vm with one of these: {', '.join(sorted(vm.name for vm in vms))}",
        )
    return [vm for vm in vms if not names or vm.name in names]


def _print(output: Output, saved: Saved, vms: Sequence[Vm], beside: Sequence[Missed]) -> None:
    """Print the state, and what is not in it: of its VMs, and of no VM (``beside``)."""
    state = saved.state.state
    title = f"{state.team}:{state.number}"
    lines = [
        output.good(
            f"{title}  {', '.join(vm.name for vm in state.vms)}{_said(state.note)}  "
            f"{format_size(saved.read)} of new data, {format_size(saved.stored)} stored"
        )
    ]
    lines += [
        f"  {vm.name}: {_CONSISTENCY[vm.consistency]}" for vm in state.vms if vm.consistency in _CONSISTENCY
    ]
    if saved.skew_s is not None:
        lines.append(f"  all that ran were captured within {saved.skew_s * 1000:.0f} ms")
    for vm in vms:
        lines += [f"  {vm.name}: {warning}" for warning in vm.warnings]
        lines += [f"  {vm.name}: left out {one.path}: {one.why}" for one in vm.left_out]
    lines += [f"  left out {one.path}: {one.why}" for one in beside]
    output.result(
        {
            "team": state.team,
            "state": state.number,
            "id": saved.state.id.hex(),
            "saved": state.saved,
            "note": state.note,
            "vms": [vm_fields(vm) for vm in state.vms],
            "left_out": [{"path": one.path, "why": one.why} for one in beside],
            "beside": [
                {"vm": one.vm.name, "state": one.state.state.number, "id": one.state.id.hex()}
                for one in saved.beside
            ],
            "read": saved.read,
            "stored": saved.stored,
            "skew_s": saved.skew_s,
        },
        *lines,
    )


def _fork(one: Saving) -> str:
    """Say of a VM that another machine saved what this one was not made from."""
    state = one.state.state
    return (
        f"  {one.vm.name}: a fork, since {state.team}:{state.number} ({state_word(one.state.id)}) of "
        f"{one_field(state.by) or '?'} is not in it. Both are kept, and restore takes neither until you say "
        f"which; to choose this one: overlaysync save --vm {one.vm.name} --settle"
    )


def _copies(node: Node, team: Team) -> str:
    """Return where the state is, and which machines will probably take copies: those seen lately."""

    seen = node.catalog.copies.seen(space_of(team).tag)
    lately = timestamp(ago_s=_LATELY_S)
    labels = sorted({one.label for one in seen if one.seen_at >= lately and one.holder != node.key.public})
    if labels:
        return (
            f"  on this machine only so far; {', '.join(labels)} can take copies while it runs: "
            f"overlaysync keep {team.name}; to see them: overlaysync status {team.name}"
        )
    return (
        "  on this machine only; to have a copy elsewhere, type here and on another machine: "
        f"overlaysync keep {team.name}"
    )


def _said(note: str) -> str:
    return f"  {quoted(note)}" if note else ""


def vm_fields(vm: SavedVm) -> dict[str, Any]:
    """Return the JSON form of a saved VM."""
    return {
        "name": vm.name,
        "at": vm.at,
        "consistency": vm.consistency,
        "disks": [{"file": disk.file, "manifest": disk.manifest} for disk in vm.disks],
        "companions": [{"file": one.file, "role": one.role, "size": one.size} for one in vm.companions],
        "left_out": [{"file": one.file, "why": one.why} for one in vm.left_out],
    }


def state_word(id: bytes) -> str:
    """Return the short form of a state's id."""
    return id.hex()[:MIN_ID_DIGITS]
