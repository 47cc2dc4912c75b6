"""What a restore is about to do with each VM, and what came of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from overlaysync.node.fetch_types import Fetched
from overlaysync.ops.choice import Choice
from overlaysync.ops.plan import Step
from overlaysync.ops.recovery.tips import Saving
from overlaysync.vault.state import Disk


@dataclass(frozen=True, slots=True)
class DiskPlan:
    """How one disk is brought back.

    Attributes:
        disk: as the state has it.
        steps: what is made, masters first; what is here already is not among them.
        choice: stands for the disk where a fetch asks what was chosen.
        path: where it goes.
    """

    disk: Disk
    steps: tuple[Step, ...]
    choice: Choice
    path: str


@dataclass(frozen=True, slots=True)
class VmPlan:
    """How one VM is brought back.

    Attributes:
        saving: which VM, of which state.
        directory: where its files go.
        disks: how each disk comes.
        packs: names of the packs that are needed, in about the order in which they are.
        missing: of those that are not in the vault of this node, their sizes in bytes.
    """

    saving: Saving
    directory: str
    disks: tuple[DiskPlan, ...]
    packs: tuple[str, ...]
    missing: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Restored:
    """A VM that is back.

    Attributes:
        plan: what was planned.
        disks: its disks, each with the masters that were made for it before.
        companions: paths of its companions.
        tops: its disks alone, in the order of the state.
    """

    plan: VmPlan
    disks: tuple[Fetched, ...]
    companions: tuple[str, ...]
    tops: tuple[Fetched, ...] = ()

    @property
    def resumed(self) -> int:
        """Bytes of its disks that an interrupted run had written."""
        return sum(one.transfer.resumed for one in self.disks)


def to_pull(plans: Iterable[VmPlan]) -> int:
    """Return how many bytes are pulled for several VMs, which may need the same packs."""
    sizes = {name: size for plan in plans for name, size in plan.missing.items()}
    return sum(sizes.values())
