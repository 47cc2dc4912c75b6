"""Plan a fetch: what is wanted, what it stands on, what is here, what is missing and from whom."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from overlaysync.errors import BaseImageError, UsageError, WouldDestroyError
from overlaysync.formats.image import Format
from overlaysync.model.digest import MIN_ID_DIGITS, short_id
from overlaysync.model.manifest import Header
from overlaysync.model.names import one_field
from overlaysync.ops.again import Again
from overlaysync.ops.image_paths import image_path
from overlaysync.ops.known import Known
from overlaysync.ops.matching import Listing
from overlaysync.ops.packing import Packing, packing_of

MAX_LINEAGE = 32
"""Layers one above the other; as deep as a chain may be."""


@dataclass(frozen=True, slots=True)
class Step:
    """One image to be made.

    Attributes:
        listing: what, and who has it.
        path: the file to be written.
        format: its format.
        base: path of the image below; None for a master.
        base_here: whether the base is here already (else an earlier step makes it).
        brought: whether it is there for something else to stand on, so that nobody may write to it.
        packing: how it is compressed when it is whole; None for not at all.
    """

    listing: Listing
    path: str
    format: Format
    base: str | None = None
    base_here: bool = False
    brought: bool = False
    packing: Packing | None = None

    @classmethod
    def as_published(cls, listing: Listing, path: str, *, brought: bool = False) -> Step:
        """Return the step that makes an image as its publisher has it: its format, compressed or not."""
        header = listing.manifest.header
        format = Format(header.format)
        return cls(listing, path, format, brought=brought, packing=packing_of(header, format))

    @property
    def header(self) -> Header:
        return self.listing.manifest.header


class FindBase(Protocol):
    """Finds an image here that shows the disk a layer stands on."""

    def __call__(self, header: Header, path: str, *, last_resort: bool) -> Known | None:
        """Return it; None for none.

        Args:
            header: of the layer.
            path: the file that the layer is for.
            last_resort: whether a copy counts that lies elsewhere and may be gone tomorrow.
        """
        ...


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a fetch writes, and as what.

    Attributes:
        to: directory of the wanted image.
        masters: directory for bases that are brought along.
        name: name of the file instead of the manifest's.
        format: format of the wanted image instead of the sender's.
    """

    to: str
    masters: str
    name: str | None = None
    format: Format | None = None


def plan_fetch(
    wanted: Listing,
    listings: Iterable[Listing],
    find_base: FindBase,
    destination: Destination,
    again: Again | None = None,
) -> list[Step]:
    """Return the steps that bring ``wanted`` to its destination, the lowest missing master first.

    Args:
        wanted: what was asked for.
        listings: everything within reach, to find missing bases in.
        find_base: finds the image below a layer, if it is here.
        destination: where it is written.
        again: the command for it; None for it by its name.

    Raises:
        BaseImageError: a base is neither here nor within reach.
        UsageError: an overlay was asked for as raw, or under a name with another format's ending.
    """
    to, name, format = destination.to, destination.name, destination.format
    header = wanted.manifest.header
    again = again or Again(header.full_name)
    if header.is_layer and format is Format.RAW:
        raw = image_path(to, name, format) if name else os.path.join(to, f"{header.name}.raw")
        called = os.path.splitext(raw)[0]
        plain = replace(again, format=None, name=os.path.basename(called) if name else None)
        raise UsageError(
            f"'{header.name}' is an overlay and raw files cannot be overlays",
            hint=f"{plain.fetch()}, then: overlaysync promote '{called}.{header.format}' "
            f"--as {os.path.basename(called)} --format raw",
        )
    everything = list(listings)
    path = place_of(header, to, name=name, format=format)
    # A format that was asked for is written plain, as one may want it who will write to the image.
    steps = [Step(wanted, path, format) if format else Step.as_published(wanted, path)]
    return _on_bases(steps, everything, find_base, destination.masters, again)


def place_of(header: Header, directory: str, *, name: str | None, format: Format | None) -> str:
    """Return the path in ``directory`` of what was asked for; arguments as for :func:`plan_fetch`."""
    chosen = format or Format(header.format)
    if name:
        return image_path(directory, name, chosen)
    return os.path.join(directory, f"{header.name}.{chosen.value}")


def plan_master(disk: bytes, listings: Iterable[Listing], find_base: FindBase, *, masters: str) -> list[Step]:
    """Return the steps that bring an image here whose guest sees ``disk``, for something to stand on it.

    None are returned when no peer within reach lists one.

    Args:
        disk: id of the disk.
        listings, find_base, masters: as for :func:`plan_fetch`.

    Raises:
        BaseImageError: a base of it is neither here nor within reach.
    """
    everything = list(listings)
    listing = _maker(disk, everything, b"")
    if listing is None:
        return []
    header = listing.manifest.header
    step = Step.as_published(listing, free_path(masters, header, []), brought=True)
    return _on_bases([step], everything, find_base, masters, Again(header.full_name))


def _on_bases(
    steps: list[Step], everything: list[Listing], find_base: FindBase, masters: str, again: Again
) -> list[Step]:
    """Return the steps with those for missing bases in front of them."""
    wanted = steps[0].listing
    header = wanted.manifest.header
    while header.is_layer:
        assert header.parent_id is not None
        below = _maker(header.parent_id, everything, wanted.manifest.publisher)
        # What may be gone tomorrow is copied to where masters go, rather than stood on.
        base = find_base(header, steps[-1].path, last_resort=below is None)
        if base is not None:
            steps[-1] = replace(steps[-1], base=base.path, base_here=True)
            _check_lineage(steps, base, again)
            break
        if below is None or len(steps) >= MAX_LINEAGE:
            raise _no_base(header, everything, again)
        header = below.manifest.header
        path = free_path(masters, header, steps)
        steps[-1] = replace(steps[-1], base=path)
        steps.append(Step.as_published(below, path, brought=True))
    return steps[::-1]


def _check_lineage(steps: list[Step], base: Known, again: Again) -> None:
    """Refuse to write over an image that is below, and chains deeper than can be read."""
    below = {image.path for image in base.lineage}
    if len(steps) + len(below) > MAX_LINEAGE:
        raise UsageError(
            f"'{steps[0].header.name}' stands on more than {MAX_LINEAGE - 1} images",
            hint="ask its publisher to promote it to a master",
        )
    for step in steps:
        if os.path.realpath(step.path) in below:
            raise WouldDestroyError(
                f"{step.path} is what '{step.header.name}' stands on", hint=again.fetch("--as", "NAME")
            )


def free_path(directory: str, header: Header, steps: list[Step]) -> str:
    """Where a base goes. A file of its name is other content, or it would have been found."""
    path = os.path.join(directory, f"{header.name}.{header.format}")
    if os.path.lexists(path) or os.path.abspath(path) in {os.path.abspath(step.path) for step in steps}:
        return os.path.join(
            directory, f"{header.name}-{header.content_id.hex()[:MIN_ID_DIGITS]}.{header.format}"
        )
    return path


def _maker(disk: bytes, listings: list[Listing], publisher: bytes) -> Listing | None:
    """Who can bring the disk: a master with that id, else an overlay whose guest sees it.

    Of several, the one that ``publisher`` signed: it names the file.
    """
    fitting = [
        listing for listing in listings if listing.manifest.header.result_id == disk and listing.is_available
    ]
    fitting.sort(
        key=lambda listing: (listing.manifest.header.is_layer, listing.manifest.publisher != publisher)
    )
    return next(iter(fitting), None)


def _no_base(header: Header, listings: list[Listing], again: Again) -> BaseImageError:
    assert header.parent_id is not None
    wanted = short_id(header.parent_id)
    called = one_field(header.parent_name) or "?"
    others = [
        f"{listing.manifest.header.full_name} {short_id(listing.manifest.header.content_id)}"
        for listing in listings
        if listing.manifest.header.name == header.parent_name
    ]
    why = f"it needs '{called}' {wanted}, which is not on this machine, and no machine within reach shares it"
    if others:
        why += f"; same name, other content: {', '.join(others)}"
    return BaseImageError(
        f"Cannot rebuild '{header.name}': its master is missing",
        why=why,
        hint=f"ask {one_field(header.by) or 'its publisher'} to share it, or try: "
        f"{again.other(wanted).fetch('--peer', 'HOST')}; "
        f"if it is on this machine: {again.fetch('--masters', 'DIR')}",
    )
