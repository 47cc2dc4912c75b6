"""What a VM that is saved continues: what this node saved of it before, and what its disks were made from.

What another machine saved of a VM of this name counts only where it can be seen in the disks: to know of it
is not to have it. A state that changed nothing but companions cannot be seen in them: there the companions
decide, or that it was restored here. Pure: the caller brings the past of the disks.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from overlaysync.ops.recovery.tips import Saving, merged_past, newest_of_vms
from overlaysync.vault.state import Past, SignedState


@dataclass(frozen=True, slots=True)
class Present:
    """A VM as it is here.

    Attributes:
        disks: ids of the manifests of its disks, and of all that these follow, in hexadecimal.
        companions: (file, digests of its parts) of each.
        origins: ids of the states that its disks were restored from, as far as that was noted.
    """

    disks: Collection[str]
    companions: Collection[tuple[str, tuple[str, ...]]] = ()
    origins: Collection[bytes] = ()


@dataclass(frozen=True, slots=True)
class Continued:
    """What a VM continues.

    Attributes:
        past: as a state has it.
        beside: where others saved it, which it does not continue: the other sides of a fork.
    """

    past: tuple[Past, ...]
    beside: tuple[Saving, ...]


def continued(
    name: str, present: Present, states: Sequence[SignedState], node: bytes, *, settle: bool
) -> Continued:
    """Return what a VM continues that is saved now.

    Args:
        name: of the VM.
        present: what there is of it.
        states: all that are known.
        node: public key of this node.
        settle: whether it takes the place of all that is known of it.
    """
    savings = [Saving(vm, state) for state in states for vm in state.state.vms if vm.name == name]
    left = [state for state in states if any(vm.name == name for vm in state.state.vms)]
    beside: list[Saving] = []
    while newest := newest_of_vms(left).get(name, []):
        apart = [
            one for one in newest if not (settle or one.state.node == node or _is_in(one, present, savings))
        ]
        if not apart:
            break
        beside += [] if beside else apart
        ids = {one.state.id for one in apart}
        left = [state for state in left if state.id not in ids]
    found = merged_past(one.vm.past for one in newest)
    for one in newest:
        found[one.node] = max(one.counter, found.get(one.node, 0))
    return Continued(
        tuple(Past(node=key, counter=counter) for key, counter in sorted(found.items())), tuple(beside)
    )


def _is_in(saving: Saving, present: Present, savings: Sequence[Saving]) -> bool:
    """Whether what is here was made from what another machine saved."""
    disks = {disk.manifest for disk in saving.vm.disks}
    if not disks <= set(present.disks):
        return False
    if saving.state.id in present.origins or disks - _disks_before(saving, savings):
        return True  # it was restored, or its disks can be from nowhere else
    return {(one.file, one.parts) for one in saving.vm.companions} == set(present.companions)


def _disks_before(saving: Saving, savings: Sequence[Saving]) -> set[str]:
    """Return the manifests of the disks that the VM had in what a state of it goes on from."""
    past = {one.node: one.counter for one in saving.vm.past}
    before = (one for one in savings if one.counter <= past.get(one.node, 0))
    return {disk.manifest for one in before for disk in one.vm.disks}
