"""A vault as a place that an image being made takes its data from; and the descriptions of such images.

Like bytes from anywhere, what comes from a vault is compared with its digest before it is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from queue import SimpleQueue

from overlaysync.errors import DecodeError, NotFoundError, OverlaysyncError, VerificationError
from overlaysync.model.manifest import manifest_id
from overlaysync.model.pages import PageList, page_digest
from overlaysync.ops.assemble import Assembly
from overlaysync.ops.hashing import Progress
from overlaysync.ops.library import Library
from overlaysync.ops.page_keeper import PageKeeper
from overlaysync.ops.recovery.arrivals import Arrivals
from overlaysync.ops.threads import in_order
from overlaysync.store.direct import aligned_buffer
from overlaysync.trust.envelope import Manifest, open_envelope
from overlaysync.units import MIB
from overlaysync.vault.contents import Contents
from overlaysync.vault.index import Spot
from overlaysync.vault.objects import Kind, object_name

_WRITERS = 4
"""Threads: more than processors, as writing waits for the disk."""
_BATCH = 2 * MIB
"""Bytes that are written at a time."""
_AT_ONCE = 1 << 12
"""Places in records that are sorted by pack together; in a new image they have 2 GiB of data."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Consecutive slots that lie one after the other in one record."""

    first: int
    count: int
    spot: Spot
    length: int


@dataclass(frozen=True, slots=True)
class VaultFiller:
    """A :class:`~overlaysync.ops.filling.Filler`.

    Attributes:
        spaces: where to look, one after the other.
        arrivals: which packs are still being pulled; each is used as soon as it is here.
    """

    spaces: Sequence[Contents]
    arrivals: Arrivals = field(default_factory=Arrivals)

    def take(self, assembly: Assembly, progress: Progress) -> int:
        """Take what the vault holds of what is missing; returns the bytes taken.

        Raises:
            OverlaysyncError: the pull of what is missing in the vault has failed.
        """
        before = assembly.written
        buffers: SimpleQueue[memoryview] = SimpleQueue()
        for _ in range(_WRITERS):
            buffers.put(aligned_buffer(_BATCH))
        for contents in self.spaces:
            taker = _Taker(contents, assembly, buffers)
            for wanted in _by_pack(contents, assembly):
                come = self.arrivals.as_they_come(wanted, progress)
                batches = (batch for pack in come for batch in _batches(wanted[pack]))
                for done in in_order(taker.take, batches, threads=_WRITERS):
                    progress(done)
        return assembly.written - before


@dataclass(frozen=True, slots=True)
class _Taker:
    """Takes what is wanted. Threads share it.

    Attributes:
        contents: where it is.
        assembly: what it goes to.
        buffers: one for each thread: what comes from several records is written in one piece, and as it is
            aligned, past the page cache.
    """

    contents: Contents
    assembly: Assembly
    buffers: SimpleQueue[memoryview]

    def take(self, batch: Sequence[_Wanted]) -> int:
        """Return the bytes that were taken; what cannot be read is simply not taken."""
        if len(batch) == 1 and batch[0].length > _BATCH:
            return self._accept(batch, self._read(batch[0]) or memoryview(b""))
        buffer = self.buffers.get()
        try:
            taken, filled, first = 0, 0, 0
            for at, wanted in enumerate(batch):
                part = self._read(wanted)
                if part is None:
                    taken += self._accept(batch[first:at], buffer[:filled])
                    filled, first = 0, at + 1
                else:
                    buffer[filled : filled + wanted.length] = part
                    filled += wanted.length
            return taken + self._accept(batch[first:], buffer[:filled])
        finally:
            self.buffers.put(buffer)

    def _read(self, wanted: _Wanted) -> memoryview | None:
        spot = wanted.spot
        try:
            record = memoryview(self.contents.record(spot.pack, spot.place))
        except OverlaysyncError:
            return None
        return record[spot.start : spot.start + wanted.length]

    def _accept(self, batch: Sequence[_Wanted], data: memoryview) -> int:
        if not data:
            return 0
        count = sum(wanted.count for wanted in batch)
        wrong = self.assembly.accept(batch[0].first, count, data)
        return len(data) - sum(self.assembly.data.span(*run) for run in wrong)


def _batches(wanted: Iterable[_Wanted]) -> Iterator[list[_Wanted]]:
    """Yield slots that follow each other together, up to a buffer full of them."""
    batch: list[_Wanted] = []
    size = 0
    for one in wanted:
        if batch and (one.first != batch[-1].first + batch[-1].count or size + one.length > _BATCH):
            yield batch
            batch, size = [], 0
        batch.append(one)
        size += one.length
    if batch:
        yield batch


def _by_pack(contents: Contents, assembly: Assembly) -> Iterator[dict[str, list[_Wanted]]]:
    """Yield what the space has of what is missing by the name of its pack, a bounded part at a time."""
    tag, wanted = contents.space.tag, _wanted(contents, assembly)
    while part := list(islice(wanted, _AT_ONCE)):
        packs: dict[str, list[_Wanted]] = {}
        for item in part:
            packs.setdefault(object_name(tag, Kind.PACK, item.spot.pack), []).append(item)
        for items in packs.values():  # so that no record is read again
            items.sort(key=lambda item: (item.spot.place.number, item.spot.start))
        yield packs


def _wanted(contents: Contents, assembly: Assembly) -> Iterator[_Wanted]:
    """Yield what the space has of what is missing, in order."""
    for first, count in list(assembly.missing()):
        for run in assembly.data.runs(first, count):
            waiting: _Wanted | None = None
            for at, spot in enumerate(contents.find(run.digests)):
                if waiting is not None and not _follows(spot, waiting):
                    yield waiting
                    waiting = None
                if spot is None:
                    continue
                if spot.length != assembly.data.span(run.first + at, 1):
                    continue
                if waiting is None:
                    waiting = _Wanted(run.first + at, 1, spot, spot.length)
                else:
                    length = waiting.length + spot.length
                    waiting = _Wanted(waiting.first, waiting.count + 1, waiting.spot, length)
            if waiting is not None:
                yield waiting


def _follows(spot: Spot | None, waiting: _Wanted) -> bool:
    last = waiting.spot
    return (
        spot is not None
        and (spot.pack, spot.place.number) == (last.pack, last.place.number)
        and spot.start == last.start + waiting.length
    )


def take_manifest(contents: Contents, id: bytes) -> Manifest | None:
    """Return the manifest with that id; None when the space does not have it.

    Raises:
        VerificationError: what it has is another, or damaged.
    """
    envelope = contents.item(id, lambda data: manifest_id(data) == id)
    if envelope is None:
        return None
    try:
        manifest = open_envelope(envelope)
    except DecodeError as error:
        raise VerificationError(
            "A manifest in the vault is damaged", why=str(error), hint="overlaysync vault check --read"
        ) from None
    return manifest


def take_pages(
    library: Library,
    contents: Contents,
    manifest: Manifest,
    check: Callable[[PageList], None] = lambda _: None,
) -> PageList:
    """Return the page list of a content, with all its pages kept in the catalog.

    Args:
        library: has the catalog.
        contents: the space.
        manifest: of the content.
        check: raises where the list is not what its manifest says; its pages can be loaded by then.

    Raises:
        NotFoundError: the space does not have all of it.
        VerificationError: what it has is damaged, or something else.
    """
    id = manifest.header.content_id
    known = library.catalog.pages.load_list(id)
    if known is not None:
        return known
    pages = PageList.decode(_item(contents, id, manifest, partial(_has_id, id)))
    keeper = PageKeeper(library.catalog)
    for index, digest in zip(pages.indices, pages.digests, strict=True):
        body = _item(contents, digest, manifest, partial(_is_page, digest))
        pages.check_page(index, body)
        keeper.keep(digest, body)
    keeper.flush()
    try:
        check(pages)
    except VerificationError:
        library.catalog.pages.forget_unlisted(pages.digests)
        raise
    library.catalog.pages.keep_list(pages)
    return pages


def _is_page(digest: bytes, data: bytes) -> bool:
    return page_digest(data) == digest


def _has_id(id: bytes, data: bytes) -> bool:
    try:
        return PageList.decode(data).id == id
    except DecodeError:
        return False


def _item(contents: Contents, key: bytes, manifest: Manifest, is_right: Callable[[bytes], bool]) -> bytes:
    item = contents.item(key, is_right)
    if item is None:
        raise NotFoundError(
            f"The vault does not have all of '{manifest.header.full_name}'",
            hint="overlaysync vault check",
        )
    return item
