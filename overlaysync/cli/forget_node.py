"""The part of the forget command that drops what a lost machine saved: for a team, or sealed for others."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from overlaysync.cli.output import Output
from overlaysync.cli.save import state_word
from overlaysync.errors import AmbiguousError, NotFoundError, UsageError, WouldDestroyError
from overlaysync.model.names import one_field, printable
from overlaysync.node.node import Node
from overlaysync.ops.recovery.choosing import describe
from overlaysync.ops.recovery.dropping import drop, lists_of_others, still_needed
from overlaysync.ops.recovery.tips import Saving
from overlaysync.ops.recovery.vaults import TeamVault, space_of
from overlaysync.trust.keys import node_id
from overlaysync.units import format_size
from overlaysync.vault.directory import DirectoryObjects
from overlaysync.vault.head import SignedHead


def forget_node(
    output: Output, node: Node, vault: TeamVault, name: str, discard: Collection[str], *, dry_run: bool
) -> None:
    """Drop what one other machine saved, from the vault of this one.

    Args:
        output, node, vault: of the command.
        name: of the machine.
        discard: VMs whose last state may go.
        dry_run: change nothing.

    Raises:
        NotFoundError, AmbiguousError: no machine is meant, or several.
        UsageError: it is this machine, or a VM to discard was not saved there last.
        WouldDestroyError: a VM was saved there last.
    """
    head = _meant(vault, name)
    team = vault.team.name
    if head.head.node == node.key.public:
        raise UsageError(
            f"'{name}' is this machine", hint=f"overlaysync forget {team}:STATE, or with --keep-last N"
        )
    states = vault.states()
    _check_last(still_needed(states, head), discard, _label(vault, head), f"forget {team} --node {name}")
    gone = [state for state in states if state.id in set(head.head.states)]
    if not dry_run:
        drop(DirectoryObjects(node.home.vault), head)
    output.result(
        {
            "forgotten": [
                {"team": team, "state": one.state.number, "id": one.id.hex(), "saved": one.state.saved}
                for one in gone
            ]
        },
        *(("would forget " if dry_run else "forgot ") + describe(one) for one in gone),
    )
    if not dry_run:
        output.note(
            "  only on this machine: type the same on each machine that keeps the team. "
            "To free the space, two weeks from now: overlaysync vault gc\n"
            "  on a machine outside the team that keeps for others: "
            f"overlaysync forget --others --node {node_id(head.head.node)}"
        )


def forget_of_others(output: Output, node: Node, id: str, *, dry_run: bool) -> None:
    """Drop what a machine saved for other teams, from the vault of this one.

    Args:
        output, node: of the command.
        id: fingerprint of the machine, or the first nine characters of it.
        dry_run: change nothing.

    Raises:
        NotFoundError: nothing here is from that machine.
    """
    objects = DirectoryObjects(node.home.vault)
    lists = lists_of_others(objects, [space_of(team).tag for team in node.teams.values()])
    gone = [head for head in lists if node_id(head.head.node) in (id, f"{id}{node_id(head.head.node)[9:]}")]
    if not gone:
        known = sorted({node_id(head.head.node) for head in lists})
        raise NotFoundError(
            f"This machine keeps nothing that '{printable(id)}' saved for another team",
            why=f"it keeps what these saved: {', '.join(known)}" if known else "it keeps nothing for others",
            hint=f"overlaysync forget --others --node {known[0]}"
            if known
            else "for a team that you are in: overlaysync forget TEAM --node NAME",
        )
    for head in () if dry_run else gone:
        drop(objects, head)
    verb = "would drop" if dry_run else "dropped"
    output.result(
        {
            "dropped": [
                {"space": one.head.tag, "node": node_id(one.head.node), "size": one.head.size} for one in gone
            ]
        },
        *(
            f"{verb} what {node_id(one.head.node)[:9]} saved for another team ({one.head.tag[:8]}), "
            f"{format_size(one.head.size)}, the last time on {one.head.made[:10]}"
            for one in gone
        ),
    )
    if not dry_run:
        output.note("  to free the space, two weeks from now: overlaysync vault gc")


def _check_last(last: Sequence[Saving], discard: Collection[str], label: str, command: str) -> None:
    """Refuse to drop the last state of a VM that the user has not named."""
    names = [one.vm.name for one in last]
    if unknown := [name for name in discard if name not in names]:
        raise UsageError(
            f"'{printable(unknown[0])}' was not saved last by {label}",
            why=f"these were: {', '.join(names)}" if names else "no VM was",
            hint=f"overlaysync {command}",
        )
    needed = [one for one in last if one.vm.name not in discard]
    if needed:
        state, vm = needed[0].state, needed[0].vm.name
        team = state.state.team
        words = " ".join(f"--discard-vm {name}" for name in names)
        raise WouldDestroyError(
            f"Cannot forget what {label} saved",
            why=f"{', '.join(one.vm.name for one in needed)} was saved there last",
            hint=f"restore it here and save it, then repeat: "
            f"overlaysync restore {team}:{state_word(state.id)} --vm {vm}; "
            f"if nobody needs it any more: overlaysync {command} {words}",
        )


def _meant(vault: TeamVault, name: str) -> SignedHead:
    heads = vault.heads().values()
    labels = {head.head.node: _label(vault, head) for head in heads}
    found = [head for head in heads if _is_called(name, labels[head.head.node], node_id(head.head.node))]
    words = sorted(f"{labels[head.head.node]}  {node_id(head.head.node)}" for head in found or heads)
    if not found:
        raise NotFoundError(
            f"The vault of this machine has nothing that '{name}' saved for team '{vault.team.name}'",
            why=f"it has what these saved: {'; '.join(words)}" if words else "",
            hint=f"overlaysync history {vault.team.name}/",
        )
    if len(found) > 1:
        raise AmbiguousError(
            f"'{name}' means several machines",
            candidates=tuple(words),
            hint=f"overlaysync forget {vault.team.name} --node {node_id(found[0].head.node)}",
        )
    return found[0]


def _is_called(name: str, label: str, id: str) -> bool:
    return name == label or label.startswith((f"{name}@", f"{name}-")) or f"@{name}-" in label or id == name


def _label(vault: TeamVault, head: SignedHead) -> str:
    """Return what a node called itself when it saved last."""
    states = vault.states([head])
    return (one_field(states[-1].state.by) if states else "") or node_id(head.head.node)
