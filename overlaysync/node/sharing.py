"""Share images: publish them, serve them, announce them, and notice when they change."""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from shlex import quote

from overlaysync.errors import (
    AmbiguousError,
    InUseError,
    NotAllowedError,
    OverlaysyncError,
    StoppedError,
)
from overlaysync.formats.chain import Chain
from overlaysync.formats.image import Format
from overlaysync.formats.locks import hold_read_lock, in_use_for_writing
from overlaysync.model.digest import MIN_ID_DIGITS, short_id
from overlaysync.model.fingerprint import Fingerprint
from overlaysync.model.names import check_name
from overlaysync.net.messages import Address
from overlaysync.node.gathering import Gathering, Looked, Wishes, fingerprint_at
from overlaysync.node.node import Node, timestamp
from overlaysync.node.observer import Observer
from overlaysync.node.used import Used, UsedFiles, is_written
from overlaysync.ops.again import Again
from overlaysync.ops.audience import stem
from overlaysync.ops.folders import Found
from overlaysync.ops.in_use import InUse
from overlaysync.ops.library import Known
from overlaysync.ops.loss import would_be_lost
from overlaysync.ops.naming import Candidate, assign_names
from overlaysync.ops.offer import ImageOffer, Offer
from overlaysync.ops.packing import grows, packing_of
from overlaysync.ops.trust_messages import two_sides, who
from overlaysync.ops.versions import past_envelopes
from overlaysync.swarm.members import Swarms
from overlaysync.trust.envelope import Manifest, open_envelope
from overlaysync.trust.keys import node_id
from overlaysync.units import format_size


@dataclass(frozen=True, slots=True)
class Shared:
    """An image being shared.

    Attributes:
        known: the image.
        manifest: as it is published.
        asked: whether the user named it (else it was brought along by an overlay on it).
    """

    known: Known
    manifest: Manifest
    asked: bool


@dataclass(slots=True)
class Share:
    """The contents of a sharing node.

    Args:
        node: publishes.
        paths: images and directories, as the user named them.
        team: whom they are for: a team, "" for everybody, None for the audience that each had so far.
        observer: is told what happens.
        wishes: names, notes, and what of directories is taken.
    """

    node: Node
    paths: Sequence[str]
    team: str | None
    observer: Observer
    wishes: Wishes = field(default_factory=Wishes)
    neighbours: Callable[[], Sequence[Address]] = lambda: ()
    stopping: bool = False
    swarms: Swarms = field(default_factory=Swarms)
    _shared: dict[bytes, Shared] = field(default_factory=dict)
    _offers: dict[bytes, ImageOffer] = field(default_factory=dict)
    _rotten: dict[str, tuple[Fingerprint, str]] = field(default_factory=dict)
    _used: UsedFiles = field(default_factory=UsedFiles)
    _heard: bool = False
    _forks: set[tuple[bytes, bytes]] = field(default_factory=set)
    _changes: int = 0
    _gathering: Gathering = field(init=False)

    def __post_init__(self) -> None:
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
        return tuple(self._offers.values())

    def offer(self, manifest_id: bytes) -> Offer | None:
        return self._offers.get(manifest_id)

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
            for path, item in found.items():
                if image := gathering.look(item, insist=item.top is None):
                    looked[path] = image
            if looked:
                self._publish_known(looked, found)
        finally:
            for image in looked.values():
                image.chain.close()
        gathering.tell_left_out(len(self._shared))
        if self._shared or self.used:
            return
        if gathering.left_out:
            # Of several, what is mended most easily: a missing master, a VM, rights, damage.
            raise min(gathering.left_out.values(), key=lambda error: error.exit_code)
        raise gathering.nothing_found()

    @property
    def shared(self) -> list[Shared]:
        """What is shared, what the user named first."""
        return sorted(self._shared.values(), key=lambda shared: not shared.asked)

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
        changes, before = self._changes, set(self._shared)
        for manifest_id, offer in list(self._offers.items()):
            why = self._rot(offer.path)
            if why or not offer.unchanged():
                self._withdraw(manifest_id, why or change_of(offer.path))
        shared = {shared.known.path for shared in self._shared.values()}
        found = self._gathering.collect(all_named=not self._shared)
        for path in found:
            if path not in shared and not self._rot(path) and self._gathering.is_news(path):
                self._publish_later(path, found)
        self._tell_new(set(self._shared) - before)
        if self._heard:
            self._heard = False
            for one in self.shared:
                self._warn_of_fork(one.known, one.manifest)
        self._tidy_used()
        return self._changes != changes

    def found_rotten(self, path: str, fingerprint: Fingerprint, why: str) -> None:
        """Withdraw the damaged file of this fingerprint at the next refresh, for good.

        May be called from any thread.
        """
        self._rotten[path] = fingerprint, why

    def close(self) -> None:
        """Let go of every image; QEMU may write to the masters again."""
        self.stopping = True
        self._offers.clear()
        self._shared.clear()
        self._used.clear()
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

    def _tell_new(self, manifest_ids: Iterable[bytes]) -> None:
        for manifest_id in manifest_ids:
            manifest = self._shared[manifest_id].manifest
            header = manifest.header
            whom = f"team '{header.team}'" if header.team else "everybody"
            by = "" if manifest.publisher == self.public_key else f", published by {header.by}"
            public = ", which was public before" if self.team and not header.team else ""
            self.observer.note(f"Now shared with {whom}: {header.full_name}:{header.version}{by}{public}")

    def _names(
        self, known: Mapping[str, Known], found: Mapping[str, Found], team: str | None
    ) -> dict[str, str]:
        """Return the name of each image to be published, and of all that they stand on."""
        present = {shared.known.path: shared.known for shared in self._shared.values()}
        images = {image.path: image for top in (*present.values(), *known.values()) for image in top.lineage}
        left_out = self._gathering.left_out
        in_folder = Counter(
            item.folder for path, item in found.items() if item.folder and path not in left_out
        )
        candidates = []
        for path, image in images.items():
            asked, folder = path in found, found[path].folder if path in found else ""
            noted = self.node.catalog.held.at(path)
            passed_on = None if asked else self.node.publisher.passed_on(image, team)
            candidates.append(
                Candidate(
                    path=path,
                    content=image.content.id,
                    asked=asked,
                    folder=folder,
                    alone=in_folder[folder] == 1,
                    below=tuple(below.path for below in list(image.lineage)[1:]),
                    given=self._given(path, found),
                    noted=noted.name if noted else "",
                    fixed=passed_on.header.name if passed_on else "",
                    passed=self.node.publisher.held_version(image, team) is not None,
                )
            )
        names = assign_names(candidates, self._taken(images), again=self.wishes.again)
        for candidate in candidates:
            name = names[candidate.path]
            if candidate.asked and name not in (stem(candidate.path), candidate.given, candidate.noted):
                self.observer.note(f"  {candidate.path} is called '{name}'")
        return names

    def _given(self, path: str, found: Mapping[str, Found]) -> str:
        """Return the name that the user gave, which fits one image only."""
        if not self.wishes.name or path not in found:
            return ""
        if len(found) > 1:
            raise AmbiguousError(
                "--as names one image, and several are to be shared",
                candidates=tuple(found),
                hint=self.wishes.again.share("PATH"),
            )
        return check_name(self.wishes.name)

    def _taken(self, images: Mapping[str, Known]) -> dict[str, str]:
        """Names of other files of this node, and their paths; copies of what is to be shared do not count."""
        contents = {image.content.id for image in images.values()}
        return {
            held.name: held.path
            for held in self.node.catalog.held.all()
            if held.path not in images
            and (self.team is None or held.team == self.team)
            and os.path.exists(held.path)
            and not contents & self.node.library.published_contents(held.path)
        }

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
        lineage = self.node.publisher.publish_lineage(
            image,
            team=team,
            created=timestamp(),
            names=names,
            note=note,
            continues=bool(self.wishes.name),
            again=self.wishes.again,
        )
        places = {id(one): depth for depth, one in enumerate(image.lineage)}
        for below, manifest in lineage:
            self._warn_of_pin(manifest)
            self._warn_of_fork(below, manifest)
            opened = partial(looked.chain.again, places[id(below)])
            self._offer(below, manifest, opened, asked=below is image)
        header = lineage[0][1].header
        if note not in ("", header.note):
            self.observer.note(
                f"  {header.full_name}:{header.version} was published before, and its note stays as it is"
            )

    def _warn_of_pin(self, manifest: Manifest) -> None:
        """Say that others will not accept this by its name, where the name belongs to another publisher."""
        header, key = manifest.header, self.public_key
        book = self.node.book()
        if manifest.publisher == key and not header.team and book.is_other(key, header.team, header.name):
            pin = book.pins[header.team, header.name]
            self.observer.note(
                f"  On this machine '{header.full_name}' belongs to {who(pin.publisher, pin.label)}. "
                "Machines that have that publisher's will not accept yours until they run: "
                f"overlaysync trust {node_id(key)} --name {header.full_name}"
            )

    def _warn_of_fork(self, image: Known, manifest: Manifest) -> None:
        """Say that what this node published is one side of a fork, and how to settle it; once of a pair."""
        if manifest.publisher != self.public_key:
            return
        name = manifest.header.full_name
        for row in self.node.other_sides(manifest):
            if (manifest.id, row.id) in self._forks:
                continue
            self._forks.add((manifest.id, row.id))
            lost = would_be_lost(self.node.library, image, own=self.public_key)
            alone = f"; of yours, {lost}" if lost else ""
            again = Again(short_id(row.content), ("--to", os.path.dirname(image.path)))
            beside = f"{stem(image.path)[:50]}-{row.content.hex()[:MIN_ID_DIGITS]}"
            # What is typed as it stands must not lose this side: the second refuses, and says what is lost.
            self.observer.note(
                f"  This forks {name}: {two_sides(manifest, row)}{alone}. "
                f"To have both: {again.fetch('--as', beside)}; "
                "to choose, told first what is lost: "
                f"{again.fetch('--as', os.path.basename(image.path))}; "
                f"to choose yours: overlaysync settle {quote(image.path)}; "
                "to go on under another name: " + self.wishes.again.share(image.path, name="NAME")
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
        if self.stopping:
            raise StoppedError("stopped")
        self.observer.advance(size)

    def _offer(self, image: Known, manifest: Manifest, opened: Callable[[], Chain], *, asked: bool) -> None:
        """Offer an image; ``opened`` opens its files, which must be those that were read."""
        before = self._shared.get(manifest.id)
        if before is not None:
            self._shared[manifest.id] = replace(before, asked=before.asked or asked)
            return
        if self._rot(image.path):
            return
        same = [other for other in self._shared.values() if other.known.path == image.path]
        if same and not asked:
            return  # it is shared under the name that was asked for
        chain = opened()
        try:
            expected = chain.fingerprints()
            self._keep_unwritten(chain, image)
            row = self.node.catalog.images.at(image.path)
            if row is None or row.chain != expected:
                raise InUseError(f"{image.path} changed while it was published", hint="try again")

            def unchanged() -> bool:
                return chain.fingerprints() == expected and not in_use_for_writing(chain.top.fd)

            past = past_envelopes(self.node.catalog, manifest)
            offer = ImageOffer(manifest, image.content, self.node.library.load_page, chain, unchanged, past)
        except BaseException:
            chain.close()
            raise
        for other in same:
            if not other.asked:
                del self._shared[other.manifest.id], self._offers[other.manifest.id]
        self._offers[manifest.id] = offer
        self._shared[manifest.id] = Shared(image, manifest, asked)
        self._changes += 1
        self._tell_growth(image, manifest)

    def _tell_growth(self, image: Known, manifest: Manifest) -> None:
        """Say when an image will take more room at others.

        They compress no overlays, and nothing that was published before by a file that was not compressed.
        """
        header, size = manifest.header, image.files[0].size
        packed = packing_of(header, Format(header.format)) is not None
        if image.geometry.compression is not None and not packed and grows(size, header.data_size):
            self.observer.note(
                f"  compressed: {header.full_name} is {format_size(size)} here and will take "
                f"{format_size(header.data_size)} at each receiver"
            )

    def _keep_unwritten(self, chain: Chain, image: Known) -> None:
        """Keep QEMU from writing to what is shared.

        Only the top of an overlay may be written meanwhile: its owner may start the VM.
        """
        for below in chain.images[1:] if image.layer else chain.images:
            hold_read_lock(below.fd, path=below.path)

    def _rot(self, path: str) -> str:
        """Return what is wrong with the file at ``path`` as it is now; "" as far as is known nothing."""
        fingerprint, why = self._rotten.get(path, (None, ""))
        return why if fingerprint is not None and fingerprint == fingerprint_at(path) else ""

    def _withdraw(self, manifest_id: bytes, why: str) -> None:
        offer = self._offers[manifest_id]
        if is_written(offer.path, offer.chain.top.fd):
            self._use(offer.path, InUse(offer.manifest, timestamp(), offer.past))
            why = f"a VM writes {offer.path}; it stays listed as in use"
        del self._offers[manifest_id]
        shared = self._shared.pop(manifest_id)
        header = shared.manifest.header
        self.swarms.leave(manifest_id)
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
                f"In use: {header.full_name}:{header.version} (a VM writes {path}); it is listed, and its "
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
        shared = {shared.known.path for shared in self._shared.values()}

        def still(path: str) -> bool:
            return path not in shared and (is_written(path) or not self._gathering.is_tried(path))

        self._changes += self._used.keep(still)


def change_of(path: str) -> str:
    """Return what became of a file that is not as it was published."""
    return f"{path} has changed" if os.path.exists(path) else f"{path} was deleted"
