"""Cleaning a vault directory: what no head lists goes, two weeks after that was first seen.

Two phases, so that what another command stores at that moment, or another machine is about to list, is not
taken away: what is not listed is noted with the time, and removed when it is still not listed later. The time
is that of notes of ours, never that of a file system or store. A state that a VM here was restored from
stays, without its data: the next state of the VM goes on from it.
"""

from __future__ import annotations

from dataclasses import dataclass

from overlaysync.ops.recovery import notes
from overlaysync.ops.recovery.origins import origins_of
from overlaysync.ops.recovery.vaults import read_heads
from overlaysync.vault.contents import Damage
from overlaysync.vault.directory import DirectoryObjects
from overlaysync.vault.objects import Kind, parse_name
from overlaysync.vault.spaces import PUBLIC

GRACE_S = 14 * 86400.0
_NOTES = ".unneeded.json"


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What a cleaning did.

    Attributes:
        removed: names of what was removed.
        freed: bytes of that.
        waiting: bytes of what nobody lists and is kept for now.
    """

    removed: tuple[str, ...]
    freed: int
    waiting: int


def listed(objects: DirectoryObjects) -> tuple[set[str], list[Damage]]:
    """Return the names of all that the newest heads list, and of drills, and the heads that are damaged."""
    names: set[str] = set()
    damaged: list[Damage] = []
    tags = {named.tag for stored in objects.list("") if (named := parse_name(stored.name))}
    for tag in tags - {PUBLIC.tag}:
        heads, wrong = read_heads(objects, tag)
        damaged += wrong
        for head in heads.values():
            names.add(head.head.name)
            names.update(head.head.names(PUBLIC.tag))
        names.update(stored.name for stored in objects.list(f"{tag}/{Kind.DRILL}/"))
    return names, damaged


def clean(
    objects: DirectoryObjects, *, now: float, grace_s: float = GRACE_S, dry_run: bool = False
) -> Cleaned:
    """Remove what has been listed by no head for ``grace_s``; the lock of the vault is held.

    While a head is damaged nothing is removed: what it lists is not known.

    Args:
        objects: the vault.
        now: seconds since 1970.
        grace_s: how long what is not listed stays.
        dry_run: change nothing, and return what would be removed.
    """
    if not dry_run:
        objects.drop_temporaries()
    names, damaged = listed(objects)
    origins = origins_of(objects.root)
    since = notes.load(objects.root, _NOTES, dict[str, float])
    noted: dict[str, float] = {}
    removed, freed, waiting = [], 0, 0
    for stored in list(objects.list("")):
        named = parse_name(stored.name)
        if named is None or stored.name in names or (named.kind is Kind.STATE and named.hash in origins):
            continue
        first = min(since.get(stored.name, now), now)
        due = not damaged and now - first >= grace_s
        if due and (dry_run or objects.delete(stored.name)):
            removed.append(stored.name)
            freed += stored.size
        else:
            noted[stored.name] = first
            waiting += stored.size if named.kind is not Kind.HEAD else 0
    if not dry_run:
        notes.save(objects.root, _NOTES, noted)
    return Cleaned(tuple(removed), freed, waiting)
