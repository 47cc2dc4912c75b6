"""Fetch: find, plan, take what is here, transfer the rest, verify, rebuild."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from overlaysync.errors import (
    BaseImageError,
    NoSpaceError,
    NotAllowedError,
    NotFoundError,
    OverlaysyncError,
    Refusal,
    StoppedError,
    VerificationError,
    WouldDestroyError,
)
from overlaysync.formats.image import Format
from overlaysync.formats.layout import Target
from overlaysync.model.digest import short_id
from overlaysync.model.history import History
from overlaysync.model.manifest import Header
from overlaysync.model.names import one_field
from overlaysync.model.pages import PageList
from overlaysync.model.reference import Reference, parse_reference
from overlaysync.net.client import Client
from overlaysync.node.asking import Anyone
from overlaysync.node.describing import Describing
from overlaysync.node.node import Node, now, timestamp
from overlaysync.node.observer import Observer
from overlaysync.node.passing import Passing
from overlaysync.node.reach import Reach
from overlaysync.node.transfer import Transfer, Transferring
from overlaysync.ops.again import Again
from overlaysync.ops.assemble import Assembly, discard_part, target_for
from overlaysync.ops.backing import mark_meant
from overlaysync.ops.bases import find_base, path_below
from overlaysync.ops.believe import Choice, Reason, believable, choose, choose_all, new_pin, remark
from overlaysync.ops.folders import images_in
from overlaysync.ops.hashing import combine
from overlaysync.ops.in_use import no_holder
from overlaysync.ops.library import Known, PageKeeper
from overlaysync.ops.local import LocalCopier
from overlaysync.ops.make import MASTER_MODE, OVERLAY_MODE, backing_name
from overlaysync.ops.master_place import Wish, place_of_master
from overlaysync.ops.offer import PartOffer
from overlaysync.ops.packing import Packing
from overlaysync.ops.plan import Step, plan_fetch
from overlaysync.ops.publish import keep_manifest
from overlaysync.ops.replacement import Rules, Verdict, check_still, judge, judge_stray
from overlaysync.ops.resolve import Listing, fits_name
from overlaysync.ops.trust_words import AwayError, not_within_reach, only_distrusted
from overlaysync.ops.versions import State, history_of, is_news, past_envelopes, settled
from overlaysync.store.catalog import Held
from overlaysync.store.files import make_directory, may_write
from overlaysync.store.partial import check_room
from overlaysync.store.place import Entry
from overlaysync.trust.book import Book
from overlaysync.trust.envelope import Manifest, open_envelope
from overlaysync.units import format_size

P = ParamSpec("P")
T = TypeVar("T")

_WRITERS = 4
"""Threads that verify and write: more than processors, as writing waits for the disk."""


_NOTHING_THERE = Verdict()


@dataclass(frozen=True, slots=True)
class Options:
    """How to fetch.

    Attributes:
        to: directory of what is fetched.
        masters: directories to find masters in; missing ones go to the first that can be written, else to
            ``to``.
        name: name of the file instead of the thing's.
        format: format instead of the sender's.
        rules: which files may be replaced.
        trusted_only: whether only publishers count that the user has said to trust.
        wait_s: how long to look for peers.
        all_known: whether of several things those are missed that a team is known to have.
        exclude: patterns of names that are left out of several things.
        again: what a command needs that fetches one of the things into the same places.
    """

    to: str = "."
    masters: tuple[str, ...] = ()
    name: str | None = None
    format: Format | None = None
    rules: Rules = field(default_factory=Rules)
    trusted_only: bool = False
    wait_s: float = 4.0
    all_known: bool = False
    exclude: tuple[str, ...] = ()
    again: Again = field(default_factory=Again)

    @property
    def directories(self) -> list[str]:
        """Where images here are looked for."""
        return list(dict.fromkeys([*self.masters, self.to]))

    @property
    def masters_place(self) -> str:
        """Where a missing master goes."""
        return next((path for path in self.masters if may_write(path)), self.to)

    def leaves_out(self, name: str) -> bool:
        """Whether a thing is left out; ``name`` is that of the team, if it is a team's, and its own."""
        words = (name, name.rpartition("/")[2])
        return any(fnmatchcase(word, pattern) for pattern in self.exclude for word in words)


@dataclass(frozen=True, slots=True)
class Found:
    """What a reference means: what can be had, and what cannot."""

    choices: tuple[Choice, ...]
    refusals: tuple[Refusal, ...] = ()


@dataclass(frozen=True, slots=True)
class Fetched:
    """One image that is now here.

    Attributes:
        manifest: what it is.
        known: the image.
        already: whether it was here before.
        transfer: where its bytes came from.
        verdict: how what was there stood to it.
    """

    manifest: Manifest
    known: Known
    already: bool
    transfer: Transfer
    verdict: Verdict = _NOTHING_THERE

    @property
    def here(self) -> Manifest:
        """What the file holds: what was asked for, or a version here that follows it."""
        standing = self.verdict.standing
        if self.already and standing is not None and standing.state is State.NEWER:
            return open_envelope(standing.held[0].envelope)
        return self.manifest


@dataclass(slots=True)
class Fetch:
    """One ``fetch`` command."""

    node: Node
    client: Client
    reach: Reach
    observer: Observer
    options: Options
    passing: Passing
    _stopping: bool = False
    _describing: Describing = field(init=False)

    def __post_init__(self) -> None:
        anyone = Anyone(self.reach, wait_s=self.options.wait_s)
        self._describing = Describing(self.client, anyone, self.node.catalog.pages)

    async def find(self, reference: Reference, *, wait_s: float) -> Found:
        """Return what ``reference`` means among all that is within reach, to a node with these pins.

        It is looked for as long as ``wait_s``, and no longer than that when it is found.

        Raises:
            NotFoundError, AmbiguousError, NotAllowedError: see :func:`overlaysync.ops.believe.choose`.
        """

        def found() -> bool:
            try:
                now = self._choose(reference)
                if any(isinstance(one.error, (AwayError, NotFoundError)) for one in now.refusals):
                    return False
                return all(
                    choice.step_back is None and self._has_holder(choice.listing) for choice in now.choices
                )
            except (NotFoundError, NotAllowedError, AwayError):
                return False  # a peer that has it, or the publisher of the name, may answer yet
            except OverlaysyncError:
                return True

        await self.reach.until(found, wait_s=wait_s)
        try:
            return self._choose(reference)
        except NotFoundError:
            self.reach.require_answer()
            raise

    def _choose(self, reference: Reference) -> Found:
        listings, book = self.reach.listings(), self.node.book()
        about = (reference, listings, book, self.node.versions)
        trusted_only, again, held = self.options.trusted_only, self.options.again, self.node.held()
        if not reference.is_many:
            return Found((choose(*about, now=now(), trusted_only=trusted_only, again=again, held=held),))
        choices, refusals = choose_all(*about, now=now(), trusted_only=trusted_only, again=again, held=held)
        if self.options.all_known and not reference.peer:
            refusals += self._unlisted(reference, listings, book, held)
        # Overlays first: they say which masters are brought along, and where those go.
        choices.sort(key=lambda choice: not choice.manifest.header.is_layer)
        out = self.options.leaves_out
        return Found(
            tuple(choice for choice in choices if not out(choice.manifest.header.full_name)),
            tuple(refusal for refusal in refusals if not out(refusal.name)),
        )

    def _unlisted(
        self, reference: Reference, listings: Sequence[Listing], book: Book, held: Collection[bytes]
    ) -> list[Refusal]:
        """Return what teams are known to have of what is meant, and no peer lists and no file here holds."""
        catalog = self.node.catalog
        listed = {(item.manifest.header.team, item.manifest.header.name) for item in listings}
        known = {(seen.team, seen.name) for seen in catalog.sightings() if seen.team in self.node.teams}
        refusals = []
        for team, name in sorted(known - listed):
            if not fits_name(reference, team, name):
                continue
            rows = [row for row in self.node.versions(team, name) if not book.refuses(row.publisher)]
            newest = History(rows).newest(rows)
            if newest and not any(row.id in held for row in newest):
                error = not_within_reach(newest[0], catalog.holders(newest[0].content))
                refusals.append(Refusal(f"{team}/{name}", error))
        return refusals

    def accept(self, choice: Choice, *, dry_run: bool) -> bool:
        """Say whose word is taken. Nothing is pinned by it: that is for :meth:`run`, when the image is here.

        Returns:
            Whether the name is used for the first time.
        """
        book = self.node.book()
        text = remark(choice, book, dry_run=dry_run)
        if text:
            self.observer.note(text)
        return new_pin(choice, book, since=timestamp()) is not None

    def _commit(self, choice: Choice) -> None:
        """Pin the name to its publisher if this was its first use."""
        pin = new_pin(choice, self.node.book(), since=timestamp())
        if pin:
            self.node.catalog.pins.pin_first(pin)

    def newer_than(self, choice: Choice) -> Header | None:
        """Return the header of a newer version within reach, by the team or publisher; None for none."""
        header, id = choice.manifest.header, choice.manifest.id
        publisher = choice.manifest.publisher
        same = [
            listing.manifest
            for listing in self._believable()
            if listing.peers
            and (listing.manifest.header.team, listing.manifest.header.name) == (header.team, header.name)
            and (header.team or listing.manifest.publisher == publisher)
        ]
        history = history_of(self.node.catalog, same)
        later = [one.header for one in same if history.is_before(id, one.id)]
        return max(later, key=lambda one: one.version, default=None)

    async def plan(self, wanted: Listing, choice: Choice) -> list[Step]:
        """Return the steps that bring ``wanted`` here; waits a little for a peer to have its master.

        Args:
            wanted: what: a claim of what was chosen.
            choice: what was chosen.
        """
        masters = self.options.masters_place
        to, name = self.options.to, self.options.name
        if not wanted.manifest.header.is_layer:
            to, name = await asyncio.to_thread(self._place_of_master, wanted.manifest)
        parent = wanted.manifest.header.parent

        def plan() -> list[Step]:
            return plan_fetch(
                wanted,
                self._believable(),
                self.base_of,
                to=to,
                masters=masters,
                name=name,
                format=self.options.format,
                again=self._again(choice),
            )

        def somebody_has_it() -> bool:
            return any(
                listing.manifest.header.result == parent and listing.peers for listing in self._believable()
            )

        try:
            return await asyncio.to_thread(plan)
        except BaseImageError:
            await self.reach.until(somebody_has_it, wait_s=self.options.wait_s)
        try:
            return await asyncio.to_thread(plan)
        except BaseImageError:
            self._check_distrusted(parent)
            for listing in self._believable():
                if listing.manifest.header.result == parent:
                    self._require_holder(listing)
            raise

    def claims(self, choice: Choice) -> list[Listing]:
        """Return what was chosen, then what other publishers say of that content, in case one of them lies.

        Of a name that one publisher has, only that one's word counts.
        """
        wanted, header = choice.listing, choice.manifest.header
        if choice.reason in (Reason.TEAM, Reason.PINNED, Reason.FIRST_USE) or self.options.trusted_only:
            return [wanted]
        others = {
            (other.parent, other.result, other.virtual_size): listing
            for listing in self._believable()
            if (other := listing.manifest.header).content_id == header.content_id
            and other.team == header.team
        }
        others.pop((header.parent, header.result, header.virtual_size), None)
        return [wanted, *others.values()]

    def require_holders(self, steps: Sequence[Step]) -> None:
        """Complain where a VM uses what is to be fetched, and no other machine within reach has it.

        Raises:
            InUseError: so it is.
        """
        for step in steps:
            self._require_holder(step.listing)

    def _require_holder(self, listing: Listing) -> None:
        if not self._has_holder(listing):
            raise no_holder(listing.manifest, listing.in_use, now())

    def _has_holder(self, listing: Listing) -> bool:
        """Whether a peer gives out the content, as far as that is known: what a VM uses is only listed."""
        header = listing.manifest.header
        return not listing.in_use or bool(self.reach.sources(header.content_id, header.team))

    def _check_distrusted(self, disk: str) -> None:
        """Say so when a missing master is within reach, and only distrusted publishers have signed it."""
        fitting = [item for item in self.reach.listings() if item.manifest.header.result == disk]
        if fitting and not believable(fitting, self.node.book()):
            raise only_distrusted(parse_reference(disk), fitting, self.node.book())

    def _believable(self) -> list[Listing]:
        """Return what is within reach, without what distrusted publishers signed."""
        return believable(self.reach.listings(), self.node.book())

    async def judge(self, steps: Sequence[Step], choice: Choice) -> Verdict | None:
        """Return what is to happen at the place of what was asked for; None when only its master can tell.

        Raises:
            WouldDestroyError, InUseError: it may not be replaced.
            BaseImageError: the overlay that is there has lost its master, and this fetch does not bring it.
            NotAllowedError: it is a step back, and nothing newer is here.
        """
        try:
            verdict = await asyncio.to_thread(self._judge, steps[-1], choice)
        except BaseImageError:
            if len(steps) == 1:
                raise
            verdict = None
        if choice.step_back is not None and (verdict is None or verdict.known is None):
            raise choice.step_back
        return verdict

    async def run(self, steps: Sequence[Step], choice: Choice) -> list[Fetched]:
        """Do the steps, in order; then the name of what was asked for belongs to its publisher.

        A fetch that fails commits to nothing: a peer that cannot serve an image must not get its name.
        """
        # The last is what was asked for: if it has no place, nothing is brought along for it.
        await self.judge(steps, choice)
        results = []
        for step in steps:
            fetched = await self._make_or_find(step, choice)
            # In a thread: another process may hold the catalog for a while, and others are served meanwhile.
            await asyncio.to_thread(keep_manifest, self.node.catalog, step.listing.manifest, at=timestamp())
            await asyncio.to_thread(self._hold, step, fetched)
            results.append(fetched)
        await asyncio.to_thread(self._commit, choice)
        return results

    def _place_of_master(self, offered: Manifest) -> tuple[str, str | None]:
        options = self.options
        wish = Wish(
            options.masters, options.masters_place, options.name, options.format, options.rules.forward_only
        )
        return place_of_master(self.node.library, offered, wish)

    # -- what is here --------------------------------------------------------------------------------

    def base_of(self, header: Header, path: str, *, last_resort: bool = True) -> Known | None:
        """Return the image below a layer that is for the file at ``path``, if it is here.

        See :func:`find_base`.
        """
        assert header.parent_id is not None
        return find_base(
            self.node.library,
            header.parent_id,
            self.options.directories,
            called=header.parent_name,
            now=now(),
            present=path_below(self.node.library, path),
            last_resort=last_resort,
        )

    def _again(self, choice: Choice) -> Again:
        return self.options.again.about(choice.asked or choice.manifest.header.full_name)

    def _judge(self, step: Step, choice: Choice) -> Verdict:
        library, manifest, rules = self.node.library, step.listing.manifest, self.options.rules
        own, again = self.node.key.public, self._again(choice)
        try:
            return judge(
                library, step.path, manifest, rules, own=own, now=now(), brought=step.brought, again=again
            )
        except BaseImageError as astray:
            base = self._base(step) if os.path.exists(step.base or "") else None
            if base is None:
                raise
            return judge_stray(library, step.path, manifest, rules, astray, own=own, base=base, again=again)

    async def _make_or_find(self, step: Step, choice: Choice) -> Fetched:
        """Make the image, unless it is at its place, or another process makes it there meanwhile."""
        verdict = await asyncio.to_thread(self._judge, step, choice)
        if verdict.known is None:
            try:
                return await self.make(step, verdict)
            except WouldDestroyError:
                verdict = await asyncio.to_thread(self._judge, step, choice)
                if verdict.known is None:
                    raise
        await asyncio.to_thread(self._drop_leftover, step)
        return Fetched(step.listing.manifest, verdict.known, True, Transfer(), verdict)

    def _hold(self, step: Step, fetched: Fetched) -> None:
        """Note which version the file holds now; one that is newer than what was offered stays noted."""
        catalog, manifest, path = self.node.catalog, fetched.manifest, fetched.known.path
        if fetched.known.content.id != manifest.header.content_id or not fetched.known.files:
            return
        noted = catalog.held_at(path)
        before = noted.manifests if noted else ()
        if noted and fetched.already and not is_news(catalog, before, manifest):
            return
        ids = settled(catalog, manifest, (*before, *fetched.verdict.superseded))
        header = manifest.header
        # Its next version is one of the thing that it is, whatever the file is called here.
        catalog.hold(Held(path, header.team, header.name, ids, fetched.known.files[0]))

    # -- making one image ----------------------------------------------------------------------------

    async def make(self, step: Step, verdict: Verdict) -> Fetched:
        """Make one image whose base is here, in the place of what is there if ``verdict`` says so."""
        transfer = Transfer()
        pages = await self._page_list(step, transfer)
        base = await asyncio.to_thread(self._base, step)
        if base:
            await asyncio.to_thread(mark_meant, self.node.catalog, base, self.options.directories)
        assembly = await self._in_thread(self._assembly, step, pages, base, verdict.entry)
        past = await asyncio.to_thread(past_envelopes, self.node.catalog, step.listing.manifest)
        offer = PartOffer(step.listing.manifest, assembly, self.node.library.load_page, past)
        mode = OVERLAY_MODE if base and not step.brought else MASTER_MODE
        try:
            check = partial(self._check_result, step, pages, base, assembly.path) if base else None

            def finish() -> Known:
                if step.packing:
                    self._pack(step, step.packing, assembly)
                check_still(step.path, verdict.file)
                file = assembly.finish(
                    mode=mode, replaces=verdict.entry, check=check, progress=self._check_stopping
                )
                return self._remember(step, pages, assembly.path, file)

            known = await self._fill(step, assembly, offer, transfer, finish)
        except BaseException:
            self.passing.withdraw(offer)
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

    def _drop_leftover(self, step: Step) -> None:
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
            pages,
            self.node.library.load_page,
            self.node.home.journals,
            replaces=replaces,
            progress=self._check_stopping,
        )

    async def _fill(
        self,
        step: Step,
        assembly: Assembly,
        offer: PartOffer,
        transfer: Transfer,
        finish: Callable[[], Known],
    ) -> Known:
        """Get all data from here and from peers, give what there is to others, and finish the file."""
        threads = ThreadPoolExecutor(_WRITERS, thread_name_prefix="verify")
        in_thread = partial(asyncio.get_running_loop().run_in_executor, threads)
        transfer.resumed = assembly.resumed
        self.observer.begin(f"{step.header.name}", assembly.data.size)
        try:
            self.observer.advance(assembly.resumed)
            await in_thread(self._take_local, step, assembly, transfer)
            self.passing.begin(offer)
            transferring = Transferring(self.reach, step, assembly, offer, transfer, threads, self.passing)
            await transferring.run()
            known, _ = await asyncio.gather(in_thread(finish), transferring.say_goodbye())
            self.passing.finish(offer)
            return known
        except asyncio.CancelledError:
            self._stopping = True
            raise
        finally:
            # Threads may still be writing: the part file is closed after the last of them.
            await asyncio.shield(asyncio.to_thread(_close, assembly, threads))
            self.observer.end()

    def _base(self, step: Step) -> Known | None:
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

    def _check_result(self, step: Step, pages: PageList, base: Known, path: str, file: int) -> None:
        """Every byte is as the layer has it; here the disk that it makes must be what its publisher promised.

        Raises:
            VerificationError: it is another, or what it stands on has rotted.
        """
        keeper = PageKeeper(self.node.catalog)
        with self.node.library.open(path, step.format, file=file) as chain:
            disk = combine(
                base.disk, pages, self.node.library.load_page, chain, keeper.keep, self._check_stopping
            )
        keeper.flush()
        if disk.id != step.header.result_id:
            raise VerificationError(
                f"Cannot fetch '{step.header.name}'",
                why=f"on its master it gives {short_id(disk.id)}, "
                f"but its publisher promised {short_id(step.header.result_id)}",
                hint=f"overlaysync verify '{base.path}'; if it is good, ask its publisher to share it again",
            )
        self.node.catalog.pages.keep_list(disk)

    def _remember(self, step: Step, pages: PageList, path: str, file: int) -> Known:
        disk = self.node.catalog.pages.load_list(step.header.result_id) if pages.is_layer else pages
        assert disk is not None, "it was kept when the result was checked"
        return self.node.library.remember(path, step.format, pages, disk, file=file, now=now())

    def _take_local(self, step: Step, assembly: Assembly, transfer: Transfer) -> None:
        """Take what images here hold: known ones, and unknown ones of the same size beside the target."""
        if assembly.have.complete():
            return
        self._learn(assembly.data.pages.virtual_size)
        copier = LocalCopier(assembly, self.node.library.load_page, self._advance)
        for row in self.node.catalog.all_images():
            for layer in (False, True) if row.layer else (False,):
                with self.node.library.source(row, layer=layer) as source:
                    if source is not None:
                        transfer.local += copier.take(source)
                if assembly.have.complete():
                    return

    def _advance(self, size: int) -> None:
        """Report progress of work in threads; the only place where they can be told to stop."""
        self._check_stopping(size)
        self.observer.advance(size)

    def _check_stopping(self, size: int) -> None:
        if self._stopping:
            raise StoppedError("stopped")

    def _learn(self, virtual_size: int) -> None:
        """Hash the images here that nobody has hashed yet.

        What is known of the others stays, also where it does not fit any more: it says what a damaged image
        should be, and its good units are found all the same.
        """
        library = self.node.library
        with images_in(self.options.directories) as found:
            for item in found:
                with suppress(OverlaysyncError, OSError):
                    if self.node.catalog.image_at(item.path) is not None:
                        continue
                    with library.open_quiet(item.path, file=item.open()) as chain:
                        if chain.virtual_size == virtual_size:
                            library.examine_chain(chain, now=now(), progress=self._check_stopping)

    # -- manifest ------------------------------------------------------------------------------------

    async def _page_list(self, step: Step, transfer: Transfer) -> PageList:
        """Return the page list of the content, with all its pages kept here."""
        header = step.header
        transfer.manifest += len(step.listing.manifest.envelope)
        pages = await asyncio.to_thread(self.node.catalog.pages.load_list, header.content_id)
        if pages is None:
            # Images here that nobody has hashed yet may show it, or most of its pages.
            await self._in_thread(self._learn, header.virtual_size)
            pages = await asyncio.to_thread(self.node.catalog.pages.load_list, header.content_id)
        if pages is None:
            await asyncio.to_thread(check_room, Path(step.path), header.data_size)
            pages, received = await self._describing.fetch(header)
            transfer.manifest += received
        if (pages.parent, pages.virtual_size) != (header.parent_id, header.virtual_size):
            raise VerificationError(
                f"Cannot fetch '{header.name}'",
                why="its manifest does not match its content",
                hint=f"ask {one_field(header.by) or 'its publisher'} to share it again",
            )
        return pages

    async def _in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Long work, which :meth:`_check_stopping` ends when nobody waits for it any more."""
        try:
            return await asyncio.to_thread(work, *args, **kwargs)
        except asyncio.CancelledError:
            self._stopping = True
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
