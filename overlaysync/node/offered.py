"""The images of a share as they are offered: open, unchanged since they were published, and not rotten."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from overlaysync.errors import InUseError
from overlaysync.formats.chain import Chain
from overlaysync.formats.locks import hold_read_lock, in_use_for_writing
from overlaysync.model.fingerprint import Fingerprint
from overlaysync.node.gathering import fingerprint_at
from overlaysync.node.node import Node
from overlaysync.ops.known import Known
from overlaysync.ops.offer import ImageOffer
from overlaysync.ops.versions import past_envelopes
from overlaysync.ops.vms.beside import marks_beside
from overlaysync.trust.envelope import Manifest


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
class OfferedImages:
    """The images that one share offers. Changed from a thread, read from the event loop.

    Attributes:
        node: has published them.
        locks: whether QEMU is kept from writing to them.
        shared: what they are, by the ids of their manifests.
        offers: the open images, by the same.
    """

    node: Node
    locks: bool = True
    shared: dict[bytes, Shared] = field(default_factory=dict)
    offers: dict[bytes, ImageOffer] = field(default_factory=dict)
    _beside: dict[bytes, object] = field(default_factory=dict)
    _at: dict[str, set[bytes]] = field(default_factory=dict)
    _rotten: dict[str, tuple[Fingerprint, str]] = field(default_factory=dict)

    def paths(self) -> set[str]:
        """Return the paths of the files."""
        return {shared.known.path for shared in self.shared.values()}

    def add(
        self,
        image: Known,
        manifest: Manifest,
        opened: Callable[[], Chain],
        *,
        asked: bool,
        is_copy: bool = False,
    ) -> bool:
        """Offer an image, unless it is offered; whether that is news.

        Args:
            image: what is known of it.
            manifest: as it was published.
            opened: opens its files, which must be those that were read.
            asked: whether the user named it.
            is_copy: whether ``opened`` opens a copy of its own layer, without companions.

        Raises:
            InUseError: they are others.
        """
        before = self.shared.get(manifest.id)
        if before is not None:
            self.shared[manifest.id] = replace(before, asked=before.asked or asked)
            return False
        if self.damage(image.path):
            return False
        same = [self.shared[id] for id in self._at.get(image.path, ())]
        if same and not asked:
            return False  # it is shared under the name that was asked for
        chain = opened()
        try:
            expected = chain.fingerprints()
            if self.locks:
                _keep_unwritten(chain, image)
            row = self.node.catalog.images.at(image.path)
            if not is_copy and (row is None or row.chain != expected):
                raise InUseError(f"{image.path} changed while it was published", hint="try again")

            beside = None if is_copy else marks_beside(image.path)

            def unchanged() -> bool:
                return chain.fingerprints() == expected and not in_use_for_writing(chain.top.fd)

            past = past_envelopes(self.node.catalog, manifest)
            offer = ImageOffer(manifest, image.content, self.node.library.load_page, chain, unchanged, past)
        except BaseException:
            chain.close()
            raise
        for other in same:
            if not other.asked:
                self.remove(other.manifest.id)
        self.offers[manifest.id] = offer
        self._beside[manifest.id] = beside
        self.shared[manifest.id] = Shared(image, manifest, asked)
        self._at.setdefault(image.path, set()).add(manifest.id)
        return True

    def remove(self, manifest_id: bytes) -> Shared:
        """Offer an image no longer; returns what it was."""
        del self.offers[manifest_id], self._beside[manifest_id]
        shared = self.shared.pop(manifest_id)
        self._at[shared.known.path].discard(manifest_id)
        return shared

    def clear(self) -> None:
        """Let go of every image; QEMU may write to the masters again."""
        self.offers.clear()
        self._beside.clear()
        self.shared.clear()
        self._at.clear()

    def has_other_companions(self, manifest_id: bytes) -> bool:
        """Whether a companion of an image that is offered was changed, added or removed since."""
        beside = self._beside[manifest_id]
        return beside is not None and marks_beside(self.offers[manifest_id].path) != beside

    def found_rotten(self, path: str, fingerprint: Fingerprint, why: str) -> None:
        """Note that the file of this fingerprint is damaged: it is not offered again.

        May be called from any thread.
        """
        self._rotten[path] = fingerprint, why

    def damage(self, path: str) -> str:
        """Return what is wrong with the file at ``path`` as it is now; "" as far as is known nothing."""
        fingerprint, why = self._rotten.get(path, (None, ""))
        return why if fingerprint is not None and fingerprint == fingerprint_at(path) else ""


def _keep_unwritten(chain: Chain, image: Known) -> None:
    """Keep QEMU from writing to what is shared.

    Only the top of an overlay may be written meanwhile: its owner may start the VM.
    """
    for below in chain.images[1:] if image.layer else chain.images:
        hold_read_lock(below.fd, path=below.path)
