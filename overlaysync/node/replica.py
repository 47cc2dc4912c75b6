"""Replicas: serve what was fetched as it was fetched, and publish nothing.

A share publishes what its owner writes. A replica only passes versions on: a file that is written to is
withdrawn, and becomes no version of anything until its owner shares it. Nothing is locked, so that a VM may
be started from a replica when the machine that it ran on is lost.
"""

from __future__ import annotations

import shlex
from collections import deque
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from overlaysync.errors import NotFoundError, OverlaysyncError
from overlaysync.formats.chain import Chain
from overlaysync.model.reference import Reference
from overlaysync.node.node import now
from overlaysync.node.sharing import Share, change_of
from overlaysync.node.used import is_written
from overlaysync.ops.bases import lies_in
from overlaysync.ops.library import Known, full_name
from overlaysync.ops.present import Present, files_meant
from overlaysync.trust.envelope import Manifest, open_envelope


@dataclass(slots=True)
class Replica(Share):
    """The shelf of a node that follows others; ``paths`` and ``team`` mean nothing to it."""

    _waiting: deque[Known] = field(default_factory=deque)
    _begun: bool = False
    _told: set[str] = field(default_factory=set)

    def add(self, image: Known) -> None:
        """Serve an image, with what it stands on, from the next refresh on; may be called from any thread."""
        self._waiting.append(image)

    def add_held(
        self, references: Sequence[Reference], directories: Sequence[str], refused: Collection[str]
    ) -> None:
        """Serve what files on this machine hold of the things that are named, from the next refresh on.

        What was written to them since is only said, once for each file.

        Args:
            references: what is named.
            directories: of several copies those in these are served.
            refused: full names of things of which something was said already.
        """
        files = {file.path: file for reference in references for file in self._meant(reference)}
        shared = {shared.known.path for shared in self._shared.values()}
        for file in sorted(files.values(), key=lambda file: not lies_in(file.path, directories)):
            if file.changed:
                self._tell_written(file, refused)
            elif file.path not in shared:
                with suppress(OverlaysyncError, OSError):  # in use by a VM, say
                    self.add(self.node.library.examine(file.path, now=now()))

    def _meant(self, reference: Reference) -> list[Present]:
        """The files here that hold, or held, a version of what is named."""
        try:
            found = files_meant(self.node.library, self.node.book(), reference)
        except NotFoundError:
            return []
        return [file for file in found if file.versions]

    def _tell_written(self, file: Present, refused: Collection[str]) -> None:
        row = file.versions[0]
        if file.path in self._told or row.title.rpartition(":")[0] in refused:
            return
        self._told.add(file.path)
        self.observer.note(
            f"Not shared: {file.path} was written to since it held {full_name(row)}, and sync publishes "
            f"nothing; to publish it: overlaysync share {shlex.quote(file.path)}"
        )

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
