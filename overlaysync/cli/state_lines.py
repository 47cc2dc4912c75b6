"""How the states of a team are listed: in the history of the team."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from overlaysync.cli.common import quoted
from overlaysync.cli.output import Output
from overlaysync.cli.save import state_word, vm_fields
from overlaysync.cli.tables import Table, Warn
from overlaysync.model.names import one_field
from overlaysync.node.network import Network
from overlaysync.node.node import Node
from overlaysync.node.observer import Silent
from overlaysync.node.session import looking
from overlaysync.node.status import known_status
from overlaysync.node.vault_places import gather_from, peer_places, vault_of
from overlaysync.ops.dates import ago, local_minute
from overlaysync.ops.recovery.choosing import numbers_of
from overlaysync.ops.recovery.gathering import Gathered, gather
from overlaysync.ops.recovery.standing import LEAST_COPIES
from overlaysync.ops.recovery.tips import newest_of_vms
from overlaysync.trust.keys import node_id
from overlaysync.trust.teams import Team
from overlaysync.vault.state import SignedState


@dataclass(frozen=True, slots=True)
class StatesOfTeam:
    """The states of a team.

    Attributes:
        team: its name.
        states: its states, the oldest first.
        at: labels of the places that list each, by its id.
        forked: ids of those that are sides of a fork of some VM.
    """

    team: str
    # Not written out, since asyncio does that with what a task returns.
    states: tuple[SignedState, ...] = field(repr=False)
    at: dict[bytes, list[str]] = field(repr=False)
    forked: frozenset[bytes] = field(repr=False)


async def states_of(
    node: Node, teams: Sequence[Team], output: Output, network: Network, wait_s: float | None
) -> list[StatesOfTeam]:
    """Return the states of teams within reach; without ``wait_s`` those that are known here."""

    if wait_s is None or not teams:
        found = [(team, gather(vault_of(node, team), ())) for team in teams]
        return [_states(team, gathered) for team, gathered in found]
    states: list[StatesOfTeam] = []
    async with looking(node, Silent(), network) as reach:
        for team in teams:
            vault = vault_of(node, team)
            places = await peer_places(node, reach, vault.space.tag, wait_s=0 if states else wait_s)
            gathered = await asyncio.to_thread(gather_from, node, vault, places)
            for line in gathered.old:
                output.note(f"  {line}. The outdated list is not used")
            for line in gathered.stale:
                output.note(f"  {line}")
            states.append(_states(team, gathered))
    return states


def _states(team: Team, gathered: Gathered) -> StatesOfTeam:
    newest = newest_of_vms(gathered.states).values()
    forked = frozenset(saving.state.id for savings in newest if len(savings) > 1 for saving in savings)
    return StatesOfTeam(team.name, tuple(gathered.states), gathered.at, forked)


def state_table(one: StatesOfTeam, now: float) -> Table:
    """Return the table of a team's states, the newest first."""

    numbers = numbers_of(one.states)
    return Table([_row(one, state, numbers, now) for state in reversed(one.states)])


def _row(one: StatesOfTeam, state: SignedState, numbers: dict[bytes, str], now: float) -> tuple[str, ...]:
    said = state.state
    follows = " and ".join(numbers.get(bytes.fromhex(id), id[:8]) for id in said.follows)
    places = [label or "here" for label in one.at.get(state.id, ())]
    return (
        f"{said.team}:{said.number}",
        state_word(state.id),
        local_minute(said.saved),
        ago(said.saved, now),
        one_field(said.by) or node_id(state.node),
        ", ".join(vm.name for vm in said.vms),
        quoted(said.note),
        f"follows {follows}" if follows else "",
        Warn("forked") if state.id in one.forked else "",
        f"at {', '.join(places)}" if places else "",
    )


def state_fields(one: StatesOfTeam) -> list[dict[str, Any]]:
    """Return the JSON form of a team's states, the newest first."""

    return [
        {
            "team": one.team,
            "state": state.state.number,
            "id": state.id.hex(),
            "saved": state.state.saved,
            "by": state.state.by,
            "note": state.state.note,
            "follows": list(state.state.follows),
            "fork": state.id in one.forked,
            "vms": [vm_fields(vm) for vm in state.state.vms],
            "held_by": one.at.get(state.id, []),
        }
        for state in reversed(one.states)
    ]


def alone_lines(node: Node) -> list[str]:
    """Return a line for each team with VMs that were saved and have too few copies, as far as is known."""

    lines = []
    for team in node.teams.values():
        alone = [vm.name for vm in known_status(node, team).vms if vm.copies < LEAST_COPIES]
        if alone:
            lines.append(
                f"  saved, but on fewer than {LEAST_COPIES} machines: "
                f"{', '.join(f'{team.name}/{name}' for name in alone)}; "
                f"to keep a copy, type on another machine: overlaysync keep {team.name}"
            )
    return lines
