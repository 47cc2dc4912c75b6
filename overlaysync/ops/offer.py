"""Offers: a manifest together with the local image, whole or being written, that can serve its data."""

from __future__ import annotations

import os
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from overlaysync.errors import NotFoundError
from overlaysync.formats.chain import Chain
from overlaysync.model.datamap import DataMap, SlotRun
from overlaysync.model.digest import Kind
from overlaysync.model.fingerprint import Fingerprint
from overlaysync.model.pages import LoadPage, PageList
from overlaysync.model.pieces import PieceLog, Pieces
from overlaysync.ops.assemble import Assembly
from overlaysync.ops.vms.beside import open_beside
from overlaysync.trust.envelope import Manifest


@dataclass(frozen=True, slots=True)
class FileSegment:
    """Bytes to be sent as they lie in an open file."""

    fd: int
    offset: int
    length: int


Segment: TypeAlias = FileSegment | bytes


class Offer(ABC):
    """One manifest this node serves.

    Attributes:
        manifest: the signed header.
        pages: its page list.
        page_list: the encoded page list.
        data: its data map.
        pieces: how its slots fall into pieces.
        log: the pieces that are here; None when all are.
        past: the envelopes of the versions before it that are known here, the newest first.
    """

    log: PieceLog | None = None

    def __init__(
        self, manifest: Manifest, data: DataMap, load: LoadPage, past: tuple[bytes, ...] = ()
    ) -> None:
        self.manifest = manifest
        self.past = past
        self.pages = data.pages
        self.page_list = data.pages.encode()
        self.data = data
        self.pieces = Pieces.of(data.count, data.pages.unit)
        self._load = load
        self._page_digests = frozenset(data.pages.digests)

    def page(self, digest: bytes) -> bytes | None:
        """Return the page with this digest, None when it is not one of this manifest's."""
        return self._load(digest) if digest in self._page_digests else None

    def companion(self, digest: bytes) -> FileSegment | None:
        """Open the companion with this digest; None when it is not here, or another by now.

        Blocking; the caller closes the descriptor.
        """
        wanted = next((one for one in self.manifest.header.companions if one.digest == digest.hex()), None)
        path = self.file
        fd = open_beside(path, wanted) if wanted and path else None
        return FileSegment(fd, 0, wanted.size) if wanted and fd is not None else None

    @property
    def file(self) -> str:
        """Path of the image, "" while it has none yet."""
        return ""

    @abstractmethod
    def segments(self, runs: tuple[tuple[int, int], ...]) -> Iterator[Segment]:
        """Return the bytes of the given (first slot, count) runs, in order, as pieces to be sent.

        Raises:
            NotFoundError: they are not what was published any more.
        """


class ImageOffer(Offer):
    """An offer of an image that is whole.

    The data of a layer's DATA unit are what the guest sees there, so a layer and a disk are both read through
    the chain of the image that holds them. The chain is closed when nobody holds the offer any more.

    Attributes:
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
        past: tuple[bytes, ...] = (),
    ) -> None:
        super().__init__(manifest, DataMap(pages, load), load, past)
        self.chain = chain
        self.path = chain.top.path
        fingerprints = chain.fingerprints()
        self._sizes = {image.fd: file.size for image, file in zip(chain.images, fingerprints, strict=True)}
        self.unchanged = unchanged
        # Not closed by whoever withdraws the offer: a body may still be on its way from these descriptors.
        weakref.finalize(self, chain.close)

    @property
    def file(self) -> str:
        return self.path

    def segments(self, runs: tuple[tuple[int, int], ...]) -> Iterator[Segment]:
        if not self.unchanged():
            raise NotFoundError(f"{self.path} has changed since it was published")
        for first, count in runs:
            for run in self.data.runs(first, count):
                for offset, length in _guest_ranges(run, self.pages):
                    yield from self._segments(offset, length)

    def _segments(self, offset: int, length: int) -> Iterator[Segment]:
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


class PartOffer(Offer):
    """An offer of an image that is being written here: what of it is verified, and in the end all of it.

    It has a descriptor of its own, so it can be read from when the file has got its name.
    """

    log: PieceLog

    def __init__(
        self, manifest: Manifest, assembly: Assembly, load: LoadPage, past: tuple[bytes, ...] = ()
    ) -> None:
        super().__init__(manifest, assembly.data, load, past)
        self.log = PieceLog(self.pieces.count)
        self._assembly = assembly
        self._fd = assembly.open_reader()
        self._finished: Fingerprint | None = None
        weakref.finalize(self, os.close, self._fd)

    @property
    def file(self) -> str:
        return self._assembly.path if self._finished else ""

    def finished(self) -> None:
        """Note that the file is whole and has its name: from now on it must not change."""
        self._finished = Fingerprint.of(os.fstat(self._fd))

    def segments(self, runs: tuple[tuple[int, int], ...]) -> Iterator[Segment]:
        if self._finished not in (None, Fingerprint.of(os.fstat(self._fd))):
            raise NotFoundError("the image has changed since it was fetched")
        for first, count in runs:
            for offset, length in self._assembly.places(first, count):
                yield FileSegment(self._fd, offset, length)


def _guest_ranges(run: SlotRun, pages: PageList) -> Iterator[tuple[int, int]]:
    """(guest offset, length) of the run's units, neighbours joined."""
    start = previous = int(run.units[0])
    for unit in run.units[1:].tolist():
        if unit != previous + 1:
            yield start * pages.unit, (previous - start) * pages.unit + pages.unit_length(previous)
            start = unit
        previous = unit
    yield start * pages.unit, (previous - start) * pages.unit + pages.unit_length(previous)
