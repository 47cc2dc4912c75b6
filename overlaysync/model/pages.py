"""Page lists: which digests make up a disk or a layer, and the id that follows from them.

A page holds the digests of 1024 consecutive units (the last page of a list may hold fewer). Pages are
addressed by their own digest; a page whose units are all *blank* (ZERO in a disk, UNALLOCATED in a layer) is
left out. The canonical bytes of a list are hashed to its id, so a list received from anywhere is checked by
hashing it. Nothing here holds page bodies: a loader brings them one at a time.
Source: docs/manifest-format.md, "Page list".
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import TypeAlias

import numpy as np

from overlaysync.errors import DecodeError
from overlaysync.model.digest import (
    DIGEST_SIZE,
    UNALLOCATED,
    ZERO,
    Digests,
    Kind,
    as_digests,
    derive,
    equal_rows,
    kinds_of,
    zero_digest,
)
from overlaysync.units import CHUNK, MAX_VIRTUAL_SIZE, MIN_GRANULE, PAGE_UNITS, SECTOR, ceil_div

PAGE_SIZE = PAGE_UNITS * DIGEST_SIZE
MAX_LIST_SIZE = 16 << 20
"""Our limit for an encoded list: 400,000 pages, 25 TiB of allocated 64 KiB units."""

DISK_CONTEXT = "overlaysync v1 disk id"
LAYER_CONTEXT = "overlaysync v1 layer id"
PAGE_CONTEXT = "overlaysync v1 page"
SHAPE_CONTEXT = "overlaysync v1 page list without its parent"

_PREFIX = struct.Struct("<4sIQ32s")
_MAGIC = {b"OSD1": "disk", b"OSL1": "layer"}
_ENTRY = np.dtype([("index", "<u8"), ("digest", "u1", (DIGEST_SIZE,))])

LoadPage: TypeAlias = Callable[[bytes], bytes]
"""Page digest → page body."""


_LOADED = 64


def loaded_once(load: LoadPage) -> LoadPage:
    """``load``, but pages asked for lately are kept: a list may name one at any number of places."""
    return lru_cache(_LOADED)(load)


def page_digest(body: bytes | memoryview) -> bytes:
    """Return the digest by which a page is addressed."""
    return derive(PAGE_CONTEXT, body)


def page_length(unit_count: int, index: int) -> int:
    """How many units page ``index`` of a list of ``unit_count`` units has."""
    return min(PAGE_UNITS, unit_count - index * PAGE_UNITS)


@dataclass(frozen=True, slots=False)
class PageList:
    """The pages of a disk (``parent`` is None) or a layer.

    Attributes:
        virtual_size: bytes the guest sees.
        unit: bytes a digest covers: 64 KiB for a disk, the granule for a layer.
        parent: disk id below a layer.
        indices: numbers of the pages present, rising.
        digests: their page digests.
    """

    virtual_size: int
    unit: int = CHUNK
    parent: bytes | None = None
    indices: tuple[int, ...] = ()
    digests: tuple[bytes, ...] = field(default=(), repr=False)

    @property
    def is_layer(self) -> bool:
        return self.parent is not None

    @property
    def blank(self) -> Kind:
        """The kind of every unit of a page that is left out."""
        return Kind.UNALLOCATED if self.is_layer else Kind.ZERO

    @property
    def unit_count(self) -> int:
        return ceil_div(self.virtual_size, self.unit)

    def unit_length(self, index: int) -> int:
        """Bytes in unit ``index``: ``unit``, or fewer for the last."""
        return min(self.unit, self.virtual_size - index * self.unit)

    @cached_property
    def id(self) -> bytes:
        """The disk id or layer id."""
        return derive(LAYER_CONTEXT if self.is_layer else DISK_CONTEXT, self.encode())

    @property
    def shape(self) -> bytes:
        """What the list says but for the parent it stands on: equal for one layer on two parents."""
        return derive(SHAPE_CONTEXT, replace(self, parent=bytes(32) if self.is_layer else None).encode())

    def page(self, index: int) -> bytes | None:
        """Return the digest of page ``index``, None when it is left out."""
        at = bisect_left(self.indices, index)
        return self.digests[at] if at < len(self.indices) and self.indices[at] == index else None

    def blank_page(self, index: int) -> bytes:
        """Return the body that page ``index`` has when it is left out."""
        marker = UNALLOCATED if self.is_layer else ZERO
        return marker * page_length(self.unit_count, index)

    def load(self, index: int, load: LoadPage) -> Digests:
        """Return the digests of page ``index``, shape (units, 32), read-only.

        Raises:
            DecodeError: the body is not as long as the list says, or holds a marker that cannot be there.
        """
        digest = self.page(index)
        if digest is None:
            return as_digests(self.blank_page(index))
        return self.check_page(index, load(digest))

    def check_page(self, index: int, body: bytes) -> Digests:
        """``body`` as digests, after its length and canonical form have been checked against the list.

        Without that, one content could have two ids.

        Raises:
            DecodeError: wrong length, a marker that cannot be, zeros without their marker, or all blank.
        """
        if len(body) != page_length(self.unit_count, index) * DIGEST_SIZE:
            raise DecodeError(f"page {index} has {len(body)} bytes")
        digests = as_digests(body)
        if not self.is_layer and (kinds_of(digests) == Kind.UNALLOCATED).any():
            raise DecodeError(f"page {index} of a disk holds an unallocated chunk")
        last = self.unit_length(index * PAGE_UNITS + len(digests) - 1) if len(digests) else self.unit
        if equal_rows(digests, zero_digest(self.unit)).any() or body.endswith(zero_digest(last)):
            raise DecodeError(f"page {index} holds the digest of zeros instead of its marker")
        if body == self.blank_page(index):
            raise DecodeError(f"page {index} is blank and should be left out")
        return digests

    def encode(self) -> bytes:
        """Return the canonical bytes: magic, unit, size, parent, then (index, digest) of each page."""
        magic = b"OSL1" if self.is_layer else b"OSD1"
        head = _PREFIX.pack(magic, self.unit, self.virtual_size, self.parent or bytes(DIGEST_SIZE))
        entries = np.zeros(len(self.indices), dtype=_ENTRY)
        entries["index"] = self.indices
        if self.digests:
            entries["digest"] = as_digests(b"".join(self.digests))
        return head + entries.tobytes()

    @classmethod
    def decode(cls, data: bytes) -> PageList:
        """Return the list that ``data`` encodes.

        Raises:
            DecodeError: any byte is not as the canonical form has it, or a limit is passed.
        """
        if not _PREFIX.size <= len(data) <= MAX_LIST_SIZE or (len(data) - _PREFIX.size) % _ENTRY.itemsize:
            raise DecodeError(f"a page list cannot have {len(data)} bytes")
        magic, unit, virtual_size, parent = _PREFIX.unpack_from(data)
        kind = _MAGIC.get(magic)
        if kind is None:
            raise DecodeError("not a page list: unknown magic")
        if virtual_size > MAX_VIRTUAL_SIZE or virtual_size % SECTOR:
            raise DecodeError(f"virtual size {virtual_size} is out of bounds")
        if kind == "disk" and (unit != CHUNK or any(parent)):
            raise DecodeError("a disk has 64 KiB chunks and no parent")
        if not MIN_GRANULE <= unit <= CHUNK or unit & (unit - 1):
            raise DecodeError(f"granule {unit} is out of bounds")
        entries = np.frombuffer(data, dtype=_ENTRY, offset=_PREFIX.size)
        indices = entries["index"]
        page_count = ceil_div(ceil_div(virtual_size, unit), PAGE_UNITS)
        if len(indices) and ((indices[1:] <= indices[:-1]).any() or int(indices[-1]) >= page_count):
            raise DecodeError("page numbers are not rising or out of bounds")
        return cls(
            virtual_size=virtual_size,
            unit=unit,
            parent=None if kind == "disk" else parent,
            indices=tuple(indices.tolist()),
            digests=tuple(digest.tobytes() for digest in entries["digest"]),
        )


class PageListBuilder:
    """Builds a page list from pages that come in rising order.

    ``keep`` receives every page body that is present, by digest (a store, or a dict's ``__setitem__``).
    """

    def __init__(
        self, *, virtual_size: int, unit: int, parent: bytes | None, keep: Callable[[bytes, bytes], None]
    ) -> None:
        self._empty = PageList(virtual_size, unit, parent)
        self._keep = keep
        self._indices: list[int] = []
        self._digests: list[bytes] = []

    def add(self, index: int, body: bytes) -> None:
        """Append page ``index``; a blank one is left out."""
        if body == self._empty.blank_page(index):
            return
        digest = page_digest(body)
        self._keep(digest, body)
        self.add_kept(index, digest)

    def add_kept(self, index: int, digest: bytes) -> None:
        """Append page ``index``, which is not blank and is kept already."""
        self._indices.append(index)
        self._digests.append(digest)

    def build(self) -> PageList:
        empty = self._empty
        return PageList(
            empty.virtual_size, empty.unit, empty.parent, tuple(self._indices), tuple(self._digests)
        )
