"""Gather what several places know of a team: the newest head of each member, and the states they list."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from overlaysync.errors import OverlaysyncError
from overlaysync.ops.recovery.pulling import Place, Pull
from overlaysync.ops.recovery.vaults import TeamVault, read_heads
from overlaysync.trust.keys import node_id
from overlaysync.vault.contents import Damage
from overlaysync.vault.head import SignedHead
from overlaysync.vault.objects import Kind, object_name
from overlaysync.vault.state import SignedState

_NOTHING: Mapping[bytes, int] = MappingProxyType({})


@dataclass(slots=True)
class Gathered:
    """What is known of a team's states.

    Attributes:
        heads: the newest head of each member, by public key.
        at: labels of the places that list a state, by its id; "" stands for the vault of this node.
        old: sentences on places whose head of a member is older than another place's.
        stale: sentences on members of whom something newer was seen before than any place has now.
        damaged: heads that could not be used.
        missing: names of states that no place could give.
        states: those that are here now.
    """

    heads: dict[bytes, SignedHead] = field(default_factory=dict)
    at: dict[bytes, list[str]] = field(default_factory=dict)
    old: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    damaged: list[Damage] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    states: list[SignedState] = field(default_factory=list)


def gather(vault: TeamVault, places: Sequence[Place], known: Mapping[bytes, int] = _NOTHING) -> Gathered:
    """Read the heads of all places, and pull the states that the newest of them list.

    If a place lists an older head of a member than another place, its list of that member is not used: it was
    left behind, or an attacker has turned it back.

    Args:
        vault: of this node.
        places: the others.
        known: the highest counter that was ever seen here of each member's heads, by public key.

    Raises:
        NoSpaceError, OverlaysyncError: the vault of this node fails.
    """
    gathered = Gathered()
    own = vault.heads()
    gathered.damaged += vault.damaged
    seen: list[tuple[Place | None, dict[bytes, SignedHead]]] = [(None, own)]
    for place in places:
        try:
            heads, damaged = read_heads(place.objects, vault.space.tag, vault.space)
        except OverlaysyncError as error:
            place.note_failure(error)
            continue
        gathered.damaged += damaged
        seen.append((place, heads))
    for _, heads in seen:
        _merge(gathered.heads, heads.values())
    for source, heads in seen:
        _note(gathered, source, heads)
    for node, head in gathered.heads.items():
        if head.head.counter < known.get(node, 0):
            gathered.stale.append(
                f"{node_id(node)[:9]} has saved more since {head.head.made[:16]}, and no place within reach "
                "has it"
            )
    _pull_states(vault, places, gathered)
    return gathered


def _merge(heads: dict[bytes, SignedHead], others: Iterable[SignedHead]) -> None:
    for head in others:
        before = heads.get(head.head.node)
        if before is None or head.head.counter > before.head.counter:
            heads[head.head.node] = head


def _note(gathered: Gathered, place: Place | None, heads: dict[bytes, SignedHead]) -> None:
    label = place.label if place else ""
    for node, head in heads.items():
        newest = gathered.heads[node]
        for state in head.head.states:
            gathered.at.setdefault(state, []).append(label)
        if head.head.counter < newest.head.counter and place is not None:
            gathered.old.append(
                f"{place.label} has an outdated list of what {node_id(node)[:9]} saved, from "
                f"{head.head.made[:16]}; the newest one known is from {newest.head.made[:16]}"
            )


def _pull_states(vault: TeamVault, places: Sequence[Place], gathered: Gathered) -> None:
    wanted = dict.fromkeys(id for head in gathered.heads.values() for id in head.head.states)
    names = [object_name(vault.space.tag, Kind.STATE, id) for id in wanted]
    gathered.missing = Pull(places, vault.objects).run(names, check=True)
    told = len(vault.damaged)
    gathered.states = vault.states(gathered.heads.values())
    gathered.damaged += [one for one in vault.damaged[told:] if vault.objects.size(one.name) is not None]
