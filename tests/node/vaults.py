"""Nodes of one team that save and restore VMs in this process: real images, catalogs and vaults."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from overlaysync.errors import Refusal
from overlaysync.node.fetch_session import fetching
from overlaysync.node.network import Network
from overlaysync.node.node import Node
from overlaysync.node.restore_plan import Restored, VmPlan
from overlaysync.node.restoring import Restore
from overlaysync.node.saving import Save, Saved
from overlaysync.ops.recovery.choosing import Wish
from overlaysync.ops.recovery.gathering import Gathered
from overlaysync.ops.recovery.pulling import Place
from overlaysync.ops.recovery.vaults import TeamVault
from overlaysync.ops.vms.vm import Missed, Part, Vm
from overlaysync.trust.team_files import keep_team
from overlaysync.trust.teams import Team
from overlaysync.vault.directory import DirectoryObjects
from tests.node.observers import Heard

RED = Team("red", bytes(range(20)))


@contextmanager
def member(root: Path, name: str = "ann", team: Team = RED) -> Iterator[Node]:
    """A node with an empty home, that is in the team."""
    root.mkdir(parents=True, exist_ok=True)
    environment = {"OVERLAYSYNC_HOME": str(root / f"{name}-home"), "OVERLAYSYNC_USER": name}
    first = Node.open(environment)
    keep_team(first.home.teams, team)
    first.close()
    node = Node.open(environment)
    try:
        yield node
    finally:
        node.close()


def vm(name: str, *disks: Path, companions: Sequence[tuple[Path, str]] = ()) -> Vm:
    """A VM of these files; a companion has a path and the name that it is saved by."""
    return Vm(
        name,
        str(disks[0].parent),
        tuple(Part(str(path), path.name, "disk", "") for path in disks),
        tuple(Part(str(path), file, "uefi", "") for path, file in companions),
        (Missed(str(disks[0].parent / "cd.iso"), "it is a medium"),),
        "test",
    )


def save(node: Node, *vms: Vm, note: str = "") -> Saved:
    return Save(node, node.teams["red"], Heard(), note).run(vms)


def objects(node: Node) -> DirectoryObjects:
    return DirectoryObjects(node.home.vault)


def vault(node: Node) -> TeamVault:
    return TeamVault(objects(node), node.teams["red"])


def place(node: Node, near: int = 0) -> Place:
    """The vault of a node as another one pulls from it."""
    return Place(node.label, objects(node), near)


@dataclass
class Outcome:
    """What a restore did.

    Attributes:
        missing: names of objects that no place could give.
    """

    gathered: Gathered
    plans: list[VmPlan]
    missing: list[str] = field(default_factory=list)
    restored: list[Restored] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)


def restore(
    node: Node,
    to: Path,
    *places: Place,
    wish: Wish | None = None,
    masters: Sequence[Path] = (),
) -> Outcome:
    """Restore as the command does; peers are not looked for."""
    return asyncio.run(_restore(node, to, places, wish or Wish("red"), list(map(str, masters))))


async def _restore(
    node: Node, to: Path, places: Sequence[Place], wish: Wish, masters: Sequence[str]
) -> Outcome:
    work = Restore(node, node.teams["red"], Heard(), str(to), masters)
    network = Network(mdns_needed=False, catalogs=False)
    async with fetching(node, Heard(), network, work.options) as session:
        work.use(places)
        gathered = await asyncio.to_thread(work.gather)
        plans = await asyncio.to_thread(work.plan, gathered, wish, session.fetch)
        outcome = Outcome(gathered, plans)
        async with work.pulling(plans):
            for plan in plans:
                outcome.restored.append(await work.bring(plan, session.fetch))
        outcome.missing = list(work.missing)
        outcome.refusals = work.refusals
        return outcome
