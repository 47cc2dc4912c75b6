"""What a real loss would have cost, and what to improve: sentences for a report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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
    return _joined(_losses(vms, facts))


def advice_of(vms: Sequence[VmReport], facts: Facts, judgement: Judgement) -> tuple[str, ...]:
    """Return what to improve."""
    return _joined(_advice(vms, facts, judgement))


def _joined(sentences: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Return sentences about VMs, each once, with the names of all that it is about."""
    about: dict[str, list[str]] = {}
    for name, sentence in sentences:
        about.setdefault(sentence, []).append(name)
    names = {sentence: ", ".join(filter(None, those)) for sentence, those in about.items()}
    return tuple(f"{those}: {sentence}" if those else sentence for sentence, those in names.items())


def _losses(vms: Sequence[VmReport], facts: Facts) -> Iterator[tuple[str, str]]:
    for vm in vms:
        if vm.verdict not in ("passed", "not-tested"):
            yield vm.name, f"all of it, as things are now ({vm.why})"
        elif vm.rpo_s is not None:
            changed = ", and it was written to since" if vm.changed else ""
            yield vm.name, f"what was done in the {duration(vm.rpo_s)} before the drill{changed}"
    for name in facts.never:
        yield name, "all of it: it is in no state"
    for sentence in facts.stale:
        yield "", sentence


def _advice(vms: Sequence[VmReport], facts: Facts, judgement: Judgement) -> Iterator[tuple[str, str]]:
    for vm in vms:
        if vm.changed:
            yield vm.name, f"written to since: overlaysync save --team {facts.team}"
        for left in vm.left_out:
            yield vm.name, f"{left.file} is in no state ({left.why})"
        if vm.consistency == "crash":
            yield vm.name, "saved as a power failure would have left it: shut it down before you save it"
        if len(vm.held_at) == 1:
            command = f"overlaysync keep {facts.team}"
            yield vm.name, f"only {vm.held_at[0]} was left with it; on another machine: {command}"
    if facts.never:
        yield "", f"Save what is in no state: overlaysync save --team {facts.team}"
    if facts.damaged:
        yield "", f"{facts.damaged} objects could not be used: overlaysync vault check --read"
    if not facts.booted:
        yield "", f"See whether the VMs boot: overlaysync drill {facts.team} --boot"
    if facts.emulated:
        why = f": {facts.why_emulated}" if facts.why_emulated else ""
        yield "", f"Boot times were measured without KVM{why}; they say nothing about a machine with KVM"
    if any(vm.verdict == "not-tested" for vm in vms):
        yield "", "Say how to tell that a VM is ready, for example: --ready tcp:22"
    if judgement.verdict == "failed" and not vms:
        yield "", f"Let more machines keep the team's states: overlaysync keep {facts.team}"
