"""Share images: publish them, serve them, announce them, and notice when they change."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

from overlaysync.errors import (
    NotAllowedError,
    OverlaysyncError,
)
from overlaysync.formats.chain import Chain
from overlaysync.formats.folders import Found
from overlaysync.model.fingerprint import Fingerprint
from overlaysync.model.names import check_name
from overlaysync.model.stop import Stop
from overlaysync.net.messages import Address
from overlaysync.node.gathering import Gathering, Looked, Wishes
from overlaysync.node.given import GivenData
from overlaysync.node.live_images import LiveImage, capture_images, without_companions
from overlaysync.node.naming import Naming
from overlaysync.node.node import Node, timestamp
from overlaysync.node.observer import Observer
from overlaysync.node.offered import OfferedImages, Shared
from overlaysync.node.remarks import Remarks
from overlaysync.node.used import Used, UsedFiles, is_written
from overlaysync.ops.in_use import InUse
from overlaysync.ops.known import Known
from overlaysync.ops.offer import Offer
from overlaysync.ops.publish import Edition
from overlaysync.ops.versions import past_envelopes
from overlaysync.swarm.members import Swarms
from overlaysync.trust.envelope import Manifest, open_envelope


@dataclass(slots=True)
class Share:
    """The contents of a sharing node.

    Args:
        node: publishes.
        paths: images and directories, as the user named them.
        team: whom they are for: a team, "" for everybody, None for the audience that each had so far.
        observer: is told what happens.
        wishes: names, notes, and what of directories is taken.

    Attributes:
        given: what was given of each image that is shared, by manifest id.
        given_size: bytes of image data given in all.
        live: the images that were captured while VMs wrote to them, by path.
    """

    node: Node
    paths: Sequence[str]
    team: str | None
    observer: Observer
    wishes: Wishes = field(default_factory=Wishes)
    neighbours: Callable[[], Sequence[Address]] = lambda: ()
    _stop: Stop = field(default_factory=Stop)
    swarms: Swarms = field(default_factory=Swarms)
    given: dict[bytes, GivenData] = field(default_factory=dict)
    given_size: int = 0
    live: Mapping[str, LiveImage] = field(default_factory=dict)
    _copies: ExitStack = field(default_factory=ExitStack)
    _used: UsedFiles = field(default_factory=UsedFiles)
    _heard: bool = False
    _changes: int = 0
    _offered: OfferedImages = field(init=False)
    _gathering: Gathering = field(init=False)
    _naming: Naming = field(init=False)
    _remarks: Remarks = field(init=False)

    def __post_init__(self) -> None:
        self._offered = OfferedImages(self.node)
        self._naming = Naming(self.node, self.wishes, self.team, self.observer)
        self._remarks = Remarks(self.node, self.observer, self.wishes.again)
        self._gathering = Gathering(
            self.node, self.paths, self.wishes, self.observer, self._advance, self._list_used
        )

    # -- what is served, called from the event loop --------------------------------------------------

    @property
    def label(self) -> str:
        return self.node.label

    @property
    def public_key(self) -> bytes:
        return self.node.key.public

    def offers(self) -> Sequence[Offer]:
        return tuple(self._offered.offers.values())

    def offer(self, manifest_id: bytes) -> Offer | None:
        return self._offered.offers.get(manifest_id)

    def in_use(self) -> Sequence[InUse]:
        return tuple(used.entry for used in self._used.all())

    def peers(self) -> Sequence[Address]:
        return self.neighbours()

    def names(self) -> dict[tuple[str, str], frozenset[bytes]]:
        """Return what this node has published of what is shared: by team and name the contents."""
        found: dict[tuple[str, str], frozenset[bytes]] = {}
        for offer in self.offers():
            header = offer.manifest.header
            if offer.manifest.publisher == self.public_key:
                key = header.team, header.name
                found[key] = found.get(key, frozenset()) | {header.content_id}
        return found

    def hear(self) -> None:
        """Versions of what is shared were seen: at the next refresh it is said which of it they fork."""
        self._heard = True

    def note_given(self, offer: Offer, runs: Iterable[tuple[int, int]], size: int) -> None:
        """Note that slots of an image were sent."""
        self.given_size += size
        self.given.setdefault(offer.manifest.id, GivenData(offer.pieces)).add(runs, size)

    # -- publishing, called from a thread ------------------------------------------------------------

    def publish_all(self) -> None:
        """Hash and publish everything named.

        Raises:
            NotAllowedError: this node is not in the team.
            AmbiguousError: different images would have one name.
            OverlaysyncError: a named image cannot be shared, or there is none at all.
        """
        if self.team:
            self._check_member(check_name(self.team, "team"), f"Cannot share with team '{self.team}'")
        gathering = self._gathering
        found = gathering.collect(all_named=True)
        looked: dict[str, Looked] = {}
        try:
            if (means := self.wishes.live) is not None:
                stack, node = self._copies, self.node
                self.live = capture_images(stack, node, found, means, self.observer, self._advance)
            for path, item in found.items():
                if path in self.live:
                    live = self.live[path]
                    looked[path] = Looked(live.known, live.chain.reopened())
                elif image := gathering.look(item, insist=item.top is None):
                    looked[path] = image
            if looked:
                self._publish_known(looked, found)
        finally:
            for image in looked.values():
                image.chain.close()
        gathering.tell_left_out(len(self._offered.shared))
        if self._offered.shared or self.used:
            return
        if gathering.left_out:
            # Of several, what is mended most easily: a missing master, a VM, rights, damage.
            raise min(gathering.left_out.values(), key=lambda error: error.exit_code)
        raise gathering.nothing_found()

    @property
    def shared(self) -> list[Shared]:
        """What is shared, what the user named first."""
        return sorted(self._offered.shared.values(), key=lambda shared: not shared.asked)

    @property
    def changes(self) -> int:
        """How often what is shared or listed has changed."""
        return self._changes

    @property
    def used(self) -> tuple[Used, ...]:
        """What is listed only, because a VM uses the file."""
        return self._used.all()

    def refresh(self) -> bool:
        """Withdraw what has changed or gone, publish what is new and quiet; whether anything did."""
        changes, before = self._changes, set(self._offered.shared)
        self._withdraw_changed()
        shared = self._offered.paths()
        found = self._gathering.collect(all_named=not self._offered.shared)
        for path in found:
            if path not in shared and not self._offered.damage(path) and self._gathering.is_news(path):
                self._publish_later(path, found)
        self._tell_new(before)
        if self._heard:
            self._heard = False
            for one in self.shared:
                self._remarks.fork(one.known, one.manifest)
        self._tidy_used()
        return self._changes != changes

    def found_rotten(self, path: str, fingerprint: Fingerprint, why: str) -> None:
        """Withdraw the damaged file of this fingerprint at the next refresh, for good.

        May be called from any thread.
        """
        self._offered.found_rotten(path, fingerprint, why)

    def close(self) -> None:
        """Let go of every image; QEMU may write to the masters again."""
        self._stop.wanted = True
        self._offered.clear()
        self._used.clear()
        self._copies.close()
        self._gathering.close()

    def _publish_known(self, looked: Mapping[str, Looked], found: Mapping[str, Found]) -> None:
        """Publish the images that can be shared, masters before what stands on them."""
        known = {path: image.known for path, image in looked.items()}
        names = self._names(known, found, self.team)
        if self.team == "":
            self._confirm_public(known.values(), names)
        for path, image in sorted(looked.items(), key=lambda item: len(list(item[1].known.lineage))):
            try:
                self._publish(image, self.team, names, self.wishes.note)
            except OverlaysyncError as error:
                if found[path].top is None:
                    raise
                self._gathering.leave_out(path, error)

    def _publish_later(self, path: str, found: Mapping[str, Found]) -> None:
        """Publish an image that has appeared or changed, for no other audience than it or this share has.

        What the user said of the versions at the start was not said of this one.
        """
        image = self._gathering.look(found[path], insist=False)
        if image is None:
            return
        try:
            team = self._audience_later(image.known)
            names = self._names({path: image.known}, found, team)
            self._publish(image, team, names, "")
        except OverlaysyncError as error:
            self._gathering.leave_out(path, error)
        finally:
            image.chain.close()

    def _audience_later(self, image: Known) -> str | None:
        """Return the audience of this share for what is new; None for the one that the image had.

        What was written to a public image while a team's share runs is for the team: nobody made it public.
        """
        origin = self.node.publisher.origin(image)
        audience = origin.team if origin else None
        if origin and origin.why and self.team == origin.team and not origin.left:
            return self.team
        known = self.node.catalog.manifests.matching(team="", content=image.content.id)
        narrower = self.team and audience == "" and not known
        return self.team if audience is None or narrower else None

    def _names(
        self, known: Mapping[str, Known], found: Mapping[str, Found], team: str | None
    ) -> dict[str, str]:
        """Return the name of each image to be published, and of all that they stand on."""
        shared = [shared.known for shared in self._offered.shared.values()]
        return self._naming.names(known, found, team, shared=shared, left_out=self._gathering.left_out)

    def _tell_new(self, before: Container[bytes]) -> None:
        """Say what is shared now and was not before, by the ids of the manifests."""
        for manifest_id, shared in self._offered.shared.items():
            if manifest_id not in before:
                self._remarks.new(shared.manifest, self.team)

    def _confirm_public(self, images: Iterable[Known], names: Mapping[str, str]) -> None:
        """Ask before what was a team's is made public."""
        team_things = [
            f"{image.path} ({origin.why})" if origin.why else f"{origin.team}/{names[image.path]}"
            for image in images
            if (origin := self.node.publisher.origin(image)) and origin.team
        ]
        if team_things:
            self.wishes.confirm(team_things)

    def _publish(self, looked: Looked, team: str | None, names: Mapping[str, str], note: str) -> None:
        image = looked.known
        live = self.live.get(image.path)
        publisher = without_companions(self.node) if live else self.node.publisher
        lineage = publisher.publish_lineage(
            image,
            team=team,
            edition=Edition(timestamp(), note, bool(self.wishes.name), self.wishes.again),
            names=names,
        )
        places = {id(one): depth for depth, one in enumerate(image.lineage)}
        for below, manifest in lineage:
            self._remarks.published(below, manifest)
            opened = partial(looked.chain.reopened, places[id(below)])
            self._offer(below, manifest, opened, asked=below is image, is_copy=below is image and bool(live))
        header = lineage[0][1].header
        if note not in ("", header.note):
            self.observer.note(
                f"  {header.full_name}:{header.version} was published before, and its note stays as it is"
            )

    def _check_member(self, team: str, what: str) -> None:
        """Refuse to share with a team that this node is not in.

        Raises:
            NotAllowedError: this node is not in ``team``.
        """
        if not self.node.may_see(team):
            ways = f"with its code: overlaysync team join {team}; or, for a new team: "
            ways += f"overlaysync team create {team}"
            (near, *_) = (*difflib.get_close_matches(team, sorted(self.node.teams), n=1), "")
            if near:
                meant = self.wishes.again.share(*self.paths, audience=("--team", near))
                ways = f"if you meant '{near}': {meant}; to join, {ways}"
            raise NotAllowedError(what, why="this machine is not in that team", hint=ways)

    def _advance(self, size: int) -> None:
        """Report progress; the only place where hashing can be told to stop."""
        self._stop(size)
        self.observer.advance(size)

    def _offer(
        self,
        image: Known,
        manifest: Manifest,
        opened: Callable[[], Chain],
        *,
        asked: bool,
        is_copy: bool = False,
    ) -> None:
        """Offer an image; ``opened`` opens its files, which must be those that were read, or its copy."""
        if self._offered.add(image, manifest, opened, asked=asked, is_copy=is_copy):
            self._changes += 1
            self._remarks.growth(image, manifest)

    def _withdraw_changed(self) -> None:
        for manifest_id, offer in list(self._offered.offers.items()):
            why = self._offered.damage(offer.path)
            if why or not offer.unchanged():
                self._withdraw(manifest_id, why or change_of(offer.path))
            elif self._offered.has_other_companions(manifest_id):
                self._withdraw(manifest_id, f"a file that belongs to {offer.path} has changed")

    def _withdraw(self, manifest_id: bytes, why: str) -> None:
        offer = self._offered.offers[manifest_id]
        if is_written(offer.path, offer.chain.top.fd):
            self._use(offer.path, InUse(offer.manifest, timestamp(), offer.past))
            why = f"a VM writes to {offer.path}; it stays listed as in use"
        shared = self._offered.remove(manifest_id)
        header = shared.manifest.header
        self.swarms.leave(manifest_id)
        self.given.pop(manifest_id, None)
        self._gathering.forget(shared.known.path)
        self._changes += 1
        self._tell_withdrawn(f"{header.full_name}:{header.version}", why)

    def _tell_withdrawn(self, name: str, why: str) -> None:
        self.observer.note(f"No longer shared: {name} ({why})")

    def _list_used(self, path: str) -> bool:
        """List what a VM writes, if it was published before; whether it was."""
        manifest = self._published_before(path) if is_written(path) else None
        if manifest is None:
            return False
        entry = InUse(manifest, timestamp(), past_envelopes(self.node.catalog, manifest))
        if self._use(path, entry):
            header = manifest.header
            self.observer.note(
                f"In use: {header.full_name}:{header.version} (a VM writes to {path}); it is listed, and its "
                "next version is shared when the VM is shut down"
            )
        return True

    def _published_before(self, path: str) -> Manifest | None:
        """Return the version that the file held last, if it was for the audience that it has now."""
        held = self.node.catalog.held.at(path)
        for row in map(self.node.catalog.manifests.find, held.manifests if held else ()):
            if row is None or self.team not in (None, row.team) or self.wishes.name not in ("", row.name):
                continue
            manifest = open_envelope(row.envelope)
            if manifest.belongs(self.node.teams):
                return manifest
        return None

    def _use(self, path: str, entry: InUse) -> bool:
        news = self._used.add(path, entry)
        self._changes += news
        return news

    def _tidy_used(self) -> None:
        """Forget what is shared again, gone, or could not be shared after the VM was shut down."""
        shared = self._offered.paths()

        def still(path: str) -> bool:
            return path not in shared and (is_written(path) or not self._gathering.is_tried(path))

        self._changes += self._used.keep(still)


def change_of(path: str) -> str:
    """Return what became of a file that is not as it was published."""
    return f"{path} has changed" if os.path.exists(path) else f"{path} was deleted"
