"""Hash what an image holds into page lists, in parallel and with flat memory.

Rule: a unit that lies inside one extent takes that extent's kind; any other unit is read through the chain
and is DATA. Units of zeros become ZERO. Plain data are hashed where the page cache holds them, where that
cannot end the process (docs/adr/0005); all else goes through one buffer for each thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import filterfalse
from typing import TypeAlias

import numpy as np

from overlaysync.formats.chain import Chain
from overlaysync.formats.image import Extent, Image, clip
from overlaysync.formats.mapping import Mapping
from overlaysync.model.digest import (
    MARKERS,
    Digests,
    Kind,
    as_digests,
    canonicalise,
    hash_units,
    kinds_of,
)
from overlaysync.model.pages import LoadPage, PageList, PageListBuilder, loaded_once, page_length
from overlaysync.ops.quicker import Quicker, Spent
from overlaysync.ops.threads import in_order
from overlaysync.store.direct import aligned_buffer
from overlaysync.units import CHUNK, KIB, MIB, PAGE_UNITS, ceil_div, clamp_granule

Progress: TypeAlias = Callable[[int], None]
"""Called with the number of guest bytes just dealt with, from any thread."""

KeepPage: TypeAlias = Callable[[bytes, bytes], None]
"""Called with the digest and the body of a page."""

KeepNewPage: TypeAlias = Callable[[bytes, bytes, bytes | None], None]
"""Called with the digest and the body of a page, and with the digest of one that it differs little from."""

Pause: TypeAlias = Callable[[int], None]
"""Called before that many guest bytes are read: may wait, or raise to end the reading."""

_WINDOW = 8 * MIB
"""Bytes that each thread deals with, and maps, at a time: a program that wants to write waits for so long."""

_READ = 512 * KIB
"""Bytes of plain data read into a buffer at a time: they stay in a processor's own cache until hashed."""

_SPREAD = 2 * MIB
"""Bytes read through the chain at a time: the largest cluster, so that a compressed one is inflated once."""


class RegionHasher:
    """Hashes regions of one page list: a chain's disk, or its top layer.

    What the file does not hold any more reads as zeros: whether it changed meanwhile is the caller's to see.
    With ``pause`` nothing is mapped: it is read slowly, and whoever wants to write need not wait. With
    ``spent`` it is mapped only where that is quicker.
    """

    def __init__(
        self,
        chain: Chain,
        unit: int,
        layer: bool,
        progress: Progress | None = None,
        *,
        pause: Pause | None = None,
        spent: Spent | None = None,
    ) -> None:
        self._chain = chain
        self._unit = unit
        self._layer = layer
        self._progress = progress
        self._pause = pause
        self._own = threading.local()
        self._in_place = Quicker(spent) if spent else None
        self._maps: dict[int, Mapping] = {}
        if pause is None:
            self._maps = {image.fd: Mapping(image.fd) for image in chain.images}
        self.size = chain.virtual_size
        self.unit_count = ceil_div(self.size, unit)

    def close(self) -> None:
        """Give up the maps of the chain's files; no thread may be hashing."""
        for mapped in self._maps.values():
            mapped.close()
        self._maps = {}

    def busy_pages(self) -> Iterator[int]:
        """Yield the pages that are not blank from end to end; long blank runs are passed over in one step."""
        step = PAGE_UNITS * self._unit
        blank = Kind.UNALLOCATED if self._layer else Kind.ZERO
        offset = 0
        while offset < self.size:
            length = min(step, self.size - offset)
            extent = next(self._extents(offset, length))[1]
            end = offset + length
            if extent.kind == blank and extent.length == length:
                extent = next(self._extents(offset, self.size - offset))[1]
                stop = extent.offset + extent.length
                end = self.size if stop == self.size else stop - stop % step
                if self._progress:
                    self._progress(end - offset)
            else:
                yield offset // step
            offset = end

    def page(self, index: int) -> bytes:
        """Return the body of page ``index``."""
        first = index * PAGE_UNITS
        count = page_length(self.unit_count, index)
        start = first * self._unit
        end = min(self.size, start + count * self._unit)
        blank = Kind.UNALLOCATED if self._layer else Kind.ZERO
        digests = np.empty((count, 32), dtype=np.uint8)
        digests[:] = np.frombuffer(MARKERS[blank], dtype=np.uint8)
        done = first
        for image, extent in self._extents(start, end - start):
            low = ceil_div(extent.offset, self._unit)
            stop = extent.offset + extent.length
            high = self.unit_count if stop == self.size else stop // self._unit
            if high <= low:
                continue
            if done < low:
                self._fill(digests, first, done, low - done, None, None)
            if extent.kind != Kind.DATA:
                digests[low - first : high - first] = np.frombuffer(MARKERS[extent.kind], dtype=np.uint8)
            else:
                self._fill(digests, first, low, high - low, image, extent)
            done = high
        if done < first + count:
            self._fill(digests, first, done, first + count - done, None, None)
        last = self.size - (self.unit_count - 1) * self._unit if first + count == self.unit_count else None
        canonicalise(digests, self._unit, last_length=last)
        if self._progress:
            self._progress(end - start)
        return digests.tobytes()

    def _extents(self, offset: int, length: int) -> Iterator[tuple[Image | None, Extent]]:
        if not self._layer:
            return self._chain.extents(offset, length)
        top = self._chain.top
        return ((top, extent) for extent in top.extents(offset, length))

    def _fill(
        self,
        digests: Digests,
        first: int,
        unit: int,
        count: int,
        image: Image | None,
        extent: Extent | None,
    ) -> None:
        """Hash ``count`` units from ``unit`` on: from ``extent`` when given, else through the chain."""
        offset = unit * self._unit
        end = min(self.size, offset + count * self._unit)
        for at in range(offset, end, _WINDOW):
            stop = min(at + _WINDOW, end)
            if self._pause:
                self._pause(stop - at)
            if image is None or extent is None or extent.stored:
                hashed = self._hash_spread(at, stop)
            else:
                hashed = self._hash_plain(image, clip(extent, at, stop))
            rows = as_digests(hashed)
            row = at // self._unit - first
            digests[row : row + len(rows)] = rows

    def _hash_plain(self, image: Image, extent: Extent) -> bytes:
        """Return the digests of plain data: from the page cache itself, where that is safe and quicker."""
        mapped = self._maps.get(image.fd)
        if mapped is None or self._in_place is None:
            return self._hash_one_way(mapped, image, extent)
        in_place = self._in_place.way()
        with self._in_place.timed(in_place, extent.length):
            return self._hash_one_way(mapped if in_place else None, image, extent)

    def _hash_one_way(self, mapped: Mapping | None, image: Image, extent: Extent) -> bytes:
        """Return the digests of plain data: from the map, where it may be touched, else from a buffer."""
        if mapped is not None:
            with mapped.window(extent.host, extent.length) as view:
                if view is not None:
                    return hash_units(view, self._unit)
        hashed = []
        end = extent.offset + extent.length
        for start in range(extent.offset, end, _READ):
            part = self._buffer()[: min(_READ, end - start)]
            image.read_into(clip(extent, start, start + len(part)), part)
            hashed.append(hash_units(part, self._unit))
        return b"".join(hashed)

    def _hash_spread(self, offset: int, end: int) -> bytes:
        """Return the digests of what lies in several extents, or compressed."""
        hashed = []
        for start in range(offset, end, _SPREAD):
            part = self._buffer()[: min(_SPREAD, end - start)]
            self._chain.read_into(start, part)
            hashed.append(hash_units(part, self._unit))
        return b"".join(hashed)

    def _buffer(self) -> memoryview:
        """Return this thread's own."""
        if not hasattr(self._own, "buffer"):
            self._own.buffer = aligned_buffer(_SPREAD)
        buffer: memoryview = self._own.buffer
        return buffer


def hash_disk(
    chain: Chain, keep: KeepPage, progress: Progress | None = None, spent: Spent | None = None
) -> PageList:
    """Return the page list of the disk a guest sees through ``chain``."""
    return _hash(RegionHasher(chain, CHUNK, False, progress, spent=spent), CHUNK, None, keep)


def granule_of(image: Image) -> int:
    """Return the granule of an overlay's layer."""
    return clamp_granule(image.geometry.subcluster_size)


def hash_layer(
    chain: Chain,
    parent: bytes,
    keep: KeepPage,
    progress: Progress | None = None,
    spent: Spent | None = None,
) -> PageList:
    """Return the page list of the top layer of ``chain``, whose backing disk has the id ``parent``."""
    unit = granule_of(chain.top)
    return _hash(RegionHasher(chain, unit, True, progress, spent=spent), unit, parent, keep)


def _hash(hasher: RegionHasher, unit: int, parent: bytes | None, keep: KeepPage) -> PageList:
    builder = PageListBuilder(virtual_size=hasher.size, unit=unit, parent=parent, keep=keep)
    bodies = in_order(lambda index: (index, hasher.page(index)), hasher.busy_pages())
    # The threads end before their maps do, whatever happens.
    with closing(hasher), closing(bodies):
        for index, body in bodies:
            builder.add(index, body)
    return builder.build()


def combine(
    parent: PageList,
    layer: PageList,
    load: LoadPage,
    chain: Chain | None,
    keep: KeepNewPage,
    progress: Progress | None = None,
) -> PageList:
    """Return the page list of the disk that ``layer`` makes of the disk ``parent``.

    Only chunks that the layer covers in part, or that change length at an end of the parent, are read
    (through ``chain``, the overlay on its parent). A page of the parent that the layer leaves as it is is
    neither loaded nor kept. ``progress`` is called for each page that is, with 0; it may end the work with an
    exception.
    """
    like: bytes | None = None
    combiner = _Combiner(parent, layer, loaded_once(load), chain)
    places = combiner.busy_pages()

    def keep_new(digest: bytes, body: bytes) -> None:
        keep(digest, body, like)

    builder = PageListBuilder(virtual_size=layer.virtual_size, unit=CHUNK, parent=None, keep=keep_new)
    with closing(in_order(combiner.page, filterfalse(combiner.is_parents, places))) as bodies:
        for index in places:
            like = parent.page(index)
            if like is not None and combiner.is_parents(index):
                builder.add_kept(index, like)
                continue
            if progress:
                progress(0)
            builder.add(index, next(bodies))
    return builder.build()


class _Combiner:
    def __init__(self, parent: PageList, layer: PageList, load: LoadPage, chain: Chain | None) -> None:
        self._parent = parent
        self._layer = layer
        self._load = load
        self._chain = chain
        self._ratio = CHUNK // layer.unit
        self.count = ceil_div(layer.virtual_size, CHUNK)
        below = {index for index in parent.indices if index * PAGE_UNITS < self.count}
        changed = {index // self._ratio for index in layer.indices}
        if parent.virtual_size != layer.virtual_size:
            changed |= {chunk // PAGE_UNITS for chunk in (parent.unit_count - 1, self.count - 1)}
        self._shown = below - changed
        self._busy = below | changed

    def busy_pages(self) -> list[int]:
        """Return the pages of the result that parent or layer have data in, and those with an end in them."""
        return sorted(index for index in self._busy if 0 <= index * PAGE_UNITS < self.count)

    def is_parents(self, index: int) -> bool:
        """Whether a page of the result is that of the parent, which has it: nothing in it is the layer's."""
        return index in self._shown

    def page(self, index: int) -> bytes:
        count = page_length(self.count, index)
        first = index * PAGE_UNITS
        digests = self._parent_digests(index, count)
        own = self._layer_digests(first, count)
        if own is None:
            stale = np.zeros(count, dtype=np.bool_)
        else:
            kinds = kinds_of(own).reshape(count, self._ratio)
            zero = (kinds == Kind.ZERO).all(axis=1)
            stale = (kinds != Kind.UNALLOCATED).any(axis=1)
            digests[zero] = np.frombuffer(MARKERS[Kind.ZERO], dtype=np.uint8)
            stale &= ~zero
            if self._ratio == 1:
                digests[stale] = own[stale]
                stale[:] = False
        self._mark_ends(stale, own, first, count)
        for at in np.flatnonzero(stale).tolist():
            digests[at] = np.frombuffer(self._read(first + at), dtype=np.uint8)
        return digests.tobytes()

    def _parent_digests(self, index: int, count: int) -> Digests:
        """Return the parent's digests, ZERO past its end; writable."""
        digests = np.empty((count, 32), dtype=np.uint8)
        digests[:] = np.frombuffer(MARKERS[Kind.ZERO], dtype=np.uint8)
        if index * PAGE_UNITS < self._parent.unit_count:
            known = self._parent.load(index, self._load)[:count]
            digests[: len(known)] = known
        return digests

    def _layer_digests(self, first: int, count: int) -> Digests | None:
        """Return the layer's digests for ``count`` chunks, padded to whole ones.

        None when nothing is allocated.
        """
        low, high = first * self._ratio, min((first + count) * self._ratio, self._layer.unit_count)
        pages = range(low // PAGE_UNITS, ceil_div(high, PAGE_UNITS))
        if not any(self._layer.page(page) for page in pages):
            return None
        joined = np.concatenate([self._layer.load(page, self._load) for page in pages])
        own = joined[low - pages[0] * PAGE_UNITS : high - pages[0] * PAGE_UNITS]
        missing = count * self._ratio - len(own)
        if missing:
            # The last granule stands for those past the disk's end: it alone decides the kind.
            own = np.concatenate([own, np.repeat(own[-1:], missing, axis=0)])
        return own

    def _mark_ends(
        self, stale: np.ndarray[tuple[int], np.dtype[np.bool_]], own: Digests | None, first: int, count: int
    ) -> None:
        """Mark chunks whose length differs between parent and result, where the parent shows through."""
        for chunk in {self._parent.unit_count - 1, self.count - 1}:
            if not (first <= chunk < first + count and 0 <= chunk < self._parent.unit_count):
                continue
            length = min(CHUNK, self._layer.virtual_size - chunk * CHUNK)
            hidden = own is not None and bool(
                (kinds_of(own).reshape(count, -1)[chunk - first] != Kind.UNALLOCATED).all()
            )
            if self._parent.unit_length(chunk) != length and not hidden:
                stale[chunk - first] = True

    def _read(self, chunk: int) -> bytes:
        assert self._chain is not None, "combining without images needs whole chunks"
        length = min(CHUNK, self._layer.virtual_size - chunk * CHUNK)
        buffer = memoryview(bytearray(length))
        self._chain.read_into(chunk * CHUNK, buffer)
        digest = as_digests(hash_units(buffer, CHUNK)).copy()
        canonicalise(digest, length)
        return digest.tobytes()
