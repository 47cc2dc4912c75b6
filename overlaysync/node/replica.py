"""Replicas: serve what was fetched as it was fetched, and publish nothing.

A share publishes what its owner writes. A replica only passes versions on: a file that is written to is
withdrawn, and becomes no version of anything until its owner shares it. Nothing is locked, so that a VM may
be started from a replica when the machine that it ran on is lost.
"""

from __future__ import annotations

import shlex
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from overlaysync.errors import NotFoundError, OverlaysyncError
from overlaysync.model.reference import Reference
from overlaysync.node.node import now
from overlaysync.node.offered import OfferedImages
from overlaysync.node.sharing import Share
from overlaysync.node.used import is_written
from overlaysync.ops.bases import lies_in
from overlaysync.ops.known import Known
from overlaysync.ops.matching import fits_name
from overlaysync.ops.present import Present, files_meant
from overlaysync.store.manifests import ManifestRow
from overlaysync.trust.envelope import Manifest, open_envelope


@dataclass(slots=True)
class Replica(Share):
    """The contents of a node that follows others; ``paths`` and ``team`` mean nothing to it.

    Attributes:
        leaves_out: whether a thing of that full name is not served, though it is meant.
        tells: whether it says what is served and no longer served; what it begins with stands in the result
            of the command.
    """

    leaves_out: Callable[[str], bool] = lambda _: False
    tells: bool = False
    _waiting: deque[tuple[Known, frozenset[bytes] | None]] = field(default_factory=deque)
    _refreshing: threading.Lock = field(default_factory=threading.Lock)
    _told: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super(Replica, self).__post_init__()
        self._offered = OfferedImages(self.node, locks=False)

    def add(self, image: Known, versions: Iterable[bytes] | None = None) -> None:
        """Serve an image, with what it stands on, from the next refresh on; may be called from any thread.

        Args:
            image: what is served.
            versions: ids of the manifests of which it is served as one; None for whichever its file holds. A
                file may hold a version under another name as well, or for others: nobody named that.
        """
        self._waiting.append((image, None if versions is None else frozenset(versions)))

    def add_held(
        self, references: Sequence[Reference], directories: Sequence[str], refused: Collection[str] = ()
    ) -> None:
        """Serve what files on this machine hold of the things that are named, from the next refresh on.

        What was written to them since is only said, once for each file, and by one that tells.

        Args:
            references: what is named.
            directories: of several copies those in these are served.
            refused: full names of things of which something was said already.
        """
        found = [pair for reference in references for pair in self._meant(reference)]
        files = {file.path: file for file, _ in found}
        for file in sorted(files.values(), key=lambda file: not lies_in(file.path, directories)):
            rows = {row.id: row for other, rows in found if other.path == file.path for row in rows}
            if file.changed:
                self._tell_written(file, next(iter(rows.values())), refused)
            elif not rows.keys() & self._offered.shared.keys():
                with suppress(OverlaysyncError, OSError):  # in use by a VM, say
                    self.add(self.node.library.examine(file.path, now=now()), rows)

    def _meant(self, reference: Reference) -> list[tuple[Present, list[ManifestRow]]]:
        """Return the files here that hold, or held, versions of what is named, and those versions."""
        try:
            found = files_meant(self.node.library, self.node.book(), reference)
        except NotFoundError:
            return []

        def is_meant(row: ManifestRow) -> bool:
            return fits_name(reference, row.team, row.name) and not self.leaves_out(row.full_name)

        meant = [(file, list(filter(is_meant, file.versions))) for file in found]
        return [(file, rows) for file, rows in meant if rows]

    def _tell_written(self, file: Present, row: ManifestRow, refused: Collection[str]) -> None:
        if not self.tells or file.path in self._told or row.full_name in refused:
            return
        self._told.add(file.path)
        self.observer.note(
            f"Not shared: {file.path} was written to since it held {row.title}, and sync publishes "
            f"nothing; to publish it: overlaysync share {shlex.quote(file.path)}"
        )

    def refresh(self) -> bool:
        """Withdraw what has changed, and offer what was added; whether anything did.

        May be called from any thread.
        """
        with self._refreshing:
            return self._refresh()

    def _refresh(self) -> bool:
        changes, before = self._changes, set(self._offered.shared)
        self._withdraw_changed()
        while self._waiting:
            top, versions = self._waiting.popleft()
            manifest = self._version(top, versions)
            if manifest is None:
                continue  # what holds no version is not for others
            for image in top.lineage:
                version = manifest if image is top else self._below(image, manifest)
                self._offer_version(image, version, asked=image is top)
        self._changes += self._used.keep(is_written)
        if self.tells:
            self._tell_new(before)
        return self._changes != changes

    def _tell_withdrawn(self, name: str, why: str) -> None:
        if self.tells:
            super(Replica, self)._tell_withdrawn(name, why)

    def _offer_version(self, image: Known, manifest: Manifest | None, *, asked: bool) -> None:
        """Offer an image as a version that it holds; one that holds none is not for others."""
        if manifest is None:
            return
        try:
            opened = partial(self.node.library.open, image.path, image.geometry.format)
            self._offer(image, manifest, opened, asked=asked)
        except (OverlaysyncError, OSError) as error:
            self.observer.note(f"Not shared: {image.path}: {error}")

    def _version(self, image: Known, among: Collection[bytes] | None) -> Manifest | None:
        """Return the first of the versions of an image, of those that are meant."""
        found = self._versions(image)
        return next((one for one in found if among is None or one.id in among), None)

    def _below(self, image: Known, top: Manifest) -> Manifest | None:
        """Return the version of a master that the audience of one of ``top``, which stands on it, can get."""
        found = [one for one in self._versions(image) if one.header.team in ("", top.header.team)]
        return next(iter(found), None)

    def _versions(self, image: Known) -> list[Manifest]:
        """Return what the file was noted to hold, then all else that this node may see of its content."""
        catalog = self.node.catalog
        noted = catalog.held.at(image.path)
        held = [row for row in map(catalog.manifests.find, noted.manifests if noted else ()) if row]
        rows = [*held, *catalog.manifests.matching(content=image.content.id)]
        found = [open_envelope(row.envelope) for row in rows if row.content == image.content.id]
        return [manifest for manifest in found if manifest.belongs(self.node.teams)]
