"""What is said when it cannot be told which master an overlay belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from overlaysync.errors import BaseImageError
from overlaysync.formats.names import display
from overlaysync.model.digest import format_id, short_id
from overlaysync.model.names import one_field
from overlaysync.ops.claims import Claim
from overlaysync.ops.known import Known
from overlaysync.ops.strays import Stray
from overlaysync.units import format_size

_NAMED_CANDIDATES = 3


class ElsewhereError(BaseImageError):
    """Something says that the overlay belongs on another master than the one that the user named."""


def unproven(
    stray: Stray, claims: Sequence[Claim], *, only: Known | None, asked: str, guess: str
) -> BaseImageError:
    """Return the error for an overlay whose master is not known.

    Args:
        stray: the overlay.
        claims: what speaks for some master, none of which is here or within reach.
        only: the master that the user named.
        asked: where it was looked for beside this machine: "2 peers"; "" for nowhere.
        guess: path of an image here that is called like the missing master; "" when there is none.
    """
    where = f"known here or offered by {asked}" if asked else "known here"
    size = format_size(stray.layer.virtual_size)
    found = only.path if only else guess
    master = f"'{found}'" if found else "PATH"
    go_on = f"if you are sure of its master: {stray.command} --master {master} --unverified"
    if stray.is_empty and only is None:
        return BaseImageError(
            f"Cannot tell which master {stray.path} belongs to",
            why=f"nothing was written to it, so it fits any master of {size}",
            hint=f"{stray.command} --master {master}",
        )
    wanted = missing_disks(claims)
    if wanted and only is None:
        return BaseImageError(
            f"The master of {stray.path} is neither on this machine nor within reach",
            why=f"it belongs on {' or '.join(wanted)}",
            hint=f"{stray.command} --peer HOST, or with --masters DIR; {go_on}",
        )
    why = f"no overlay of its size ({size}) that is {where} has its content"
    if only:
        why = f"no overlay on {only.path} ({short_id(only.disk.id)}) that is {where} has its content"
    return BaseImageError(
        f"Cannot prove which master {stray.path} belongs to",
        why=f"{why}; its header names {display(stray.backing)}",
        hint=f"ask its publisher to share it, then: {stray.command} --peer HOST; {go_on}",
    )


def missing_disks(claims: Iterable[Claim]) -> list[str]:
    """Return for people the disks that claims speak for, at most a few."""
    named = {
        claim.parent: f"'{one_field(claim.parent_name)}' {format_id(claim.parent)}"
        if claim.parent_name
        else format_id(claim.parent)
        for claim in claims
    }
    return list(named.values())[:_NAMED_CANDIDATES]


def belongs_elsewhere(stray: Stray, only: bytes, claims: Sequence[Claim]) -> ElsewhereError:
    """Return the error for a master that the user named, where claims speak for another."""
    claim = claims[0]
    return ElsewhereError(
        f"{stray.path} does not belong on {format_id(only)}",
        why=f"it belongs on {format_id(claim.parent)}: {claim.words}",
        hint=f"{stray.command} (without --master)",
    )


def disputed(stray: Stray, claims: Sequence[Claim]) -> BaseImageError:
    """Return the error for an overlay whose claims contradict each other."""
    sides = "; ".join(f"on {short_id(claim.parent)}: {claim.words}" for claim in claims[:_NAMED_CANDIDATES])
    return BaseImageError(
        f"{stray.path} may belong on {len(claims)} different masters",
        why=sides,
        hint=f"{stray.command} --master REF, with the id (b3:…) of the right one",
    )
