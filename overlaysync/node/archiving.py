"""Archives: states pushed to object stores and directories, checked there, and counted as copies.

Left out: images that are pushed one by one (:mod:`.image_archiving`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from overlaysync.archive.opening import open_place
from overlaysync.archive.places import load_places
from overlaysync.errors import OverlaysyncError, VerificationError
from overlaysync.net.boot import boot_hash
from overlaysync.node.node import Node, timestamp
from overlaysync.ops.drill.history import take_drills
from overlaysync.ops.recovery.checking import Checked, check
from overlaysync.ops.recovery.pulling import Place, Pull
from overlaysync.ops.recovery.vaults import EVERYBODY, TeamVault, drop_older, images_of, read_heads
from overlaysync.store.copies import Copy
from overlaysync.trust.teams import Team
from overlaysync.vault.directory import DirectoryObjects
from overlaysync.vault.head import SignedHead
from overlaysync.vault.objects import Kind, Objects, parse_name
from overlaysync.vault.spaces import PUBLIC

_ORDER = (Kind.PACK, Kind.INDEX, Kind.STATE)
"""What is stored first, so that nothing in an archive ever points at what is not there."""
_NEAR = 2
"""An archive is asked for what no peer has."""


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push did.

    Attributes:
        states: how many states the archive now has of the team.
        stored: bytes that were stored.
    """

    states: int
    stored: int


def archive_places(node: Node) -> list[Place]:
    """Return the archives of this node as places to pull from; one that cannot be used says why."""
    places = []
    for name, location in load_places(node.home.config).items():
        try:
            places.append(Place(f"archive {name}", open_place(location), _NEAR))
        except OverlaysyncError as error:
            broken = Place(f"archive {name}", DirectoryObjects(node.home.vault / "none"), _NEAR)
            broken.problem = str(error)
            places.append(broken)
    return places


def push(
    node: Node, team: Team, name: str, archive: Objects, progress: Callable[[int], None] = lambda _: None
) -> Pushed:
    """Store all that is here of a team's states in an archive.

    Args:
        node: has them in its vault.
        team: whose.
        name: of the archive.
        archive: it.
        progress: told of the bytes stored; may end the push with an exception.

    Raises:
        VerificationError: an object here is missing or damaged.
        OverlaysyncError: the archive fails.
    """
    tidy(archive)
    objects = DirectoryObjects(node.home.vault)
    vault = TeamVault(objects, team)
    heads = list(vault.heads().values())
    stored = 0

    def count(size: int) -> None:
        nonlocal stored
        stored += size
        progress(size)

    names = dict.fromkeys(one for head in heads for one in head.head.names(PUBLIC.tag))
    for kind in _ORDER:
        wanted = [one for one in names if (named := parse_name(one)) and named.kind is kind]
        missing = Pull([Place("this machine", objects)], archive, count).run(wanted)
        if missing:
            raise VerificationError(
                f"Cannot push to archive '{name}'",
                why=f"{len(missing)} objects are missing or damaged in the vault of this machine",
                hint="overlaysync vault check --read",
            )
    take_drills(archive, vault.space, [Place("this machine", objects)])
    there, _ = read_heads(archive, vault.space.tag, vault.space)
    for head in heads:
        newest = there.get(head.head.node)
        if newest is None or newest.head.counter < head.head.counter:
            archive.put(head.head.name, head.data)
            count(len(head.data))
            drop_older(archive, head)
    note_archived(node, name, vault.space.tag, heads)
    return Pushed(len({state for head in heads for state in head.head.states}), stored)


def tidy(archive: Objects) -> None:
    """Remove the files that pushes left in a directory which were killed."""
    if isinstance(archive, DirectoryObjects):
        archive.drop_temporaries()


def check_archive(
    node: Node, name: str, archive: Objects, *, read: bool, progress: Callable[[int], None]
) -> Checked:
    """Look at all that an archive lists of this node's teams, and note what it has whole.

    Raises:
        OverlaysyncError: the archive fails.
    """
    spaces = [EVERYBODY, *(space for team in node.teams.values() for space in (team, images_of(team)))]
    vaults = [TeamVault(archive, space) for space in spaces]
    found = check(archive, vaults, read=read, progress=progress)
    if not found.damaged:
        for vault in vaults:
            note_archived(node, name, vault.space.tag, list(vault.heads().values()))
    return found


def note_archived(node: Node, name: str, tag: str, heads: list[SignedHead]) -> None:
    """Note that an archive has what these heads of one space list."""
    holder, at = f"archive {name}".encode(), timestamp()
    host = boot_hash() if _is_on_own_disk(node, name) else holder
    for head in heads:
        copy = Copy(
            head.head.node, head.head.counter, holder, f"archive {name}", host, seen_at=at, proven_at=at
        )
        node.catalog.copies.note(tag, [copy])


def _is_on_own_disk(node: Node, name: str) -> bool:
    """Whether an archive is on the disk of the vault, and so is lost together with it."""
    location = load_places(node.home.config).get(name)
    if location is None or location.scheme != "file":
        return False
    try:
        return os.stat(location.path).st_dev == os.stat(node.home.vault).st_dev
    except OSError:
        return False
