"""Restore: bring VMs back from the vault of this node, of others, and from archives.

States say which manifests the disks had. What these need is pulled into the vault of this node, and from
there the disks are rebuilt as a fetch rebuilds them: on verified masters, from images here, the vault, and
peers for what is still missing. A pack is used as soon as it is here, while the next ones come. Companions
come last. Nothing that is in the way is replaced.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from overlaysync.errors import (
    NotFoundError,
    OverlaysyncError,
    Refusal,
    VerificationError,
    WouldDestroyError,
)
from overlaysync.model.datamap import DataMap
from overlaysync.model.digest import Digests, as_digests
from overlaysync.model.pages import PageList
from overlaysync.node.fetch_types import Fetched, Options
from overlaysync.node.fetching import Fetch
from overlaysync.node.node import Node, timestamp
from overlaysync.node.observer import Observer
from overlaysync.node.restore_plan import DiskPlan, Restored, VmPlan, to_pull
from overlaysync.node.vault_lock import only_writer_soon
from overlaysync.node.vault_places import gather_from
from overlaysync.ops.choice import Choice, Reason
from overlaysync.ops.companion_files import MAKE_ROOM, put_companion
from overlaysync.ops.manifest_rows import keep_manifest
from overlaysync.ops.matching import Listing
from overlaysync.ops.plan import Destination, Step, plan_fetch
from overlaysync.ops.recovery.arrivals import Arrivals
from overlaysync.ops.recovery.choosing import Wish, choose
from overlaysync.ops.recovery.files import companion_data
from overlaysync.ops.recovery.filling import VaultFiller, take_manifest, take_pages
from overlaysync.ops.recovery.gathering import Gathered
from overlaysync.ops.recovery.layered import Layered
from overlaysync.ops.recovery.origins import note_origin
from overlaysync.ops.recovery.pulling import Place, Pull
from overlaysync.ops.recovery.tips import Saving
from overlaysync.ops.recovery.vaults import TeamVault
from overlaysync.store.files import make_directory
from overlaysync.trust.envelope import Manifest
from overlaysync.trust.teams import Team
from overlaysync.vault.contents import Contents
from overlaysync.vault.directory import DirectoryObjects
from overlaysync.vault.objects import Kind, object_name
from overlaysync.vault.state import Disk

_NOTE_S = 10.0
"""How long a restore waits for a command that writes to the vault: what it notes there weighs little."""


@dataclass(slots=True)
class Restore:
    """One ``restore`` command.

    Attributes:
        node: restores.
        team: whose VMs.
        observer: is told what happens.
        to: directory for the VMs.
        masters: directories to find masters in, and to put missing ones into.
        places: where objects come from besides the vault of this node; see :meth:`use`.
        refusals: VMs that cannot be had, and why.
        pulled: is called when all that could be pulled is here, from another thread.
        missing: names of packs that no place could give.
    """

    node: Node
    team: Team
    observer: Observer
    to: str
    masters: Sequence[str] = ()
    places: Sequence[Place] = ()
    refusals: list[Refusal] = field(default_factory=list)
    pulled: Callable[[], None] = lambda: None
    missing: Sequence[str] = ()
    _arrivals: Arrivals = field(default_factory=Arrivals)
    _vault_directory: DirectoryObjects = field(init=False)
    _vault: TeamVault = field(init=False)
    _remote: TeamVault = field(init=False)

    def __post_init__(self) -> None:
        self._vault_directory = DirectoryObjects(self.node.home.vault)
        self._vault = TeamVault(self._vault_directory, self.team)
        self.use(self.places)

    def use(self, places: Sequence[Place]) -> None:
        """Take objects from these places too."""
        self.places = places
        layered = Layered(self._vault.objects, places)
        self._remote = TeamVault(layered, self.team, layered.wrong)

    @property
    def options(self) -> Options:
        """How disks are fetched: the vault comes before peers."""
        spaces = (self._vault.contents, self._vault.public)
        fillers = (VaultFiller(spaces, self._arrivals),)
        return Options(to=self.to, masters=tuple(self.masters), companions=False, fillers=fillers)

    def gather(self) -> Gathered:
        """Learn which states there are."""
        return gather_from(self.node, self._vault, self.places)

    # -- planning --------------------------------------------------------------------------------------

    def plan(self, gathered: Gathered, wish: Wish, fetch: Fetch) -> list[VmPlan]:
        """Return how each VM is brought back; one that cannot be is noted in :attr:`refusals`.

        Raises:
            NotFoundError, AmbiguousError: see :func:`~overlaysync.ops.recovery.choosing.choose`.
        """
        chosen, refusals = choose(gathered.states, wish)
        self.refusals += refusals
        self._learn(chosen)
        plans = []
        for saving in chosen:
            try:
                plans.append(self._plan_vm(saving, self._directory(saving, chosen), fetch))
            except OverlaysyncError as error:
                self.refusals.append(Refusal(saving.vm.name, error))
        return plans

    def _learn(self, chosen: Iterable[Saving]) -> None:
        """Pull the indexes of the chosen states, and read them."""
        for contents, of_remote, what in (
            (self._vault.contents, self._remote.contents, ""),
            (self._vault.public, self._remote.public, "public_"),
        ):
            hashes = _named(chosen, f"{what}indexes")
            packs = _named(chosen, f"{what}packs")
            tag = contents.space.tag
            Pull(self.places, self._vault.objects).run(
                [object_name(tag, Kind.INDEX, hash) for hash in sorted(hashes)], check=True
            )
            of_remote.learn_some(hashes, packs)
            contents.learn_like(of_remote)

    def _directory(self, saving: Saving, chosen: Sequence[Saving]) -> str:
        """Return where the files of a VM go.

        That is a directory of its own where two VMs have files of one name that are not the same.
        """
        files = {file for other in chosen for file in _files(other)}
        apart = len({name for name, _ in files}) < len(files)
        return os.path.join(self.to, saving.vm.name) if apart else self.to

    def _plan_vm(self, saving: Saving, directory: str, fetch: Fetch) -> VmPlan:
        disks = tuple(self._plan_disk(disk, directory, fetch) for disk in saving.vm.disks)
        packs = [name for disk in disks for step in disk.steps for name in self._packs(step)]
        parts = [bytes.fromhex(part) for one in saving.vm.companions for part in one.parts]
        packs += _names(self._remote.contents, [as_digests(b"".join(parts))])
        packs = list(dict.fromkeys(packs))
        missing = {
            name: self._remote.objects.size(name) or 0
            for name in packs
            if self._vault.objects.size(name) is None
        }
        return VmPlan(saving, directory, disks, tuple(packs), missing)

    def _plan_disk(self, disk: Disk, directory: str, fetch: Fetch) -> DiskPlan:
        top, *below = (
            Listing(self._manifest(bytes.fromhex(id)), stored=True) for id in (disk.manifest, *disk.below)
        )
        path = os.path.join(directory, disk.file)
        options = fetch.options
        destination = Destination(os.path.dirname(path), options.masters_place)
        steps = plan_fetch(top, [top, *below], fetch.base_of, destination, options.again)
        steps[-1] = replace(steps[-1], path=path)
        return DiskPlan(
            disk, tuple(steps), Choice(top, Reason.TEAM, asked=top.manifest.header.full_name), path
        )

    def _manifest(self, id: bytes) -> Manifest:
        """Return a manifest of the vault, which is kept in the catalog."""
        for contents in (self._remote.contents, self._remote.public):
            manifest = take_manifest(contents, id)
            if manifest is not None:
                if not manifest.belongs(self.node.teams):
                    raise VerificationError(
                        f"'{manifest.header.full_name}' in the vault was not published by a member",
                        hint="overlaysync vault check --read",
                    )
                keep_manifest(self.node.catalog, manifest, at=timestamp())
                return manifest
        raise NotFoundError(
            "No machine or archive within reach has the description of a disk",
            hint="overlaysync vault check",
        )

    def _pages(self, step: Step) -> PageList:
        contents = self._remote.contents if step.header.team else self._remote.public
        return take_pages(self.node.library, contents, step.listing.manifest)

    def _packs(self, step: Step) -> list[str]:
        """Return the names of the packs with units of what a step makes."""
        contents = self._remote.contents if step.header.team else self._remote.public
        data = DataMap(self._pages(step), self.node.library.load_page)
        return _names(contents, (run.digests for run in data.runs(0, data.count)))

    # -- doing -----------------------------------------------------------------------------------------

    @asynccontextmanager
    async def pulling(self, plans: Sequence[VmPlan]) -> AsyncIterator[None]:
        """Pull the packs that are needed while the block runs, and what is left of them after it.

        Afterwards :attr:`missing` has the names of what no place could give.

        Raises:
            NoSpaceError, OverlaysyncError: the vault of this node fails.
        """
        names = dict.fromkeys(name for plan in plans for name in plan.packs)
        self._vault_directory.drop_temporaries()
        self._arrivals.expect(names)
        rest = _Rest(self.observer, to_pull(plans))
        pull = Pull(self.places, self._vault.objects, rest.advance, self._arrivals.settle)
        work = asyncio.create_task(asyncio.to_thread(self._pull, pull, list(names)))
        try:
            yield
            with rest:
                self.missing = await asyncio.shield(work)
        finally:
            pull.stop()
            await asyncio.wait([work])
            work.exception()  # what it was has been raised, or something else that came before it

    def _pull(self, pull: Pull, names: Sequence[str]) -> list[str]:
        try:
            missing = pull.run(names, check=True)
        except BaseException as error:
            self._arrivals.end(error)
            raise
        self._arrivals.end()
        self.pulled()
        return missing

    async def bring(self, plan: VmPlan, fetch: Fetch) -> Restored:
        """Rebuild the disks of a VM, and put its companions beside them.

        Raises:
            WouldDestroyError: something else is in the way.
            OverlaysyncError: a disk cannot be rebuilt.
        """
        if plan.directory != self.to and os.path.islink(plan.directory):
            raise WouldDestroyError(
                f"{plan.directory} is a link, not a directory for {plan.saving.vm.name}",
                hint="restore into another directory: --to DIR",
            )
        fetched: list[Fetched] = []
        tops: list[Fetched] = []
        for disk in plan.disks:
            _check_folders(plan.directory, disk.disk.file)
            try:
                fetched += await fetch.run(disk.steps, disk.choice)
                _check_in_place(fetched[-1])
                tops.append(fetched[-1])
            except WouldDestroyError as error:
                raise _in_the_way(error) from None
        companions = await asyncio.to_thread(self._put_companions, plan)
        await asyncio.to_thread(self._note_origin, plan)
        return Restored(plan, tuple(fetched), companions, tuple(tops))

    def _note_origin(self, plan: VmPlan) -> None:
        root = self.node.home.vault
        try:
            with only_writer_soon(root, self.observer, wait_s=_NOTE_S):
                note_origin(root, [disk.path for disk in plan.disks], plan.saving.state.id)
        except OverlaysyncError as error:
            self.observer.note(f"  not noted where {plan.saving.vm.name} comes from: {error}")

    def _put_companions(self, plan: VmPlan) -> tuple[str, ...]:
        paths = []
        for _ in self._arrivals.as_they_come(plan.packs if plan.saving.vm.companions else (), lambda _: None):
            pass
        make_directory(plan.directory)
        for companion in plan.saving.vm.companions:
            data = companion_data(self._vault.contents, companion)
            put_companion(plan.directory, companion.file, data, companion.role)
            paths.append(os.path.join(plan.directory, companion.file))
        return tuple(paths)


class _Rest:
    """Shows how far the pull is, once nothing else is shown.

    Args:
        observer: shows it.
        total: bytes that are to be pulled.
    """

    def __init__(self, observer: Observer, total: int) -> None:
        self._observer = observer
        self._total = total
        self._done = 0
        self._shown = False

    def __enter__(self) -> None:
        if self._done < self._total:
            self._observer.begin("pulling", self._total, self._done)
            self._shown = True

    def __exit__(self, *exc_info: object) -> None:
        if self._shown:
            self._shown = False
            self._observer.end()

    def advance(self, size: int) -> None:
        """Note that so many bytes have come. Called from threads."""
        self._done += size
        if self._shown:
            self._observer.advance(size)


def _names(contents: Contents, keys: Iterable[Digests]) -> list[str]:
    """Return the names of the packs that hold any of these keys, in the order of their first use."""
    return [object_name(contents.space.tag, Kind.PACK, pack) for pack in contents.packs_with_any(keys)]


def _named(chosen: Iterable[Saving], what: str) -> set[bytes]:
    """Return the hashes that the chosen states list of one kind of object."""
    return {bytes.fromhex(hash) for one in chosen for hash in getattr(one.state.state, what)}


def _files(saving: Saving) -> list[tuple[str, object]]:
    """Return the names of a VM's files, each with what tells it from others of that name."""
    vm = saving.vm
    disks = [(disk.file, (vm.name, disk.manifest)) for disk in vm.disks]
    return [*disks, *((companion.file, companion.parts) for companion in vm.companions)]


def _check_folders(directory: str, file: str) -> None:
    """Refuse to write a disk through a link.

    Raises:
        WouldDestroyError: a directory that its name leads through is one.
    """
    path = directory
    for folder in file.split("/")[:-1]:
        path = os.path.join(path, folder)
        if os.path.islink(path):
            raise WouldDestroyError(f"{path} is a link, not a directory for {file}", hint=MAKE_ROOM)


def _check_in_place(fetched: Fetched) -> None:
    """Refuse to call a disk restored if a later version of it was found in its place.

    Raises:
        WouldDestroyError: there is a later version.
    """
    if fetched.known.content.id != fetched.manifest.header.content_id:
        raise WouldDestroyError(f"{fetched.known.path} exists, and holds a later version", hint=MAKE_ROOM)


def _in_the_way(error: WouldDestroyError) -> WouldDestroyError:
    return WouldDestroyError(error.what, why=error.why, hint=MAKE_ROOM)
