"""What a lost machine saved, dropped from a vault: its list goes, and is not taken again.

Only from this vault: no machine can make others forget what it did not save. What a VM was saved as last is
dropped only if the user names the VM; who has no key of the team cannot tell, and drops what the user names.
Should the lost machine save again, its new list is taken like any other. The lock of the vault is held while
anything here writes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from overlaysync.ops.recovery import notes
from overlaysync.ops.recovery.tips import Saving, newest_of_vms
from overlaysync.ops.recovery.vaults import read_heads
from overlaysync.vault.directory import DirectoryObjects
from overlaysync.vault.head import SignedHead
from overlaysync.vault.objects import head_prefix, parse_name
from overlaysync.vault.spaces import PUBLIC
from overlaysync.vault.state import SignedState

_NOTES = ".dropped.json"


def dropped_up_to(root: Path, tag: str, node: bytes) -> int:
    """Return the counter of the last list of a node that was dropped here; 0 for none."""
    return notes.load(root, _NOTES, dict[str, int]).get(head_prefix(tag, node), 0)


def still_needed(states: Sequence[SignedState], head: SignedHead) -> list[Saving]:
    """Return the VMs that were saved last in a state of a list, by name; a side of a fork is one, too."""
    listed = set(head.head.states)
    newest = newest_of_vms(states).values()
    return [saving for savings in newest for saving in savings if saving.state.id in listed]


def lists_of_others(objects: DirectoryObjects, own: Collection[str]) -> list[SignedHead]:
    """Return the newest list of each node in the spaces that are not ``own`` (tags)."""
    tags = {named.tag for stored in objects.list("") if (named := parse_name(stored.name))}
    foreign = sorted(tags - {*own, PUBLIC.tag})
    return [head for tag in foreign for head in read_heads(objects, tag)[0].values()]


def drop(objects: DirectoryObjects, head: SignedHead) -> None:
    """Drop a node's list. What nothing else lists is removed two weeks later, by a cleaning.

    Raises:
        OverlaysyncError: the vault cannot be written to.
    """
    prefix = head_prefix(head.head.tag, head.head.node)
    known = notes.load(objects.root, _NOTES, dict[str, int])
    notes.save(objects.root, _NOTES, known | {prefix: max(head.head.counter, known.get(prefix, 0))})
    for stored in list(objects.list(prefix)):
        objects.delete(stored.name)
