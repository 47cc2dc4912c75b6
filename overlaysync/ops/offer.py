"""Offers: a manifest together with the local image that can serve its data."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from overlaysync.errors import NotFoundError
from overlaysync.formats.chain import Chain
from overlaysync.model.datamap import DataMap, SlotRun
from overlaysync.model.digest import Kind
from overlaysync.model.pages import LoadPage, PageList
from overlaysync.trust.envelope import Manifest


@dataclass(frozen=True, slots=True)
class FileSegment:
    """Bytes to be sent as they lie in an open file."""

    fd: int
    offset: int
    length: int


Segment: TypeAlias = FileSegment | bytes


class Offer:
    """One manifest this node serves.

    The data of a layer's DATA unit are what the guest sees there, so a layer and a disk are both read through
    the chain of the image that holds them. The chain is closed when nobody holds the offer any more.

    Attributes:
        manifest: the signed header.
        pages: its page list.
        page_list: the encoded page list.
        data: its data map.
        path: the image that holds the data.
        unchanged: whether the image still is what was published.
    """

    def __init__(
        self,
        manifest: Manifest,
        pages: PageList,
        load: LoadPage,
        chain: Chain,
        unchanged: Callable[[], bool],
    ) -> None:
        self.manifest = manifest
        self.pages = pages
        self.page_list = pages.encode()
        self.data = DataMap(pages, load)
        self.chain = chain
        self.path = chain.top.path
        self._load = load
        fingerprints = chain.fingerprints()
        self._sizes = {image.fd: file.size for image, file in zip(chain.images, fingerprints, strict=True)}
        self.unchanged = unchanged
        self._page_digests = frozenset(pages.digests)
        # Not closed by whoever withdraws the offer: a body may still be on its way from these descriptors.
        weakref.finalize(self, chain.close)

    def page(self, digest: bytes) -> bytes | None:
        """The page with this digest, None when it is not one of this manifest's."""
        return self._load(digest) if digest in self._page_digests else None

    def segments(self, runs: tuple[tuple[int, int], ...]) -> Iterator[Segment]:
        """The bytes of the given (first slot, count) runs, in order, as pieces to be sent.

        Raises:
            NotFoundError: the image has changed since it was published.
        """
        if not self.unchanged():
            raise NotFoundError(f"{self.path} has changed since it was published")
        for first, count in runs:
            for run in self.data.runs(first, count):
                for offset, length in _guest_ranges(run, self.pages):
                    yield from self._pieces(offset, length)

    def _pieces(self, offset: int, length: int) -> Iterator[Segment]:
        for image, extent in self.chain.extents(offset, length):
            if image is None or extent.kind != Kind.DATA:
                yield bytes(extent.length)
            elif extent.stored:
                buffer = bytearray(extent.length)
                image.read_into(extent, memoryview(buffer))
                yield bytes(buffer)
            else:
                # The last cluster of a file, or the last sector of a raw one, may lie behind its end.
                present = max(0, min(extent.length, self._sizes[image.fd] - extent.host))
                if present:
                    yield FileSegment(image.fd, extent.host, present)
                if present < extent.length:
                    yield bytes(extent.length - present)


def _guest_ranges(run: SlotRun, pages: PageList) -> Iterator[tuple[int, int]]:
    """(guest offset, length) of the run's units, neighbours joined."""
    start = previous = int(run.units[0])
    for unit in run.units[1:].tolist():
        if unit != previous + 1:
            yield start * pages.unit, (previous - start) * pages.unit + pages.unit_length(previous)
            start = unit
        previous = unit
    yield start * pages.unit, (previous - start) * pages.unit + pages.unit_length(previous)
