"""The part of the forget command that drops what a lost machine saved."""

from __future__ import annotations

from overlaysync.cli.output import Output
from overlaysync.cli.save import state_word
from overlaysync.errors import AmbiguousError, NotFoundError, UsageError, WouldDestroyError
from overlaysync.model.names import one_field
from overlaysync.node.node import Node
from overlaysync.ops.recovery.choosing import describe
from overlaysync.ops.recovery.dropping import drop, still_needed
from overlaysync.ops.recovery.vaults import TeamVault
from overlaysync.trust.keys import node_id
from overlaysync.vault.directory import DirectoryObjects
from overlaysync.vault.head import SignedHead


def forget_node(output: Output, node: Node, vault: TeamVault, name: str, *, dry_run: bool) -> None:
    """Drop what one other machine saved, from the vault of this one.

    Raises:
        NotFoundError, AmbiguousError: no machine is meant, or several.
        UsageError: it is this machine.
        WouldDestroyError: a VM was saved there last.
    """
    head = _meant(vault, name)
    team = vault.team.name
    if head.head.node == node.key.public:
        raise UsageError(
            f"'{name}' is this machine", hint=f"overlaysync forget {team}:STATE, or with --keep-last N"
        )
    states = vault.states()
    last = still_needed(states, head)
    if last:
        state, vm = last[0].state, last[0].vm.name
        raise WouldDestroyError(
            f"Cannot forget what {_label(vault, head)} saved",
            why=f"{', '.join(one.vm.name for one in last)} was saved there last",
            hint=f"restore it here and save it, then repeat: "
            f"overlaysync restore {team}:{state_word(state.id)} --vm {vm}",
        )
    gone = [state for state in states if state.id in set(head.head.states)]
    if not dry_run:
        drop(DirectoryObjects(node.home.vault), vault, head)
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
            "To free the space, two weeks from now: overlaysync vault gc"
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
