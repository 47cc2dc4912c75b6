"""Status: how a team's VMs stand, by what this node knows and what peers say and prove now."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from overlaysync.model.fingerprint import Fingerprint
from overlaysync.net.boot import boot_hash
from overlaysync.net.faults import Faults
from overlaysync.node.node import Node, timestamp
from overlaysync.node.observer import Observer
from overlaysync.node.vault_places import gather_from, peer_places, vault_of
from overlaysync.ops.drill.history import drills_in, last_passed, take_drills
from overlaysync.ops.recovery.standing import Own, VmStanding, standings
from overlaysync.ops.recovery.tips import newest_of_vms
from overlaysync.ops.recovery.vaults import TeamVault
from overlaysync.store.held import Held
from overlaysync.store.keeping import KeptTeam, load_keeping
from overlaysync.trust.teams import Team
from overlaysync.vault.drill import DrillRecord
from overlaysync.vault.state import SavedVm, SignedState

if TYPE_CHECKING:  # see overlaysync.node.session
    from overlaysync.node.reach import Reach

VALID_S = 7 * 86400.0
"""A proof is void after so long."""
FRESH_S = 86400.0
"""A proof is fresh for so long."""


@dataclass(frozen=True, slots=True)
class TeamStatus:
    """How a team stands.

    Attributes:
        team: its name.
        vms: its VMs.
        never: names of images of the team here that are in no state.
        wanted: on so many machines each state is to be.
        machines: how many machines with a vault were seen now, this one included.
        answered: how many other machines answered; None where none was asked.
        problems: sentences on what could not be used.
        passed: the newest drill that passed; None for none.
        drilled: the newest drill; None for none.
    """

    team: str
    # Not written out, since asyncio does that with what a task returns.
    vms: tuple[VmStanding, ...] = field(repr=False)
    never: tuple[str, ...]
    wanted: int
    machines: int
    problems: tuple[str, ...]
    passed: DrillRecord | None = None
    drilled: DrillRecord | None = None
    answered: int | None = None

    @property
    def is_unknown(self) -> bool:
        """Whether nothing is known of the team here, and nobody could be asked."""
        return self.answered == 0 and not self.vms and not self.never

    @property
    def needed(self) -> int:
        """On how many machines a VM must be: as many as are wanted, as far as there are, two at least."""
        return max(2, min(self.wanted, self.machines))

    @property
    def lacking(self) -> list[VmStanding]:
        """VMs with too few copies."""
        return [vm for vm in self.vms if vm.copies < self.needed]


async def team_status(
    node: Node, team: Team, reach: Reach, observer: Observer, *, wait_s: float
) -> TeamStatus:
    """Return how a team stands, by what peers say and prove now."""
    from overlaysync.node.keeping import Keeper

    vault = vault_of(node, team)
    places = await peer_places(node, reach, vault.space.tag, wait_s=wait_s)
    gathered = await asyncio.to_thread(gather_from, node, vault, places)
    problems = [*gathered.old, *gathered.stale] + [
        f"{one.name} cannot be used: {one.why}" for one in gathered.damaged
    ]
    await asyncio.to_thread(take_drills, vault.objects, vault.space, places)
    machines = await Keeper(node, reach, observer, Faults()).look()
    found = await asyncio.to_thread(_status, node, team, vault, gathered.states, machines, tuple(problems))
    return replace(found, answered=len(reach.directory.answering()))


def known_status(node: Node, team: Team, *, machines: int = 1) -> TeamStatus:
    """Return how a team stands, by what is known here; ``machines`` are within reach, this one included."""
    vault = vault_of(node, team)
    return _status(node, team, vault, vault.states(), machines, ())


def _status(
    node: Node,
    team: Team,
    vault: TeamVault,
    states: list[SignedState],
    machines: int,
    problems: tuple[str, ...],
) -> TeamStatus:
    heads = {key: head.head.counter for key, head in vault.heads().items()}
    own = Own(node.key.public, node.label, frozenset(filter(None, (boot_hash(), node.key.public))), heads)
    held = [row for row in node.catalog.held.all() if row.team == team.name]
    newest = {name: savings[-1].vm for name, savings in newest_of_vms(states).items()}
    changed = {name: found for name, vm in newest.items() if (found := is_changed(vm, held)) is not None}
    kept = load_keeping(node.home.keeping).teams.get(team.name, KeptTeam())
    vms = standings(
        states, node.catalog.copies.seen(vault.space.tag), own, changed, valid_since=timestamp(ago_s=VALID_S)
    )
    never = never_saved(node, held, states)
    drills = drills_in(vault.objects, vault.space)
    passed = last_passed(drills)
    return TeamStatus(
        team.name,
        tuple(vms),
        never,
        kept.copies,
        machines,
        problems,
        passed.record if passed else None,
        drills[-1].record if drills else None,
    )


def is_changed(vm: SavedVm, held: Iterable[Held]) -> bool | None:
    """Whether a disk of a VM here was written to since it was saved; None where the VM is not here."""
    wanted = {bytes.fromhex(disk.manifest) for disk in vm.disks}
    here = [row for row in held if wanted & set(row.manifests) and os.path.lexists(row.path)]
    if not here:
        return None
    return any(row.manifests[0] not in wanted or not _is_as_held(row) for row in here)


def _is_as_held(row: Held) -> bool:
    try:
        return Fingerprint.of(os.stat(row.path)) == row.file
    except OSError:
        return False


def never_saved(node: Node, held: Iterable[Held], states: Iterable[SignedState]) -> tuple[str, ...]:
    """Return the names of overlays of the team here that are in no state."""
    saved = {bytes.fromhex(disk.manifest) for one in states for vm in one.state.vms for disk in vm.disks}
    names = set()
    for row in held:
        if saved & set(row.manifests) or not os.path.lexists(row.path):
            continue
        known = node.catalog.manifests.find(row.manifests[0]) if row.manifests else None
        if known is not None and known.kind == "layer":
            names.add(row.name)
    return tuple(sorted(names))
