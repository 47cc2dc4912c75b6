"""Share images: publish them, serve them, announce them, and notice when they change."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from overlaysync.errors import (
    ImageError,
    InUseError,
    NotAllowedError,
    NotFoundError,
    OverlaysyncError,
    StoppedError,
)
from overlaysync.formats.files import may_read
from overlaysync.formats.image import Format
from overlaysync.formats.locks import hold_read_lock, in_use_for_writing
from overlaysync.model.fingerprint import Fingerprint
from overlaysync.model.names import check_name
from overlaysync.node.node import Node, now, timestamp
from overlaysync.node.observer import Observer
from overlaysync.ops.library import Known, image_files
from overlaysync.ops.offer import ImageOffer, Offer
from overlaysync.ops.trust_words import who
from overlaysync.store.files import translate
from overlaysync.swarm.members import Swarms
from overlaysync.trust.envelope import Manifest
from overlaysync.trust.keys import node_id


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
    """The shelf of a sharing node.

    Args:
        node: publishes.
        paths: images and directories, as the user named them.
        team: whom what is published newly is for: a team, "" for everybody, None for whom it has been for.
        format: what the named images are, whatever their names and contents suggest; None to look.
    """

    node: Node
    paths: Sequence[str]
    team: str | None
    observer: Observer
    format: Format | None = None
    neighbours: Callable[[], Sequence[str]] = lambda: ()
    stopping: bool = False
    swarms: Swarms = field(default_factory=Swarms)
    _shared: dict[bytes, Shared] = field(default_factory=dict)
    _offers: dict[bytes, ImageOffer] = field(default_factory=dict)
    _seen: dict[str, Fingerprint] = field(default_factory=dict)
    _tried: dict[str, Fingerprint] = field(default_factory=dict)
    _rotten: dict[str, tuple[Fingerprint, str]] = field(default_factory=dict)
    _busy: set[str] = field(default_factory=set)
    _left_out: dict[str, OverlaysyncError] = field(default_factory=dict)
    _changes: int = 0

    # -- the shelf, called from the event loop -------------------------------------------------------

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

    def peers(self) -> Sequence[str]:
        return self.neighbours()

    # -- publishing, called from a thread ------------------------------------------------------------

    def publish_all(self) -> None:
        """Hash and publish everything named.

        Raises:
            NotAllowedError: this node is not in the team.
            OverlaysyncError: a named image cannot be shared, or there is none at all.
        """
        if self.team:
            self._check_member(check_name(self.team, "team"), f"Cannot share with team '{self.team}'")
        for path in self.paths:
            if os.path.isdir(path):
                self._publish_directory(path)
            else:
                self._publish(path)
        if not self._shared and self._left_out:
            # Of several, what is mended most easily: a missing master, a VM, rights, damage.
            raise min(self._left_out.values(), key=lambda error: error.exit_code)
        if not self._shared:
            raise NotFoundError(
                f"There is no image in {', '.join(self.paths)}",
                hint="images are named *.qcow2, *.qed, *.raw, *.img",
            )

    @property
    def shared(self) -> list[Shared]:
        """What is shared, what the user named first."""
        return sorted(self._shared.values(), key=lambda shared: not shared.asked)

    def refresh(self) -> bool:
        """Withdraw what has changed or gone, publish what is new and quiet; whether anything did."""
        changes, before = self._changes, set(self._shared)
        for manifest_id, offer in list(self._offers.items()):
            why = self._rot(offer.path)
            if why or not offer.unchanged():
                self._withdraw(manifest_id, why or f"{offer.path} has changed")
        shared = {shared.known.path for shared in self._shared.values()}
        for path in self._wanted():
            if path in shared or self._rot(path):
                continue
            if self._settled(path) and self._tried.get(path) != self._seen[path]:
                self._try(path)
        for manifest_id in set(self._shared) - before:
            header = self._shared[manifest_id].manifest.header
            self.observer.note(f"{header.full_name}:{header.version} is shared")
        return self._changes != changes

    def found_rotten(self, path: str, fingerprint: Fingerprint, why: str) -> None:
        """The file of this fingerprint is damaged: it is withdrawn at the next refresh, and stays so.

        May be called from any thread.
        """
        self._rotten[path] = fingerprint, why

    def close(self) -> None:
        """Let go of every image; QEMU may write to the masters again."""
        self.stopping = True
        self._offers.clear()
        self._shared.clear()

    def _wanted(self) -> list[str]:
        named = [path for path in self.paths if not os.path.isdir(path)]
        directories = [path for path in self.paths if os.path.isdir(path)]
        return [
            os.path.realpath(path) for path in (*named, *image_files(directories)) if os.path.exists(path)
        ]

    def _publish_directory(self, directory: str) -> None:
        if not os.access(directory, os.R_OK | os.X_OK):
            what = f"Cannot read {directory}"
            raise NotAllowedError(what, why="permission denied", hint=may_read(directory))
        for path in image_files([directory]):
            self._try(os.path.realpath(path))

    def _try(self, path: str) -> None:
        """Publish an image; one that cannot be shared is said once, and tried again when it has changed."""
        with suppress(OSError):
            self._tried[path] = Fingerprint.of(os.stat(path))
        try:
            self._publish(path)
        except InUseError as error:
            self._tried.pop(path, None)  # it may come free without being written
            if path not in self._busy:
                self._leave_out(path, error)
            self._busy.add(path)
        except OverlaysyncError as error:
            self._leave_out(path, error)
        except OSError as error:
            self._leave_out(path, translate(error, f"Cannot read {path}"))
        else:
            self._busy.discard(path)

    def _leave_out(self, path: str, error: OverlaysyncError) -> None:
        self._left_out[path] = error
        self.observer.note(f"left out: {error}")

    def _publish(self, path: str) -> None:
        size = self.node.library.guest_size(path, self.format)
        self.observer.begin(f"hashing {os.path.basename(path)}", size)
        try:
            known = self.node.library.examine(path, now=now(), format=self.format, progress=self._advance)
        finally:
            self.observer.end()
        for note in known.notes:
            self.observer.note(f"{path}: {note}")
        _check_is_one(known)
        self._check_named(known)
        lineage = self.node.publisher.publish_lineage(
            known, team=self.team, created=timestamp(), may_see=self.node.may_see
        )
        for image, manifest in lineage:
            team = manifest.header.team
            self._check_member(team, f"{image.path} belongs to team '{team}'")
        for image, manifest in lineage:
            self._warn_of_pin(manifest)
            self._offer(image, manifest, asked=image is known)

    def _warn_of_pin(self, manifest: Manifest) -> None:
        """Say that others will not take this by its name, where they know the name as somebody else's."""
        header, key = manifest.header, self.public_key
        book = self.node.book()
        if manifest.publisher == key and book.is_other(key, header.team, header.name):
            pin = book.pins[header.team, header.name]
            self.observer.note(
                f"'{header.full_name}' is {who(pin.publisher, pin.label)}'s here: who knows it so is refused "
                f"yours until they type: overlaysync trust {node_id(key)} --name {header.full_name}"
            )

    def _check_member(self, team: str, what: str) -> None:
        """What belongs to a team is given by members alone.

        Raises:
            NotAllowedError: this node is not in ``team``.
        """
        if not self.node.may_see(team):
            raise NotAllowedError(
                what,
                why="this node is not in that team",
                hint=f"overlaysync team create {team}, or with its code: overlaysync team join {team}",
            )

    def _check_named(self, known: Known) -> None:
        """A raw file below an overlay may be any file: an image's header must not make us share it.

        Raises:
            NotAllowedError: it was neither named nor ever published.
        """
        for below in list(known.lineage)[1:]:
            if (
                below.geometry.format is Format.RAW
                and below.path not in self._wanted()
                and not self.node.catalog.manifests(content=below.content.id)
            ):
                raise NotAllowedError(
                    f"{known.path} stands on {below.path}, a raw file that was not named",
                    hint=f"if it is a master, name it too: overlaysync share '{below.path}' '{known.path}'",
                )

    def _advance(self, size: int) -> None:
        """Report progress; the only place where hashing can be told to stop."""
        if self.stopping:
            raise StoppedError("stopped")
        self.observer.advance(size)

    def _offer(self, image: Known, manifest: Manifest, *, asked: bool) -> None:
        before = self._shared.get(manifest.id)
        if before is not None:
            self._shared[manifest.id] = replace(before, asked=before.asked or asked)
            return
        if self._rot(image.path):
            return
        same = [other for other in self._shared.values() if other.known.path == image.path]
        if same and not asked:
            return  # it is shared under the name that was asked for
        chain = self.node.library.open(image.path, image.geometry.format)
        try:
            expected = chain.fingerprints()
            # Only the top of an overlay may be written while it is shared: its owner may start the VM.
            for below in chain.images[1:] if image.layer else chain.images:
                hold_read_lock(below.fd, path=below.path)
            row = self.node.catalog.image_at(image.path)
            if row is None or row.chain != expected:
                raise InUseError(f"{image.path} changed while it was published", hint="try again")

            def unchanged() -> bool:
                return chain.fingerprints() == expected and not in_use_for_writing(chain.top.fd)

            offer = ImageOffer(manifest, image.content, self.node.library.load_page, chain, unchanged)
        except BaseException:
            chain.close()
            raise
        for other in same:
            if not other.asked:
                del self._shared[other.manifest.id], self._offers[other.manifest.id]
        self._offers[manifest.id] = offer
        self._shared[manifest.id] = Shared(image, manifest, asked)
        self._changes += 1

    def _rot(self, path: str) -> str:
        """What is wrong with the file at ``path`` as it is now; "" as far as is known nothing."""
        fingerprint, why = self._rotten.get(path, (None, ""))
        return why if fingerprint is not None and fingerprint == self._fingerprint(path) else ""

    def _withdraw(self, manifest_id: bytes, why: str) -> None:
        del self._offers[manifest_id]
        shared = self._shared.pop(manifest_id)
        header = shared.manifest.header
        self.swarms.leave(manifest_id)
        self._seen.pop(shared.known.path, None)
        self._tried.pop(shared.known.path, None)
        self._changes += 1
        self.observer.note(f"{header.full_name}:{header.version} is served no longer: {why}")

    def _settled(self, path: str) -> bool:
        """Whether the file looked the same the last time."""
        present = self._fingerprint(path)
        before = self._seen.get(path)
        if present is not None:
            self._seen[path] = present
        return present is not None and present == before

    def _fingerprint(self, path: str) -> Fingerprint | None:
        try:
            return Fingerprint.of(os.stat(path))
        except OSError:
            return None


def _check_is_one(known: Known) -> None:
    """An empty disk is of no use to anybody.

    Raises:
        ImageError: it is one.
    """
    if not known.disk.virtual_size:
        raise ImageError("it is empty", path=known.path)
