"""How a team stands: of each VM where it was saved last, on which machines that is, and what would be lost.

Pure: the caller brings what is known. A copy is everything that a state needs, whole, on one machine, and
proven not long ago; several holders on one machine are one copy.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from overlaysync.ops.recovery.placement import count_hosts
from overlaysync.ops.recovery.tips import Saving, newest_of_vms
from overlaysync.store.copies import Copy
from overlaysync.vault.state import SignedState

LEAST_COPIES = 2
"""A VM on fewer machines than this can be lost with one machine."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A machine, a node or an archive with a copy.

    Attributes:
        label: what people call it.
        marks: what tells its machine.
        here: whether it is this node.
        proven_at: when it last proved it, ISO 8601 UTC; "" for never, or too long ago.
        problem: what was wrong with its last proof.
    """

    label: str
    marks: frozenset[Hashable]
    here: bool
    proven_at: str
    problem: str = ""

    @property
    def counts(self) -> bool:
        """Whether it counts as a copy."""
        return self.here or bool(self.proven_at and not self.problem)


@dataclass(frozen=True, slots=True)
class VmStanding:
    """How one VM stands.

    Attributes:
        name: of the VM.
        savings: where it was saved last: one, or the sides of a fork.
        holders: all that have each of these states.
        copies: on how many machines these holders are.
        changed: whether a disk here was written to since; None where the VM is not here.
    """

    name: str
    savings: tuple[Saving, ...]
    holders: tuple[Holder, ...]
    copies: int
    changed: bool | None

    @property
    def at(self) -> str:
        """The moment that the older of its last states shows, ISO 8601 UTC."""
        return min(saving.vm.at for saving in self.savings)

    @property
    def lost_with(self) -> str:
        """The label of the only machine that has it; "" where there are more, or none."""
        counting = [holder for holder in self.holders if holder.counts]
        return counting[0].label if self.copies == 1 else ""


@dataclass(frozen=True, slots=True)
class Own:
    """What stands for this node among the holders.

    Attributes:
        key: its public key.
        label: what people call it.
        marks: what tells its machine.
        heads: counter of the newest head of each node that is here whole.
    """

    key: bytes
    label: str
    marks: frozenset[Hashable]
    heads: Mapping[bytes, int]


def standings(
    states: Sequence[SignedState],
    copies: Iterable[Copy],
    own: Own,
    changed: Mapping[str, bool],
    *,
    valid_since: str,
) -> list[VmStanding]:
    """Return how each VM stands, by name.

    Args:
        states: all that are known.
        copies: as they were seen.
        own: this node.
        changed: of the VMs that are here, whether a disk was written to since.
        valid_since: proofs before this time (ISO 8601 UTC) are void.
    """
    known = list(copies)
    found = []
    for name, savings in newest_of_vms(states).items():
        holders = _holders(savings, known, own, valid_since)
        count = count_hosts([holder.marks for holder in holders if holder.counts])
        found.append(VmStanding(name, tuple(savings), tuple(holders), count, changed.get(name)))
    return found


def _holders(savings: Sequence[Saving], copies: Sequence[Copy], own: Own, valid_since: str) -> list[Holder]:
    """Return the holders that have all of these states."""
    having: list[dict[bytes, Holder]] = []
    for saving in savings:
        state = saving.state
        one: dict[bytes, Holder] = {}
        if own.heads.get(state.node, 0) >= state.state.counter:
            one[own.key] = Holder(own.label, own.marks, True, "")
        for copy in copies:
            if copy.head == state.node and copy.counter >= state.state.counter and copy.holder != own.key:
                proven = copy.proven_at if copy.proven_at >= valid_since else ""
                marks = frozenset(filter(None, (copy.host, copy.holder)))
                one[copy.holder] = Holder(copy.label, marks, False, proven, copy.problem)
        having.append(one)
    common = set.intersection(*(set(one) for one in having)) if having else set()
    return sorted((having[0][key] for key in common), key=lambda holder: (not holder.here, holder.label))
