"""Indexes: which item is in which pack, and where. As bytes, and merged for looking up.

An index describes whole packs. In memory an item takes 28 bytes, whatever its size.
Exact bytes: docs/vault-format.md, "Indexes".
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from overlaysync.errors import DecodeError
from overlaysync.model.digest import DIGEST_SIZE, Digests
from overlaysync.vault.objects import LIMITS, Kind
from overlaysync.vault.pack import HEAD, MAX_RECORD, Place, begin_object, seal_of
from overlaysync.vault.spaces import Space

INDEX_MAGIC = b"OSVI"
MAX_PACKS = 64
"""Packs that an index can describe: each takes a kilobyte of memory, however little is in it."""

_COUNTS = struct.Struct("<II")
_PACK_ENTRY = struct.Struct(f"<{DIGEST_SIZE}sII")
_RECORD_ENTRY = np.dtype([("offset", "<u4"), ("stored", "<u4"), ("items", "<u4")])
_ITEM_ENTRY = np.dtype([("key", "u1", (DIGEST_SIZE,)), ("length", "<u4")])
_ALIKE = 64
"""Items with one beginning of their keys that are looked at: only who wants to waste time makes more."""
_MERGE = 1 << 14
"""Items that are held unsorted until they are merged into the sorted ones."""


@dataclass(frozen=True, slots=True)
class PackIndex:
    """What is in one pack.

    Attributes:
        name: the hash that names the pack.
        size: its stored bytes.
        places: of its records.
        counts: how many items each record has.
        keys: of all items, in order; shape (items, 32).
        lengths: of all items, in bytes; shape (items,).
    """

    name: bytes
    size: int
    places: Sequence[Place]
    counts: Sequence[int]
    keys: Digests = field(repr=False)
    lengths: NDArray[np.uint32] = field(repr=False)


def encode_index(packs: Sequence[PackIndex], space: Space) -> bytes:
    """Return the object that describes ``packs``."""
    parts = [_COUNTS.pack(len(packs), 0)]
    for pack in packs:
        records = np.zeros(len(pack.places), dtype=_RECORD_ENTRY)
        records["offset"] = [place.offset for place in pack.places]
        records["stored"] = [place.stored for place in pack.places]
        records["items"] = pack.counts
        items = np.zeros(len(pack.lengths), dtype=_ITEM_ENTRY)
        items["key"], items["length"] = pack.keys, pack.lengths
        parts.append(_PACK_ENTRY.pack(pack.name, pack.size, len(records)))
        parts += [records.tobytes(), items.tobytes()]
    salt = space.new_salt()
    return begin_object(INDEX_MAGIC, space, salt) + space.seal(INDEX_MAGIC, salt).close(0, b"".join(parts))


def decode_index(data: bytes, space: Space) -> list[PackIndex]:
    """Return what an index object says.

    Raises:
        DecodeError: it is not for this space, damaged, or says what cannot be.
    """
    if len(data) > LIMITS[Kind.INDEX]:
        raise DecodeError("an index of the vault is too long")
    plain = seal_of(data, INDEX_MAGIC, space).open(0, data[HEAD.size :])
    try:
        return _packs(plain)
    except (struct.error, ValueError):
        raise DecodeError("an index of the vault is cut off") from None


def _packs(plain: bytes) -> list[PackIndex]:
    count, zero = _COUNTS.unpack_from(plain)
    at, packs = _COUNTS.size, []
    if zero:
        raise DecodeError("an index of the vault is not in canonical form")
    if count > MAX_PACKS:
        raise DecodeError(f"an index of the vault describes {count} packs, and {MAX_PACKS} are allowed")
    for _ in range(count):
        name, size, record_count = _PACK_ENTRY.unpack_from(plain, at)
        at += _PACK_ENTRY.size
        records = np.frombuffer(plain, _RECORD_ENTRY, record_count, at)
        at += records.nbytes
        items = np.frombuffer(plain, _ITEM_ENTRY, int(records["items"].sum(dtype=np.uint64)), at)
        at += items.nbytes
        packs.append(_pack(name, size, records, items))
    if at != len(plain):
        raise DecodeError("an index of the vault has bytes after its end")
    return packs


def _pack(name: bytes, size: int, records: NDArray[np.void], items: NDArray[np.void]) -> PackIndex:
    """Return what is in one pack, once its records lie one after the other in it and none is too large."""
    counts = records["items"].astype(np.int64)
    lengths = items["length"]
    ends = np.cumsum(counts)
    totals = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    sizes = totals[ends] - totals[ends - counts]
    offsets, stored = records["offset"].astype(np.int64), records["stored"].astype(np.int64)
    expected = HEAD.size + np.concatenate([[0], np.cumsum(stored)])
    if (offsets != expected[:-1]).any() or int(expected[-1]) != size or size > LIMITS[Kind.PACK]:
        raise DecodeError("an index of the vault describes a pack that cannot be")
    if not len(counts) or counts.min() < 1 or sizes.max() > MAX_RECORD:
        raise DecodeError("an index of the vault describes a record that cannot be")
    rows = zip(offsets.tolist(), stored.tolist(), sizes.tolist(), strict=True)
    places = [Place(number, *row) for number, row in enumerate(rows)]
    return PackIndex(name, size, places, counts.tolist(), items["key"], lengths)


@dataclass(frozen=True, slots=True)
class Spot:
    """Where an item is.

    Attributes:
        pack: the hash that names the pack.
        place: of the record in it.
        start: where in the record's items it begins, in bytes.
        length: its bytes.
    """

    pack: bytes
    place: Place
    start: int
    length: int


class Index:
    """Many indexes merged: finds items by their keys."""

    def __init__(self) -> None:
        self._names: list[bytes] = []
        self._known: set[bytes] = set()
        self._records: list[tuple[int, Place]] = []
        self._words = np.empty((0, 2), dtype=np.uint64)
        self._spots = np.empty((0, 3), dtype=np.uint32)
        self._new_words: list[NDArray[np.uint64]] = []
        self._new_spots: list[NDArray[np.uint32]] = []
        self._new_keys: dict[bytes, tuple[int, int, int]] = {}

    @property
    def packs(self) -> Sequence[bytes]:
        """The hashes of the packs that it knows, in the order in which they came."""
        return tuple(self._names)

    def __len__(self) -> int:
        return len(self._words) + sum(map(len, self._new_words))

    def add_all(self, packs: Iterable[PackIndex]) -> None:
        """Learn what is in many packs; those that are known are left alone."""
        for pack in packs:
            self._append(pack)
        if self._new_words:
            self._merge()

    def add(self, pack: PackIndex) -> None:
        """Learn what is in a pack; one that is known is left alone."""
        if not self._append(pack):
            return
        words, spots = self._new_words[-1], self._new_spots[-1]
        keys = map(bytes, words.view(np.uint8).reshape(-1, 16))
        for key, spot in zip(keys, spots.tolist(), strict=True):
            self._new_keys.setdefault(key, (spot[0], spot[1], spot[2]))
        if len(self._new_keys) >= _MERGE:
            self._merge()

    def _append(self, pack: PackIndex) -> bool:
        """Note what is in a pack, not to be found yet; False for one that is known."""
        if pack.name in self._known:
            return False
        number, first = len(self._names), len(self._records)
        self._names.append(pack.name)
        self._known.add(pack.name)
        self._records += [(number, place) for place in pack.places]
        counts = np.asarray(pack.counts, dtype=np.int64)
        lengths = pack.lengths.astype(np.int64)
        ends = np.cumsum(lengths)
        begins = np.repeat(np.cumsum(counts) - counts, counts)
        starts = ends - lengths - (ends - lengths)[begins]
        spots = np.empty((len(lengths), 3), dtype=np.uint32)
        spots[:, 0] = first + np.repeat(np.arange(len(counts)), counts)
        spots[:, 1], spots[:, 2] = starts, lengths
        words = np.ascontiguousarray(pack.keys).view(np.uint64).reshape(-1, 4)[:, :2]
        self._new_words.append(words.copy())
        self._new_spots.append(spots)
        return True

    def _merge(self) -> None:
        # One after the other, and the old ones let go at once: this is where most memory is taken.
        self._new_keys = {}
        self._words = np.concatenate([self._words, *self._new_words])
        self._new_words = []
        order = np.argsort(self._words[:, 0], kind="stable").astype(np.uint32)
        self._words = self._words[order]
        self._spots = np.concatenate([self._spots, *self._new_spots])
        self._new_spots = []
        self._spots = self._spots[order]

    def holds(self, keys: Digests) -> NDArray[np.bool_]:
        """Which of ``keys``, shape (count, 32), are known."""
        words = np.ascontiguousarray(keys).view(np.uint64).reshape(-1, 4)
        found = self._rows(words) >= 0
        if self._new_keys:
            for at in np.flatnonzero(~found).tolist():
                found[at] = words[at, :2].tobytes() in self._new_keys
        return found

    def find(self, keys: Digests) -> list[Spot | None]:
        """Where each of ``keys``, shape (count, 32), is; None for what is not known."""
        words = np.ascontiguousarray(keys).view(np.uint64).reshape(-1, 4)
        spots: list[Spot | None] = []
        for at, row in enumerate(self._rows(words).tolist()):
            found = self._spots[row].tolist() if row >= 0 else self._new_keys.get(words[at, :2].tobytes())
            spots.append(None if found is None else self._spot(*found))
        return spots

    def packs_with(self, keys: Digests) -> list[bytes]:
        """Return the hashes of the packs that hold ``keys``, shape (count, 32), as far as they are known.

        A pack of which a key comes earlier is earlier among them.
        """
        words = np.ascontiguousarray(keys).view(np.uint64).reshape(-1, 4)
        rows = self._rows(words)
        records, firsts = np.unique(self._spots[rows[rows >= 0], 0], return_index=True)
        ordered = records[np.argsort(firsts)].tolist()
        for at in np.flatnonzero(rows < 0).tolist() if self._new_keys else ():
            spot = self._new_keys.get(words[at, :2].tobytes())
            if spot is not None:
                ordered.append(spot[0])
        return list(dict.fromkeys(self._names[self._records[record][0]] for record in ordered))

    def _spot(self, record: int, start: int, length: int) -> Spot:
        pack, place = self._records[record]
        return Spot(self._names[pack], place, start, length)

    def _rows(self, words: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the row of each key among the sorted ones; -1 for none."""
        rows = np.full(len(words), -1, dtype=np.int64)
        if not len(self._words):
            return rows
        at = np.searchsorted(self._words[:, 0], words[:, 0])
        pending = np.arange(len(words))
        for _ in range(_ALIKE):
            if not len(pending):
                break
            inside = at[pending] < len(self._words)
            pending = pending[inside]
            same_first = self._words[at[pending], 0] == words[pending, 0]
            pending = pending[same_first]
            same = self._words[at[pending], 1] == words[pending, 1]
            rows[pending[same]] = at[pending[same]]
            pending = pending[~same]
            at[pending] += 1
        return rows


def merged(packs: Iterable[PackIndex]) -> Index:
    """Return the index of all of ``packs``."""
    index = Index()
    index.add_all(packs)
    return index
