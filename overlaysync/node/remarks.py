"""What the owner of a share is told of what is published: forks, others' names, and what grows."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from shlex import quote

from overlaysync.formats.image import Format
from overlaysync.model.digest import MIN_ID_DIGITS, short_id
from overlaysync.node.node import Node
from overlaysync.node.observer import Observer
from overlaysync.ops.again import Again, ShareAgain
from overlaysync.ops.audience import stem
from overlaysync.ops.known import Known
from overlaysync.ops.loss import would_be_lost
from overlaysync.ops.packing import grows, packing_of
from overlaysync.ops.trust_messages import two_sides, who
from overlaysync.trust.envelope import Manifest
from overlaysync.trust.keys import node_id
from overlaysync.units import format_size


@dataclass(slots=True)
class Remarks:
    """Tells the owner of one share.

    Attributes:
        node: has published.
        observer: is told.
        again: the command that shares again.
    """

    node: Node
    observer: Observer
    again: ShareAgain
    _forks: set[tuple[bytes, bytes]] = field(default_factory=set)
    _told: set[bytes] = field(default_factory=set)

    def published(self, image: Known, manifest: Manifest) -> None:
        """Say what stands in the way of a version that was published; once of each."""
        if manifest.id in self._told:
            return
        self._told.add(manifest.id)
        self._warn_of_pin(manifest)
        self.fork(image, manifest)

    def fork(self, image: Known, manifest: Manifest) -> None:
        """Say that what this node published is one side of a fork, and how to settle it; once of a pair."""
        if manifest.publisher != self.node.key.public:
            return
        name = manifest.header.full_name
        for row in self.node.other_sides(manifest):
            if (manifest.id, row.id) in self._forks:
                continue
            self._forks.add((manifest.id, row.id))
            lost = would_be_lost(self.node.library, image, own=self.node.key.public)
            alone = f"; of yours, {lost}" if lost else ""
            again = Again(short_id(row.content), ("--to", os.path.dirname(image.path)))
            beside = f"{stem(image.path)[:50]}-{row.content.hex()[:MIN_ID_DIGITS]}"
            # What is typed as it stands must not lose this side: the second refuses, and says what is lost.
            self.observer.note(
                f"  This forks {name}: {two_sides(manifest, row)}{alone}. "
                f"To have both: {again.fetch('--as', beside)}; "
                "to choose, after seeing what would be lost: "
                f"{again.fetch('--as', os.path.basename(image.path))}; "
                f"to choose yours: overlaysync settle {quote(image.path)}; "
                "to go on under another name: " + self.again.share(image.path, name="NAME")
            )

    def growth(self, image: Known, manifest: Manifest) -> None:
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

    def new(self, manifest: Manifest, team: str | None) -> None:
        """Say that a share for ``team`` has a version which it had not when it began."""
        header = manifest.header
        whom = f"team '{header.team}'" if header.team else "everybody"
        by = "" if manifest.publisher == self.node.key.public else f", published by {header.by}"
        public = ", which was public before" if team and not header.team else ""
        self.observer.note(f"Now shared with {whom}: {header.full_name}:{header.version}{by}{public}")

    def _warn_of_pin(self, manifest: Manifest) -> None:
        """Say that others will not accept this by its name, where the name belongs to another publisher."""
        header, key = manifest.header, self.node.key.public
        if manifest.publisher != key or header.team:
            return
        pin = self.node.catalog.pins.pin_of(header.team, header.name)
        if pin is not None and pin.publisher != key:
            self.observer.note(
                f"  On this machine '{header.full_name}' belongs to {who(pin.publisher, pin.label)}. "
                "Machines that have that publisher's will not accept yours until they run: "
                f"overlaysync trust {node_id(key)} --name {header.full_name}"
            )
