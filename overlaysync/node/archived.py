"""Published images in the archives of this node: what a fetch takes that no peer has.

An archive lists images as states: those that were pushed one by one (:mod:`.image_archiving`), and the newest
that a team has saved. Nothing is asked of an archive before it is needed: each state costs some requests. As
from a peer, manifests are verified, and every byte is compared with its digest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from blake3 import blake3

from overlaysync.errors import OverlaysyncError
from overlaysync.model.companions import CompanionFile
from overlaysync.model.pages import PageList
from overlaysync.model.reference import Reference
from overlaysync.node.archiving import archive_places
from overlaysync.node.metadata import check_pages
from overlaysync.node.node import Node
from overlaysync.node.stored_images import StoredImages
from overlaysync.ops.assemble import Assembly
from overlaysync.ops.hashing import Progress
from overlaysync.ops.matching import Listing, fits_name
from overlaysync.ops.recovery.files import companion_data
from overlaysync.ops.recovery.filling import VaultFiller, take_manifest, take_pages
from overlaysync.ops.recovery.layered import Layered
from overlaysync.ops.recovery.pulling import Place
from overlaysync.ops.recovery.tips import newest_of_vms
from overlaysync.ops.recovery.vaults import EVERYBODY, TeamVault, images_of, read_heads
from overlaysync.trust.envelope import Manifest, open_envelope
from overlaysync.vault.contents import Contents
from overlaysync.vault.directory import DirectoryObjects
from overlaysync.vault.state import SignedState

_MAX_STATES = 1024
"""States that are read of one space; who can write to an archive can invent any number."""


@dataclass(slots=True)
class _Shelf:
    """One space of all archives.

    Attributes:
        vault: reads from this machine's vault, else from the archives.
        images: whether it holds images that were pushed one by one, under their names.
        read: ids of the states whose manifests are known.
        learned: ids of the states whose indexes were read.
    """

    vault: TeamVault
    images: bool
    read: set[bytes] = field(default_factory=set)
    learned: set[bytes] = field(default_factory=set)

    def learn(self, state: SignedState) -> None:
        """Read the indexes of a state.

        Raises:
            OverlaysyncError: no archive gives them.
        """
        if state.id in self.learned:
            return
        said = state.state
        self.vault.contents.learn_some(map(bytes.fromhex, said.indexes), set(map(bytes.fromhex, said.packs)))
        self.vault.public.learn_some(
            map(bytes.fromhex, said.public_indexes), set(map(bytes.fromhex, said.public_packs))
        )
        self.learned.add(state.id)


@dataclass(frozen=True, slots=True)
class _Image:
    """An image in an archive, and the state that lists it."""

    manifest: Manifest
    state: SignedState
    shelf: _Shelf


class Archived(StoredImages):
    """The images in the archives of a node."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self._node = node
        self._places: list[Place] | None = None
        self._shelves: list[_Shelf] = []
        self._images: dict[bytes, _Image] = {}
        self._told: set[str] = set()

    def __contains__(self, manifest: Manifest) -> bool:
        return manifest.id in self._images

    def news(self) -> list[str]:
        """See :class:`StoredImages`."""
        failed = [place for place in self._places or () if place.problem and place.label not in self._told]
        self._told.update(place.label for place in failed)
        return [f"{place.label} cannot be used: {place.problem}" for place in failed]

    def look(self, reference: Reference) -> None:
        """See :class:`StoredImages`."""
        if self._places is None:
            self._places = archive_places(self._node)
            self._shelves = list(self._open(self._places)) if self._places else []
        for shelf in self._shelves:
            for state, labels in self._states(shelf):
                if state.id not in shelf.read and _may_be(state, shelf, reference):
                    shelf.read.add(state.id)
                    self._read(shelf, state, labels)

    def pages(self, manifest: Manifest) -> PageList:
        """See :class:`StoredImages`."""
        library, image = self._node.library, self._images[manifest.id]
        image.shelf.learn(image.state)
        check = partial(check_pages, manifest.header, library.load_page)
        return take_pages(library, self._space(image), manifest, check)

    def take(self, manifest: Manifest, assembly: Assembly, progress: Progress) -> dict[str, tuple[int, int]]:
        """See :class:`StoredImages`."""
        image, places = self._images[manifest.id], self._places or ()
        image.shelf.learn(image.state)
        before = {place.label: place.pulled for place in places}
        taken = VaultFiller((self._space(image),)).take(assembly, progress)
        wire = {place.label: place.pulled - before[place.label] for place in places}
        total = sum(wire.values())
        return {label: (size, taken * size // total) for label, size in wire.items() if size}

    def companion(self, manifest: Manifest, companion: CompanionFile) -> bytes | None:
        """See :class:`StoredImages`."""
        image = self._images.get(manifest.id)
        if image is None:
            return None
        try:
            image.shelf.learn(image.state)
            for vm in image.state.state.vms:
                for one in vm.companions:
                    if (one.role, one.size) != (companion.role, companion.size):
                        continue
                    data = companion_data(image.shelf.vault.contents, one)
                    if blake3(data).hexdigest() == companion.digest:
                        return data
        except OverlaysyncError:
            return None
        return None

    def _space(self, image: _Image) -> Contents:
        vault = image.shelf.vault
        return vault.contents if image.manifest.header.team else vault.public

    def _open(self, places: Sequence[Place]) -> Iterator[_Shelf]:
        layered = Layered(DirectoryObjects(self._node.home.vault), places)
        for team in (EVERYBODY, *self._node.teams.values()):
            yield _Shelf(TeamVault(layered, images_of(team), layered.wrong), images=True)
            if team.name:
                yield _Shelf(TeamVault(layered, team, layered.wrong), images=False)

    def _states(self, shelf: _Shelf) -> Iterator[tuple[SignedState, list[str]]]:
        """Yield the states of a space that may list an image, with the labels of the archives they are in."""
        at: dict[bytes, list[str]] = {}
        for place in self._places or ():
            if place.problem:
                continue
            space = shelf.vault.space
            try:
                heads, _ = read_heads(place.objects, space.tag, space)
            except OverlaysyncError as error:
                place.note_failure(error)
                continue
            for id in dict.fromkeys(id for head in heads.values() for id in head.head.states[-_MAX_STATES:]):
                at.setdefault(id, []).append(place.label)
        states = []
        for id in list(at)[:_MAX_STATES]:
            try:
                state = shelf.vault.state(id)
            except OverlaysyncError:  # the archive fails
                continue
            if state is not None:
                states.append(state)
        if not shelf.images:
            newest = newest_of_vms(states).values()
            ids = {saving.state.id for savings in newest for saving in savings}
            states = [state for state in states if state.id in ids]
        yield from ((state, at[state.id]) for state in states)

    def _read(self, shelf: _Shelf, state: SignedState, labels: list[str]) -> None:
        """Note the images of a state, each by its verified manifest; what cannot be read is left out."""
        disks = [disk for vm in state.state.vms for disk in vm.disks]
        for id in dict.fromkeys(bytes.fromhex(id) for disk in disks for id in (disk.manifest, *disk.below)):
            try:
                manifest = None if id in self._images else self._manifest(shelf, state, id)
            except OverlaysyncError:
                continue
            if manifest is not None and manifest.belongs(self._node.teams):
                self._images[id] = _Image(manifest, state, shelf)
                self.listings.append(Listing(manifest, labels=tuple(labels), stored=True))

    def _manifest(self, shelf: _Shelf, state: SignedState, id: bytes) -> Manifest | None:
        row = self._node.catalog.manifests.find(id)
        if row is not None:
            return open_envelope(row.envelope)
        shelf.learn(state)
        return take_manifest(shelf.vault.contents, id) or take_manifest(shelf.vault.public, id)


def _may_be(state: SignedState, shelf: _Shelf, reference: Reference) -> bool:
    """Whether a state may list what is meant; of a pushed image it says the name.

    What an image stands on is not asked for here: it is in the state of what stands on it.
    """
    if reference.id_prefix is not None or not shelf.images:
        return True
    team = shelf.vault.team.name.partition("/")[0]
    return any(fits_name(reference, team, vm.name) for vm in state.state.vms)
