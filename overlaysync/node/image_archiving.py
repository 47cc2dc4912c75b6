"""Published images pushed to an archive, one by one, with what they stand on and their companions.

Each is a state of one VM, of the name of the image, in a space that has nothing else: see
:func:`~overlaysync.ops.recovery.vaults.images_of`. It is written straight into the archive. :mod:`.archived`
reads it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

from blake3 import blake3
from msgspec.structs import replace

from overlaysync.errors import OverlaysyncError, UsageError
from overlaysync.model.companions import CompanionFile, companion_path
from overlaysync.node.archiving import note_archived, tidy
from overlaysync.node.node import Node, timestamp
from overlaysync.node.observer import Observer
from overlaysync.ops.known import Known
from overlaysync.ops.recovery.saving import Content, Saver
from overlaysync.ops.recovery.vaults import EVERYBODY, TeamVault, images_of
from overlaysync.ops.vms.reading import read_companion
from overlaysync.store.files import make_directory
from overlaysync.trust.envelope import Manifest
from overlaysync.vault.belief import Believed
from overlaysync.vault.objects import Objects
from overlaysync.vault.state import Companion, Disk, SavedVm, State

_Lineage: TypeAlias = Sequence[tuple[Known, Manifest]]


@dataclass(frozen=True, slots=True)
class PushedImage:
    """What a push of one image did.

    Attributes:
        manifest: of the version that the archive has now.
        stored: bytes that were stored.
        left_out: names of companions that are not here as they were published.
    """

    manifest: Manifest
    stored: int
    left_out: tuple[str, ...]


def push_image(node: Node, known: Known, name: str, archive: Objects, observer: Observer) -> PushedImage:
    """Store a published image in an archive: what is new there of it, and of what it stands on.

    Args:
        node: has the image.
        known: the image.
        name: of the archive.
        archive: it.
        observer: is told of the bytes of data that are dealt with; may end the push with an exception.

    Raises:
        UsageError: it, or what it stands on, was never published for these readers.
        InUseError: a VM writes to it.
        OverlaysyncError: the archive fails.
    """
    lineage = _published(node, known)
    tidy(archive)
    header = lineage[0][1].header
    team = node.teams[header.team] if header.team else EVERYBODY
    vault = TeamVault(archive, images_of(team))
    # What others have described is not looked at: to believe it, one would have to read their packs.
    make_directory(str(node.home.vault))
    believed = Believed(node.home.vault)
    vault.contents.learn_to_write(believed, believed)
    if header.team:
        vault.public.learn_to_write(believed, believed)
    work = _Pushing(node, vault, observer.advance)
    observer.begin("pushing", sum(manifest.header.data_size for _, manifest in lineage))
    try:
        work.put(lineage)
    finally:
        work.close()
        observer.end()
    note_archived(node, name, vault.space.tag, list(vault.heads().values()))
    return PushedImage(lineage[0][1], work.stored, tuple(work.left_out))


@dataclass(slots=True)
class _Pushing:
    """One push of one image."""

    node: Node
    vault: TeamVault
    progress: Callable[[int], None]
    left_out: list[str] = field(default_factory=list)
    _own: Saver = field(init=False)
    _public: Saver = field(init=False)

    def __post_init__(self) -> None:
        load, vault = self.node.library.load_page, self.vault
        self._own = Saver(vault.contents, load, self.progress)
        self._public = Saver(vault.public, load, self.progress)

    @property
    def stored(self) -> int:
        """Bytes stored so far."""
        return self._own.stored + self._public.stored

    def close(self) -> None:
        """End what is under way."""
        self._own.close()
        self._public.close()

    def put(self, lineage: _Lineage) -> None:
        """Store the contents, the lowest first, and then the state that lists them."""
        (known, top), *_ = lineage
        for image, manifest in reversed(lineage):
            saver = self._own if manifest.header.team or not top.header.team else self._public
            saver.put(Content(manifest, image.content, partial(self.node.library.open_known, image)))
            saver.part()
        companions = [
            stored for one in top.header.companions if (stored := self._companion(known, one)) is not None
        ]
        # The public part first: what the team's state names must be there before it.
        public_indexes, public_packs = self._public.finish()
        indexes, packs = self._own.finish()
        vm = SavedVm(
            name=top.header.name,
            at=top.header.created,
            disks=(
                Disk(
                    file=top.header.name,
                    manifest=top.id.hex(),
                    below=tuple(manifest.id.hex() for _, manifest in lineage[1:]),
                ),
            ),
            companions=tuple(companions),
        )
        self._list(
            State(
                team=self.vault.space.name,
                number=1,
                counter=1,
                saved=timestamp(),
                by=self.node.label,
                note=top.header.note,
                vms=(vm,),
                indexes=indexes,
                packs=packs,
                public_indexes=public_indexes,
                public_packs=public_packs,
            )
        )

    def _list(self, state: State) -> None:
        """List a state beside those that this node pushed before, unless one of them says the same."""
        key, vault = self.node.key, self.vault
        head = vault.heads().get(key.public)
        before = [
            one
            for one in vault.states([head] if head else [])
            if one.state.vms[0].disks == state.vms[0].disks
        ]
        if any(_needs(one.state) == _needs(state) for one in before):
            return
        noted = self.node.catalog.copies.seen(vault.space.tag)
        above = max((copy.counter for copy in noted if copy.head == key.public), default=0)
        counter = vault.next_counter(key.public, above)
        vault.add(
            replace(state, counter=counter),
            key,
            made=state.saved,
            above=above,
            instead_of={one.id for one in before},
        )

    def _companion(self, known: Known, companion: CompanionFile) -> Companion | None:
        """Store a companion; None where it is not here as it was published."""
        path = companion_path(companion.role, companion.ending, known.path)
        data = _read(path)
        if data is None or blake3(data).hexdigest() != companion.digest:
            self.left_out.append(os.path.basename(path))
            return None
        parts = self._own.put_companion(data)
        file = f"{companion.role}.{companion.ending}"
        return Companion(file=file, role=companion.role, size=len(data), parts=parts)


def _needs(state: State) -> tuple[object, ...]:
    return state.vms[0].companions, state.packs, state.public_packs


def _read(path: str) -> bytes | None:
    try:
        return read_companion(path)
    except OverlaysyncError:
        return None


def _published(node: Node, known: Known) -> _Lineage:
    """Return an image and what it stands on, each with the version that it is passed on as.

    Raises:
        UsageError: one was never published, or only for others.
    """
    publisher = node.publisher
    top = publisher.held_version(known, None) or publisher.passed_on(known, None)
    team = top.header.team if top else ""
    found = []
    for image in known.lineage:
        manifest = top if image is known else publisher.passed_on(image, team)
        if manifest is None or manifest.header.team not in ("", team):
            raise UsageError(
                f"{image.path} was never published" + (f" for team '{team}'" if team else ""),
                why="an archive takes only published images",
                hint=f"overlaysync share '{known.path}'",
            )
        found.append((image, manifest))
    return found
