"""Check a vault: whether everything that heads list is there, and what it should be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from overlaysync.errors import DecodeError, OverlaysyncError
from overlaysync.ops.recovery.vaults import TeamVault, read_heads, title_of
from overlaysync.vault.contents import Damage
from overlaysync.vault.head import SignedHead
from overlaysync.vault.index import decode_index
from overlaysync.vault.objects import Kind, Objects, get_whole, parse_name
from overlaysync.vault.spaces import PUBLIC


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check found.

    Attributes:
        objects: how many were looked at.
        read: bytes that were read.
        damaged: what is missing or wrong.
        hit: titles of the states that need something of that, as far as they can be read.
    """

    objects: int
    read: int
    damaged: tuple[Damage, ...]
    hit: tuple[str, ...]


def check(
    objects: Objects,
    teams: Iterable[TeamVault],
    *,
    read: bool,
    progress: Callable[[int], None] = lambda _: None,
) -> Checked:
    """Look at all that the heads of all spaces list.

    Args:
        objects: the place.
        teams: of this node, whose states can be read.
        read: whether every object is read and compared with its name; else only indexes and states are.
        progress: told of the bytes read; may end the check with an exception.
    """
    damaged: list[Damage] = []
    known = {vault.space.tag: vault for vault in teams}
    heads: list[SignedHead] = []
    for tag in sorted(_tags(objects)):
        found, wrong = read_heads(objects, tag, known[tag].space if tag in known else None)
        damaged += wrong
        heads += found.values()
    names = dict.fromkeys(name for head in heads for name in head.head.names(PUBLIC.tag))
    count = size = 0
    for name in names:
        count += 1
        try:
            size += _look(objects, name, known, read=read, progress=progress)
        except OverlaysyncError as error:
            damaged.append(Damage(name, str(error)))
    return Checked(count, size, tuple(damaged), tuple(_hit(known.values(), damaged)))


def _look(
    objects: Objects,
    name: str,
    known: dict[str, TeamVault],
    *,
    read: bool,
    progress: Callable[[int], None],
) -> int:
    """Look at one object; returns the bytes read."""
    named = parse_name(name)
    assert named is not None
    if not read and named.kind is Kind.PACK:
        if objects.size(name) is None:
            raise DecodeError("it is missing")
        return 0
    data = get_whole(objects, name)
    vault = known.get(named.tag)
    if named.kind is Kind.INDEX and (vault is not None or named.tag == PUBLIC.tag):
        for pack in decode_index(data, vault.space if vault else PUBLIC):
            _check_size(objects, named.tag, pack.name, pack.size)
    if named.kind is Kind.STATE and vault is not None and vault.state(named.hash) is None:
        raise DecodeError("it is not a state of the team")
    progress(len(data))
    return len(data)


def _check_size(objects: Objects, tag: str, pack: bytes, size: int) -> None:
    """Refuse a pack of another size than its index says; one that is not there may be needed by no state."""
    present = objects.size(f"{tag}/{Kind.PACK}/{pack.hex()}")
    if present not in (None, size):
        raise DecodeError(f"the pack {pack.hex()[:8]} that it describes has {present} bytes, not {size}")


def _hit(vaults: Iterable[TeamVault], damaged: Iterable[Damage]) -> Iterator[str]:
    names = {damage.name for damage in damaged}
    for vault in vaults:
        for state in vault.states():
            said = state.state
            needed = {f"{vault.space.tag}/{Kind.PACK}/{hash}" for hash in said.packs}
            needed |= {f"{vault.space.tag}/{Kind.INDEX}/{hash}" for hash in said.indexes}
            needed |= {f"{PUBLIC.tag}/{Kind.PACK}/{hash}" for hash in said.public_packs}
            needed |= {f"{PUBLIC.tag}/{Kind.INDEX}/{hash}" for hash in said.public_indexes}
            if needed & names:
                yield title_of(said)


def _tags(objects: Objects) -> set[str]:
    return {named.tag for stored in objects.list("") if (named := parse_name(stored.name))}
