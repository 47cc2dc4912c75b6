"""Strays: overlays by themselves, whose headers do not lead to their masters."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, replace

from overlaysync.errors import InUseError, UsageError
from overlaysync.formats.chain import Chain
from overlaysync.formats.detect import open_image
from overlaysync.formats.image import Geometry
from overlaysync.formats.locks import hold_read_lock
from overlaysync.model.fingerprint import Fingerprint
from overlaysync.model.pages import PageList
from overlaysync.ops.hashing import Progress, hash_layer
from overlaysync.ops.library import Library, vouched_by
from overlaysync.ops.page_keeper import PageKeeper
from overlaysync.units import MIN_GRANULE

NOWHERE = bytes(32)
"""Stands for the disk below an overlay whose master is not known yet."""


@dataclass(frozen=True, slots=True)
class Stray:
    """An overlay by itself, without the image below it.

    Attributes:
        path: real path.
        geometry: of the file.
        layer: its own granules. Where granules lie whole in clusters, they are the same over any master.
        backing: the name of its master in its header.
        file: its fingerprint.
        options: of the command that adopts it, which the commands in its errors repeat.
    """

    path: str
    geometry: Geometry
    layer: PageList
    backing: str
    file: Fingerprint
    options: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """The command that adopts it, as it was given, but for what is said of the master."""
        return shlex.join(["overlaysync", "adopt", self.path, *self.options])

    @property
    def is_exact(self) -> bool:
        """Whether its granules do not depend on what is below."""
        return self.geometry.subcluster_size >= MIN_GRANULE

    @property
    def is_empty(self) -> bool:
        """Whether nothing was written to it."""
        return not self.layer.indices

    def on(self, parent: bytes) -> PageList:
        """Return its layer on the disk with the id ``parent``; only right when it is exact."""
        return replace(self.layer, parent=parent)


def look(path: str, library: Library, progress: Progress | None = None) -> Stray:
    """Hash the overlay at ``path`` by itself.

    Raises:
        UsageError: it is a master.
        ImageError: it cannot be read.
        InUseError: a VM writes to it, or it changed while it was read.
    """
    keeper = PageKeeper(library.catalog)
    with open_image(path, None, vouched_by(library.catalog)) as image:
        hold_read_lock(image.fd, path=path)
        if image.backing is None:
            raise UsageError(f"{path} is a master: it has no backing file", hint=f"overlaysync show '{path}'")
        before = Fingerprint.of(os.fstat(image.fd))
        layer = hash_layer(Chain.alone(image), NOWHERE, keeper.keep, progress, library.spent)
        if before != Fingerprint.of(os.fstat(image.fd)):
            raise InUseError(f"{path} changed while it was read", hint="try again when nothing writes to it")
        keeper.flush()
        backing = os.fsdecode(image.backing.name)
        return Stray(os.path.realpath(path), image.geometry, layer, backing, before)
