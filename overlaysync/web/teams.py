"""The teams of a node as the page shows them: their VMs, their drills, and the nodes that keep them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from overlaysync.discovery.interfaces import is_own, list_interfaces
from overlaysync.errors import OverlaysyncError
from overlaysync.model.names import one_field
from overlaysync.net.messages import Address
from overlaysync.node.node import Node
from overlaysync.node.status import TeamStatus, known_status
from overlaysync.ops.recovery.standing import Holder, VmStanding
from overlaysync.ops.recovery.vaults import space_of
from overlaysync.store.keeping import KeptTeam, load_keeping
from overlaysync.trust.keys import node_id
from overlaysync.vault.drill import DrillRecord
from overlaysync.web.model import Drill, Kept, TeamView, Vm


def teams_of(node: Node, answering: Iterable[Address]) -> tuple[TeamView, ...]:
    """Return how the teams of a node stand, by name; one that cannot be read says why.

    Args:
        node: is a member.
        answering: addresses of the nodes that answer; several nodes of one machine are one machine.
    """
    hosts = {address.host for address in answering}
    own = list_interfaces() if hosts and node.teams else ()
    machines = 1 + sum(not is_own(host, own) for host in hosts)
    found = []
    for name in sorted(node.teams):
        try:
            keeping = load_keeping(node.home.keeping).teams
            found.append(_team(known_status(node, node.teams[name], machines=machines), keeping.get(name)))
        except OverlaysyncError as error:
            found.append(TeamView(name, (), (), 2, 1, (one_field(str(error)),)))
    return tuple(found)


def keepers_of(node: Node) -> Mapping[str, tuple[str, ...]]:
    """Return the teams of which other nodes have copies, by the id of the node."""
    found: dict[str, dict[str, None]] = {}
    for name in sorted(node.teams):
        for copy in node.catalog.copies.seen(space_of(node.teams[name]).tag):
            if not copy.problem:
                found.setdefault(node_id(copy.holder), {})[name] = None
    return {key: tuple(names) for key, names in found.items()}


def _team(status: TeamStatus, kept: KeptTeam | None) -> TeamView:
    return TeamView(
        name=status.team,
        vms=tuple(_vm(vm, status.needed) for vm in status.vms),
        never=status.never,
        needed=status.needed,
        machines=status.machines,
        problems=status.problems,
        drill=_drill(status.drilled),
        passed=_drill(status.passed),
        kept=Kept(kept.copies, kept.budget) if kept else None,
    )


def _vm(vm: VmStanding, needed: int) -> Vm:
    return Vm(
        name=vm.name,
        states=tuple(saving.state.state.number for saving in vm.savings),
        at=vm.at,
        changed=vm.changed,
        copies=vm.copies,
        holders=tuple(map(_holder, vm.holders)),
        lacking=vm.copies < needed,
        lost_with=one_field(vm.lost_with),
    )


def _holder(holder: Holder) -> tuple[str, str, str]:
    return ("" if holder.here else one_field(holder.label)), holder.proven_at, one_field(holder.problem)


def _drill(record: DrillRecord | None) -> Drill | None:
    if record is None:
        return None
    return Drill(
        started=record.started,
        by=one_field(record.by),
        verdict=record.verdict,
        lost=tuple(map(one_field, record.lost)),
        ready=len(record.ready),
        vms=len(record.vms),
        rto_s=record.rto_s,
        rpo_s=record.rpo_s,
    )
