"""Fetch: find, plan, take what is here, transfer the rest, verify, rebuild."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from overlaysync.archive.places import has_places
from overlaysync.errors import (
    BaseImageError,
    NotAllowedError,
    NotFoundError,
    OverlaysyncError,
    Refusal,
    WouldDestroyError,
)
from overlaysync.model.history import History
from overlaysync.model.manifest import Header
from overlaysync.model.reference import Reference, parse_reference
from overlaysync.net.client import Client
from overlaysync.node.any_source import AnySource
from overlaysync.node.companions import bring_companions
from overlaysync.node.download import TransferStats
from overlaysync.node.fetch_types import Fetched, Found, Options
from overlaysync.node.holding import note_held
from overlaysync.node.making import ImageMaker
from overlaysync.node.metadata import Metadata
from overlaysync.node.node import Node, now, timestamp
from overlaysync.node.observer import Observer
from overlaysync.node.reach import Reach
from overlaysync.node.reshare import PartialSeeder
from overlaysync.node.stored_images import StoredImages, with_stored
from overlaysync.ops.again import Again
from overlaysync.ops.bases import BaseFinder
from overlaysync.ops.choice import Choice, Reason, new_pin, remark
from overlaysync.ops.in_use import no_holder
from overlaysync.ops.manifest_rows import keep_manifest
from overlaysync.ops.master_place import Wish, place_of_master
from overlaysync.ops.matching import Listing, fits_name
from overlaysync.ops.name_policy import Grounds, believable, choose, choose_all
from overlaysync.ops.plan import Destination, Step, plan_fetch
from overlaysync.ops.replacement import Asked, Verdict, judge, judge_stray
from overlaysync.ops.trust_messages import AwayError, not_within_reach, only_distrusted
from overlaysync.ops.versions import history_of
from overlaysync.trust.book import Book
from overlaysync.trust.envelope import Manifest


@dataclass(slots=True)
class Fetch:
    """One ``fetch`` command; ``maker`` makes its images, and ``archived`` has those of archives."""

    node: Node
    client: Client
    reach: Reach
    observer: Observer
    options: Options
    seeder: PartialSeeder
    maker: ImageMaker = field(init=False)
    archived: StoredImages = field(init=False)

    def __post_init__(self) -> None:
        sources = AnySource(self.reach, wait_s=self.options.wait_s)
        metadata = Metadata(self.client, sources, self.node.catalog.pages)
        self.archived = _archived(self.node) if self.options.archives else StoredImages()
        self.maker = ImageMaker(
            self.node, self.reach, self.observer, self.options, self.seeder, metadata, self.archived
        )

    async def find(self, reference: Reference, *, wait_s: float) -> Found:
        """Return what ``reference`` means among all that is within reach, to a node with these pins.

        It is looked for as long as ``wait_s``, and no longer than that when it is found.

        Raises:
            NotFoundError, AmbiguousError, NotAllowedError: see :func:`overlaysync.ops.name_policy.choose`.
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
        if reference.is_many or not found():
            await self._look_in_archives(reference)
        try:
            return self._choose(reference)
        except NotFoundError:
            self.reach.require_answer()
            raise

    async def _look_in_archives(self, reference: Reference) -> None:
        """Find what archives have of what is meant, and what that stands on."""
        await asyncio.to_thread(self.archived.look, reference)
        for problem in self.archived.news():
            self.observer.note(f"  {problem}")

    def _listings(self) -> list[Listing]:
        """Return what is within reach, at peers and in the archives that were looked at."""
        return with_stored(self.reach.directory.listings(), self.archived.listings)

    def _choose(self, reference: Reference) -> Found:
        listings, book = self._listings(), self.node.book()
        options, held = self.options, self.node.held()
        grounds = Grounds(book, self.node.versions, now(), options.trusted_only, options.again, held)
        if not reference.is_many:
            return Found((choose(reference, listings, grounds),))
        choices, refusals = choose_all(reference, listings, grounds)
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
        known = {
            (seen.team, seen.name) for seen in catalog.manifests.sightings() if seen.team in self.node.teams
        }
        refusals = []
        for team, name in sorted(known - listed):
            if not fits_name(reference, team, name):
                continue
            rows = [row for row in self.node.versions(team, name) if not book.refuses(row.publisher)]
            newest = History(rows).newest(rows)
            if newest and not any(row.id in held for row in newest):
                error = not_within_reach(newest[0], catalog.holders.of(newest[0].content))
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
            if listing.is_available
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
        destination, again = Destination(to, masters, name, self.options.format), self._again(choice)

        def plan() -> list[Step]:
            return plan_fetch(wanted, self._believable(), self.base_of, destination, again)

        def somebody_has_it() -> bool:
            return any(
                listing.manifest.header.result == parent and listing.is_available
                for listing in self._believable()
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
        return (
            listing.stored
            or not listing.in_use
            or bool(self.reach.directory.sources(header.content_id, header.team))
        )

    def _check_distrusted(self, disk: str) -> None:
        """Say so when a missing master is within reach, and only distrusted publishers have signed it."""
        fitting = [item for item in self._listings() if item.manifest.header.result == disk]
        if fitting and not believable(fitting, self.node.book()):
            raise only_distrusted(parse_reference(disk), fitting, self.node.book())

    def _believable(self) -> list[Listing]:
        """Return what is within reach, without what distrusted publishers signed."""
        return believable(self._listings(), self.node.book())

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
            await asyncio.to_thread(note_held, self.node.catalog, fetched)
            results.append(fetched)
        await asyncio.to_thread(self._commit, choice)
        if self.options.companions:
            await bring_companions(self.reach, self.archived, self.observer, results[-1])
        return results

    def _place_of_master(self, offered: Manifest) -> tuple[str, str | None]:
        options = self.options
        wish = Wish(
            options.masters, options.masters_place, options.name, options.format, options.rules.forward_only
        )
        return place_of_master(self.node.library, offered, wish)

    # -- what is here --------------------------------------------------------------------------------

    @property
    def base_of(self) -> BaseFinder:
        """Finds the image below a layer, if it is here."""
        return BaseFinder(self.node.library, self.options.directories, now())

    def _again(self, choice: Choice) -> Again:
        return self.options.again.about(choice.asked or choice.manifest.header.full_name)

    def _judge(self, step: Step, choice: Choice) -> Verdict:
        library, manifest, rules = self.node.library, step.listing.manifest, self.options.rules
        again = self._again(choice)
        asked = Asked(manifest, rules, self.node.key.public, now(), step.brought, again)
        try:
            return judge(library, step.path, asked)
        except BaseImageError as astray:
            base = self.maker.base(step) if os.path.exists(step.base or "") else None
            if base is None:
                raise
            return judge_stray(library, step.path, asked, astray, base)

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
        await asyncio.to_thread(self.maker.drop_leftover, step)
        return Fetched(step.listing.manifest, verdict.known, True, TransferStats(), verdict)

    async def make(self, step: Step, verdict: Verdict) -> Fetched:
        """Make one image, as :meth:`ImageMaker.make`."""
        return await self.maker.make(step, verdict)


def _archived(node: Node) -> StoredImages:
    """Return the images in the archives of a node."""
    if not has_places(node.home.config):
        return StoredImages()
    from overlaysync.node.archived import Archived

    return Archived(node)
