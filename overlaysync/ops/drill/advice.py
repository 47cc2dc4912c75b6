"""What a real loss would have cost, and what to improve: sentences for a report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from overlaysync.ops.drill.report import VmReport
from overlaysync.ops.drill.verdict import Judgement, duration


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known beside the VMs.

    Attributes:
        team: its name.
        never: names of images of the team here that are in no state.
        stale: sentences on members of whom something newer was seen before than any place has now.
        damaged: how many heads and states could not be used.
        places: how many machines and archives were left to restore from, beside this one.
        booted: whether VMs were booted.
        emulated: whether without KVM.
        why_emulated: why, where there seems to be KVM.
    """

    team: str
    never: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()
    damaged: int = 0
    places: int = 0
    booted: bool = False
    emulated: bool = False
    why_emulated: str = ""


def losses_of(vms: Sequence[VmReport], facts: Facts) -> tuple[str, ...]:
    """Return what would have been lost."""
    return tuple(_losses(vms, facts))


def advice_of(vms: Sequence[VmReport], facts: Facts, judgement: Judgement) -> tuple[str, ...]:
    """Return what to improve."""
    return tuple(_advice(vms, facts, judgement))


def _losses(vms: Sequence[VmReport], facts: Facts) -> Iterator[str]:
    for vm in vms:
        if vm.verdict not in ("passed", "not-tested"):
            yield f"{vm.name}: all of it, as things are now ({vm.why})"
        elif vm.rpo_s is not None:
            changed = ", and it was written to since" if vm.changed else ""
            yield f"{vm.name}: what was done in the {duration(vm.rpo_s)} before the drill{changed}"
    for name in facts.never:
        yield f"{name}: all of it: it is in no state"
    yield from facts.stale


def _advice(vms: Sequence[VmReport], facts: Facts, judgement: Judgement) -> Iterator[str]:
    for vm in vms:
        if vm.changed:
            command = f"overlaysync save --team {facts.team} {vm.name}"
            yield f"Save {vm.name}, which was written to since: {command}"
        for left in vm.left_out:
            yield f"{vm.name}: {left.file} is in no state ({left.why})"
        if vm.consistency == "crash":
            yield f"{vm.name} was saved as after a power failure: power it off before you save it"
        if len(vm.held_at) == 1:
            command = f"overlaysync keep {facts.team}"
            yield f"{vm.name}: only {vm.held_at[0]} was left with it; on another machine: {command}"
    if facts.never:
        yield f"Save what is in no state: overlaysync save --team {facts.team}"
    if facts.damaged:
        yield f"{facts.damaged} objects could not be used: overlaysync vault check --read"
    if not facts.booted:
        yield f"See whether the VMs boot: overlaysync drill {facts.team} --boot"
    if facts.emulated:
        why = f": {facts.why_emulated}" if facts.why_emulated else ""
        yield f"Boot times were measured without KVM{why}; they say nothing of a machine that has it"
    if any(vm.verdict == "not-tested" for vm in vms):
        yield "Say how to tell that a VM is ready, for example: --ready tcp:22"
    if judgement.verdict == "failed" and not vms:
        yield f"Let more machines keep the team's states: overlaysync keep {facts.team}"
