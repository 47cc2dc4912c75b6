"""Replicas: serve what was fetched as it was fetched, and publish nothing.

A share publishes what its owner writes. A replica only passes versions on: a file that is written to is
withdrawn, and becomes no version of anything until its owner shares it. Nothing is locked, so that a VM may
be started from a replica when the machine that it ran on is lost.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from functools import partial

from overlaysync.errors import OverlaysyncError
from overlaysync.formats.chain import Chain
from overlaysync.node.sharing import Share, change_of
from overlaysync.node.used import is_written
from overlaysync.ops.library import Known
from overlaysync.trust.envelope import Manifest, open_envelope


@dataclass(slots=True)
class Replica(Share):
    """The shelf of a node that follows others; ``paths`` and ``team`` mean nothing to it."""

    _waiting: deque[Known] = field(default_factory=deque)
    _begun: bool = False

    def add(self, image: Known) -> None:
        """Serve an image, with what it stands on, from the next refresh on; may be called from any thread."""
        self._waiting.append(image)

    def refresh(self) -> bool:
        """Withdraw what has changed, and offer what was added; whether anything did."""
        changes, before = self._changes, set(self._shared)
        for manifest_id, offer in list(self._offers.items()):
            why = self._rot(offer.path)
            if why or not offer.unchanged():
                self._withdraw(manifest_id, why or change_of(offer.path))
        while self._waiting:
            for image in (top := self._waiting.popleft()).lineage:
                self._offer_version(image, asked=image is top)
        self._changes += self._used.keep(is_written)
        if self._begun:  # what it begins with is in the result of the command
            self._tell_new(set(self._shared) - before)
        self._begun = True
        return self._changes != changes

    def _offer_version(self, image: Known, *, asked: bool) -> None:
        """Offer an image as the version that it holds; one that holds none is not for others."""
        manifest = self._version(image)
        if manifest is None:
            return
        try:
            opened = partial(self.node.library.open, image.path, image.geometry.format)
            self._offer(image, manifest, opened, asked=asked)
        except (OverlaysyncError, OSError) as error:
            self.observer.note(f"not shared: {image.path}: {error}")

    def _version(self, image: Known) -> Manifest | None:
        """The version that the file was noted to hold; else any that this node may see of its content."""
        catalog = self.node.catalog
        noted = catalog.held_at(image.path)
        held = [row for row in map(catalog.find_manifest, noted.manifests if noted else ()) if row]
        for row in (*held, *catalog.manifests(content=image.content.id)):
            manifest = open_envelope(row.envelope)
            if row.content == image.content.id and manifest.belongs(self.node.teams):
                return manifest
        return None

    def _keep_unwritten(self, chain: Chain, image: Known) -> None:
        pass
