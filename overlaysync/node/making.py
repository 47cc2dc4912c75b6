"""Makes one image on a base that is here, of what images here hold and peers have; verified, then named."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from overlaysync.errors import (
    BaseImageError,
    NetworkError,
    NoSpaceError,
    NotFoundError,
    OverlaysyncError,
    VerificationError,
)
from overlaysync.formats.layout import Target
from overlaysync.model.datamap import DataMap
from overlaysync.model.names import one_field
from overlaysync.model.pages import PageList
from overlaysync.model.stop import Stop
from overlaysync.node.download import Download, Making, TransferStats
from overlaysync.node.fetch_types import Fetched, Options
from overlaysync.node.local_images import LocalImages
from overlaysync.node.metadata import Metadata
from overlaysync.node.node import Node, now
from overlaysync.node.observer import Observer
from overlaysync.node.reach import Reach
from overlaysync.node.reshare import PartialSeeder
from overlaysync.node.stored_images import StoredImages
from overlaysync.ops.assemble import Assembly
from overlaysync.ops.backing import mark_meant
from overlaysync.ops.known import Known
from overlaysync.ops.make import MASTER_MODE, OVERLAY_MODE, backing_name
from overlaysync.ops.offer import PartOffer
from overlaysync.ops.packing import Packing
from overlaysync.ops.part_files import discard_part, target_for
from overlaysync.ops.plan import Step
from overlaysync.ops.promised import PromisedDisk
from overlaysync.ops.replacement import Verdict, check_still
from overlaysync.ops.versions import past_envelopes
from overlaysync.store.files import make_directory
from overlaysync.store.space import check_room
from overlaysync.store.target import Entry
from overlaysync.units import format_size

P = ParamSpec("P")
T = TypeVar("T")

_WRITERS = 4
"""Threads that verify and write: more than processors, as writing waits for the disk."""


@dataclass(slots=True)
class ImageMaker:
    """Makes images one after the other.

    Attributes:
        node, reach, observer, options, seeder: as of the fetch.
        metadata: gets page lists.
        archived: has what no peer has.
        stop: is wanted when the fetch is broken off; what runs in threads ends soon.
    """

    node: Node
    reach: Reach
    observer: Observer
    options: Options
    seeder: PartialSeeder
    metadata: Metadata
    archived: StoredImages
    stop: Stop = field(default_factory=Stop)
    _images: LocalImages = field(init=False)

    def __post_init__(self) -> None:
        self._images = LocalImages(self.node, self.options.directories)

    async def make(self, step: Step, verdict: Verdict) -> Fetched:
        """Make one image whose base is here, in the place of what is there if ``verdict`` says so."""
        transfer = TransferStats()
        pages = await self._page_list(step, transfer)
        base = await asyncio.to_thread(self.base, step)
        if base:
            await asyncio.to_thread(mark_meant, self.node.catalog, base, self.options.directories)
        assembly = await self._in_thread(self._assembly, step, pages, base, verdict.entry)
        past = await asyncio.to_thread(past_envelopes, self.node.catalog, step.listing.manifest)
        offer = PartOffer(step.listing.manifest, assembly, self.node.library.load_page, past)
        mode = OVERLAY_MODE if base and not step.brought else MASTER_MODE
        try:
            check = (
                PromisedDisk(self.node.library, step, pages, base, assembly.path, self.stop) if base else None
            )

            def finish() -> Known:
                if step.packing:
                    self._pack(step, step.packing, assembly)
                check_still(step.path, verdict.file)
                file = assembly.finish(mode=mode, replaces=verdict.entry, check=check, progress=self.stop)
                return self._remember(step, pages, assembly.path, file)

            known = await self._fill(step, assembly, offer, transfer, finish)
        except BaseException:
            self.seeder.withdraw(offer)
            raise
        return Fetched(step.listing.manifest, known, False, transfer, verdict)

    def _pack(self, step: Step, packing: Packing, assembly: Assembly) -> None:
        """Compress the whole image as its publisher did; without room for that it stays as it is."""
        self.observer.end()
        self.observer.begin(f"{step.header.name}, compressing", assembly.data.size)
        try:
            assembly.pack(packing, self._advance)
        except NoSpaceError as error:
            self.observer.note(
                f"  {step.path} is not compressed and takes {format_size(assembly.data.size)}: "
                f"there is no room for both at once ({error.why})"
            )

    def drop_leftover(self, step: Step) -> None:
        """Remove the part file of an image that is here, packed by a run that was killed at its very end."""
        pages = self.node.catalog.pages.load_list(step.header.content_id)
        if step.packing and pages:
            with suppress(OverlaysyncError):
                discard_part(Path(step.path), _target(step, pages, None), pages, self.node.home.journals)

    def _assembly(self, step: Step, pages: PageList, base: Known | None, replaces: Entry | None) -> Assembly:
        target = _target(step, pages, base)
        make_directory(os.path.dirname(step.path))
        return Assembly.open(
            Path(step.path),
            target,
            DataMap(pages, self.node.library.load_page, progress=self.stop),
            self.node.home.journals,
            replaces=replaces,
            progress=self.stop,
        )

    async def _fill(
        self,
        step: Step,
        assembly: Assembly,
        offer: PartOffer,
        transfer: TransferStats,
        finish: Callable[[], Known],
    ) -> Known:
        """Get all data from here and from peers, give what there is to others, and finish the file."""
        threads = ThreadPoolExecutor(_WRITERS, thread_name_prefix="verify")
        in_thread = partial(asyncio.get_running_loop().run_in_executor, threads)
        transfer.resumed = assembly.resumed
        self.observer.begin(f"{step.header.name}", assembly.data.size, assembly.resumed)
        try:
            await in_thread(self._take_local, assembly, transfer)
            self.seeder.begin(offer)
            making = Making(step, assembly, offer, transfer)
            download = Download(self.reach, making, threads, self.seeder)
            take = partial(in_thread, self._take_archived, step, assembly, transfer)
            await self._get_rest(download, step, assembly, take)
            known, _ = await asyncio.gather(in_thread(finish), download.company.say_goodbye())
            self.seeder.finish(offer)
            return known
        except asyncio.CancelledError:
            self.stop.wanted = True
            raise
        finally:
            # Threads may still be writing: the part file is closed after the last of them.
            await asyncio.shield(asyncio.to_thread(_close, assembly, threads))
            self.observer.end()

    async def _get_rest(
        self, download: Download, step: Step, assembly: Assembly, take: Callable[[], Awaitable[None]]
    ) -> None:
        """Get what is missing from peers, and what no peer gives with ``take`` from archives.

        Raises:
            VerificationError, NotFoundError, NetworkError: neither of them gives all of it.
        """
        if not self._is_at_peers(step):
            await take()
        try:
            await download.run()
        except (VerificationError, NotFoundError, NetworkError):
            if self._is_at_peers(step):  # else they were tried
                await take()
            if step.listing.manifest in self.archived and not assembly.have.complete():
                raise self._damaged(step) from None
            if not assembly.have.complete():
                raise

    def _damaged(self, step: Step) -> VerificationError:
        """Return the error for an image that archives list and do not give, when no peer does."""
        labels = self.archived.places_of(step.listing.manifest)
        return VerificationError(
            f"Cannot fetch '{step.header.name}'",
            why=f"{', '.join(labels)} cannot give all of it, and no machine within reach has it",
            hint=f"overlaysync archive check --read {labels[0].removeprefix('archive ')}",
        )

    def _is_at_peers(self, step: Step) -> bool:
        header = step.header
        return bool(self.reach.directory.sources(header.content_id, header.team))

    def _take_archived(self, step: Step, assembly: Assembly, transfer: TransferStats) -> None:
        """Take what archives have, if they have the image; one that fails is told of."""
        if step.listing.manifest not in self.archived or assembly.have.complete():
            return
        with suppress(OverlaysyncError):  # what is missing still is said in the end
            taken = self.archived.take(step.listing.manifest, assembly, partial(self._taken, assembly))
            for label, (wire, size) in taken.items():
                transfer.data += wire
                transfer.sources[label] = transfer.sources.get(label, 0) + size
        for problem in self.archived.news():
            self.observer.note(f"  {problem}")

    def base(self, step: Step) -> Known | None:
        """Return the image that a step builds on; None for a master.

        Raises:
            BaseImageError: the file has other content.
        """
        if step.base is None:
            return None
        base = self.node.library.examine(step.base, now=now())
        if base.disk.id != step.header.parent_id:
            raise BaseImageError(
                f"Cannot rebuild '{step.header.name}' on {base.path}",
                why="its content is not that of the master it stands on",
                hint=f"overlaysync verify --repair '{base.path}'",
            )
        return base

    def _remember(self, step: Step, pages: PageList, path: str, file: int) -> Known:
        disk = self.node.catalog.pages.load_list(step.header.result_id) if pages.is_layer else pages
        assert disk is not None, "it was kept when the result was checked"
        return self.node.library.remember(path, step.format, pages, disk, file=file, now=now())

    def _take_local(self, assembly: Assembly, transfer: TransferStats) -> None:
        """Take what is held by images here, and then by whatever else the fetch was given."""
        for filler in (self._images, *self.options.fillers):
            if assembly.have.complete():
                return
            transfer.local += filler.take(assembly, partial(self._taken, assembly))

    def _taken(self, assembly: Assembly, size: int) -> None:
        """Report progress of what is written; when it is killed later, it goes on from about here."""
        assembly.checkpoint(now())
        self._advance(size)

    def _advance(self, size: int) -> None:
        """Report progress of work in threads, and stop it if nobody waits for it any more."""
        self.stop(size)
        self.observer.advance(size)

    # -- its page list ------------------------------------------------------------------------------------

    async def _page_list(self, step: Step, transfer: TransferStats) -> PageList:
        """Return the page list of the content, with all its pages kept here."""
        header = step.header
        transfer.manifest += len(step.listing.manifest.envelope)
        pages = await asyncio.to_thread(self.node.catalog.pages.load_list, header.content_id)
        if pages is None:
            # Images here that nobody has hashed yet may show it, or most of its pages.
            await self._in_thread(self._images.learn, header.virtual_size, self.stop)
            pages = await asyncio.to_thread(self.node.catalog.pages.load_list, header.content_id)
        if pages is None:
            await asyncio.to_thread(check_room, Path(step.path), header.data_size)
            pages, received = await self._get_page_list(step)
            transfer.manifest += received
        if (pages.parent, pages.virtual_size) != (header.parent_id, header.virtual_size):
            raise VerificationError(
                f"Cannot fetch '{header.name}'",
                why="its manifest does not match its content",
                hint=f"ask {one_field(header.by) or 'its publisher'} to share it again",
            )
        return pages

    async def _get_page_list(self, step: Step) -> tuple[PageList, int]:
        """Return the page list from peers, or from an archive where no peer gives it; and its bytes."""
        manifest = step.listing.manifest
        if self._is_at_peers(step) or manifest not in self.archived:
            try:
                return await self.metadata.fetch(step.header)
            except (NotFoundError, NetworkError):
                if manifest not in self.archived:
                    raise
        pages = await self._in_thread(self.archived.pages, manifest)
        return pages, len(pages.encode())

    async def _in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Long work, which ``stop`` ends when nobody waits for it any more."""
        try:
            return await asyncio.to_thread(work, *args, **kwargs)
        except asyncio.CancelledError:
            self.stop.wanted = True
            raise


def _target(step: Step, pages: PageList, base: Known | None) -> Target:
    return target_for(
        pages,
        format=step.format,
        cluster_size=step.header.cluster_size,
        backing_name=backing_name(step.path, base.path) if base else None,
        backing_format=base.geometry.format if base else None,
    )


def _close(assembly: Assembly, threads: ThreadPoolExecutor) -> None:
    threads.shutdown(wait=True, cancel_futures=True)
    assembly.close()
