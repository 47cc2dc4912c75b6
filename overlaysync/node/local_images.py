"""The images on this machine as a place to take from: known ones, and unknown ones beside the target."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from overlaysync.errors import OverlaysyncError
from overlaysync.formats.folders import images_in
from overlaysync.node.node import Node, now
from overlaysync.ops.assemble import Assembly
from overlaysync.ops.hashing import Progress
from overlaysync.ops.local import LocalCopier


@dataclass(frozen=True, slots=True)
class LocalImages:
    """A :class:`~overlaysync.ops.filling.Filler`.

    Attributes:
        node: whose images.
        directories: where images are looked for that nobody has hashed yet.
    """

    node: Node
    directories: Sequence[str]

    def take(self, assembly: Assembly, progress: Progress) -> int:
        """Take what images here hold; returns the bytes taken."""
        self.learn(assembly.data.pages.virtual_size, progress)
        copier = LocalCopier(assembly, self.node.library.load_page, progress)
        taken = 0
        for row in self.node.catalog.images.all():
            for layer in (False, True) if row.layer else (False,):
                with self.node.library.source(row, layer=layer) as source:
                    if source is not None:
                        taken += copier.take(source)
                if assembly.have.complete():
                    return taken
        return taken

    def learn(self, virtual_size: int, progress: Progress) -> None:
        """Hash the images of that size that nobody has hashed yet.

        What is known of the others stays, also where it does not fit any more: it says what a damaged image
        should be, and its good units are found all the same.
        """
        library = self.node.library
        with images_in(self.directories) as found:
            for item in found:
                with suppress(OverlaysyncError, OSError):
                    if self.node.catalog.images.at(item.path) is not None:
                        continue
                    with library.open_quiet(item.path, file=item.open()) as chain:
                        if chain.virtual_size == virtual_size:
                            library.examine_chain(chain, now=now(), progress=progress)
