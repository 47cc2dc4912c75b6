"""Contents of one space of a vault: items found by their keys, read, and added.

The seal of a team's space shows that what is read is what was stored. The caller checks whether an item is
what its key says, since it knows the kind of key. Packs are written first, then the index that describes
them: a writer that is killed in between leaves packs that no index describes. Their items are stored again.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from overlaysync.errors import DecodeError, NotFoundError, OverlaysyncError, VerificationError
from overlaysync.model.digest import Digests, as_digests
from overlaysync.units import MIB
from overlaysync.vault.behind import Behind
from overlaysync.vault.belief import Believed, are_true
from overlaysync.vault.index import Index, PackIndex, Spot, decode_index, encode_index, merged
from overlaysync.vault.objects import Kind, Objects, get_whole, hash_of, object_name, parse_name
from overlaysync.vault.pack import HEAD, PACK_MAGIC, PackBuilder, Place, read_record, seal_of, squeeze
from overlaysync.vault.spaces import Seal, Space

_CACHE = 32 * MIB
"""Bytes of records kept: what follows in an image often follows in a record."""
_INDEX_EVERY = 64
"""Packs after which an index is written: a save that is killed then goes on from there."""
_INDEX_ITEMS = 1 << 20
"""Items after which an index is written, and a fourth of them after which a pack is closed: small items that
compress well are many in a pack, and an index must stay within its limit."""


@dataclass(frozen=True, slots=True)
class _Doubted:
    """An index of others: nobody has compared it with what it describes.

    Attributes:
        hash: names it.
        packs: of those that it describes, the ones that are here.
        complete: whether these are all.
        index: of them.
    """

    hash: bytes
    packs: list[PackIndex]
    complete: bool
    index: Index


@dataclass(frozen=True, slots=True)
class Damage:
    """An object that cannot be used, and why."""

    name: str
    why: str


class Contents:
    """The items of one space in one place. Several threads may read; one writes.

    Args:
        objects: the place.
        space: the space, with its key.
        wrong: is told of an object that is not what it should be, and returns whether to read it again.

    Attributes:
        damaged: the indexes that could not be read.
    """

    def __init__(
        self, objects: Objects, space: Space, wrong: Callable[[str], bool] = lambda _: False
    ) -> None:
        self.objects = objects
        self._wrong = wrong
        self.space = space
        self.damaged: list[Damage] = []
        self._index = Index()
        self._believed = Believed()
        self._doubted: list[_Doubted] = []
        self._described: dict[bytes, bytes] = {}
        self._seals: dict[bytes, Seal] = {}
        self._cache: OrderedDict[tuple[bytes, int], bytes] = OrderedDict()
        self._cached = 0
        self._lock = threading.Lock()

    def learn(self, only: Container[bytes] | None = None) -> None:
        """Read all indexes that the place has, or those among ``only``, as far as it has their packs too.

        An index can be here without its packs, when only a part of a state was pulled. What is to be stored
        is compared with what is found, so nothing that is not here may count. See :attr:`damaged`.

        Raises:
            OverlaysyncError: the place fails.
        """
        here = self._listed(Kind.PACK)
        indexes = (hash for hash in self._listed(Kind.INDEX) if only is None or hash in only)
        self._learn(indexes, lambda pack: here.get(pack.name) == pack.size)

    def learn_to_write(self, believed: Believed, only: Container[bytes] | None = None) -> None:
        """Read all indexes that the place has, or those among ``only``, and believe those in ``believed``.

        The others are compared with their packs as soon as the writer looks for what they describe.

        Raises:
            OverlaysyncError: the place fails.
        """
        self._believed = believed
        here = self._listed(Kind.PACK)
        listed = [hash for hash in self._listed(Kind.INDEX) if only is None or hash in only]
        self._learn(
            (hash for hash in listed if hash in believed), lambda pack: here.get(pack.name) == pack.size
        )
        for hash, packs in self._decoded(hash for hash in listed if hash not in believed):
            present = [pack for pack in packs if here.get(pack.name) == pack.size]
            self._doubted.append(_Doubted(hash, present, len(present) == len(packs), merged(present)))

    def learn_some(self, indexes: Iterable[bytes], packs: Container[bytes]) -> None:
        """Read the indexes of these hashes, and of what they describe the packs of these hashes.

        What a state needs is in the packs that it names. Its indexes can also describe other packs with the
        same items, which may be gone everywhere.

        Raises:
            OverlaysyncError: the place fails.
        """
        self._learn(indexes, lambda pack: pack.name in packs)

    def _learn(self, indexes: Iterable[bytes], counts: Callable[[PackIndex], bool]) -> None:
        self._index.add_all(self._read(indexes, counts))

    def _read(self, indexes: Iterable[bytes], counts: Callable[[PackIndex], bool]) -> Iterator[PackIndex]:
        """Yield what indexes say of the packs that count."""
        for hash, packs in self._decoded(indexes):
            for pack in filter(counts, packs):
                self._described.setdefault(pack.name, hash)
                yield pack

    def _decoded(self, indexes: Iterable[bytes]) -> Iterator[tuple[bytes, list[PackIndex]]]:
        """Yield the indexes of these hashes that can be read."""
        for hash in indexes:
            name = object_name(self.space.tag, Kind.INDEX, hash)
            try:
                yield hash, decode_index(get_whole(self.objects, name), self.space)
            except (DecodeError, VerificationError, NotFoundError) as error:
                self.damaged.append(Damage(name, str(error)))

    def _believe(self, keys: Digests) -> None:
        """Compare the indexes of others that have any of ``keys`` with their packs; learn what is true."""
        found = [one for one in self._doubted if one.index.holds(keys).any()]
        self._doubted = [one for one in self._doubted if all(one is not other for other in found)]
        for one in found:
            try:
                is_true = are_true(self.objects, self.space, one.packs)
            except OverlaysyncError:  # what cannot be read is stored again
                continue
            if is_true:
                for pack in one.packs:
                    self._described.setdefault(pack.name, one.hash)
                self._index.add_all(one.packs)
                if one.complete:
                    self._believed.add(one.hash)

    def _listed(self, kind: Kind) -> dict[bytes, int]:
        """Return the sizes of the objects of a kind that the place has, by hash."""
        listed = self.objects.list(f"{self.space.tag}/{kind}/")
        return {named.hash: one.size for one in listed if (named := parse_name(one.name)) is not None}

    # -- reading ---------------------------------------------------------------------------------------

    def holds(self, keys: Digests) -> Sequence[bool]:
        """Which of ``keys``, shape (count, 32), are here."""
        found = self._index.holds(keys)
        if self._doubted and not found.all():
            self._believe(keys[~found])
            found = self._index.holds(keys)
        held: list[bool] = found.tolist()
        return held

    def find(self, keys: Digests) -> list[Spot | None]:
        """Where each of ``keys``, shape (count, 32), is; None for what is not here."""
        return self._index.find(keys)

    def packs_with(self, keys: Digests) -> list[bytes]:
        """Return the hashes of the packs that hold ``keys``, in the order of their first use."""
        return self._index.packs_with(keys)

    def packs_with_any(self, keys: Iterable[Digests]) -> list[bytes]:
        """Return the hashes of the packs that hold any of several lists of keys, as :meth:`packs_with`."""
        return list(dict.fromkeys(pack for some in keys for pack in self._index.packs_with(some)))

    def indexes_of(self, packs: Iterable[bytes]) -> set[bytes]:
        """Return the hashes of indexes that together describe ``packs``."""
        return {self._described[pack] for pack in packs if pack in self._described}

    def record(self, pack: bytes, place: Place) -> bytes:
        """Return the items of a record, joined.

        Raises:
            NotFoundError: the pack is not here.
            VerificationError: it is damaged.
        """
        key = pack, place.number
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        name = object_name(self.space.tag, Kind.PACK, pack)
        try:
            plain = read_record(
                self._seal(pack, name), place, self.objects.get(name, place.offset, place.stored)
            )
        except DecodeError as error:
            raise VerificationError(
                f"The object {name} is damaged", why=str(error), hint="overlaysync vault check --read"
            ) from None
        with self._lock:
            if key not in self._cache:
                self._cache[key] = plain
                self._cached += len(plain)
            while self._cached > _CACHE and len(self._cache) > 1:
                self._cached -= len(self._cache.popitem(last=False)[1])
        return plain

    def item(self, key: bytes, is_right: Callable[[bytes], bool]) -> bytes | None:
        """Return the item with this key; None when it is not here.

        Args:
            key: of the item.
            is_right: whether bytes are what has this key.

        Raises:
            VerificationError: the pack is damaged, or not here though an index describes it.
        """
        (spot,) = self.find(as_digests(key))
        if spot is None:
            return None
        name = object_name(self.space.tag, Kind.PACK, spot.pack)
        while True:
            problem = VerificationError(
                f"The object {name} is damaged",
                why="its content is not what its index says",
                hint="overlaysync vault check --read",
            )
            try:
                item = self.record(spot.pack, spot.place)[spot.start : spot.start + spot.length]
                if is_right(item):
                    return item
            except NotFoundError as error:
                raise VerificationError(
                    "An object of the vault is missing", why=str(error), hint="overlaysync vault check"
                ) from None
            except VerificationError as error:
                problem = error
            self._forget(spot)
            if not self._wrong(name):
                raise problem

    def _forget(self, spot: Spot) -> None:
        """Drop what was read of a pack that is not what it should be."""
        with self._lock:
            self._seals.pop(spot.pack, None)
            self._cached -= len(self._cache.pop((spot.pack, spot.place.number), b""))

    def _seal(self, pack: bytes, name: str) -> Seal:
        with self._lock:
            seal = self._seals.get(pack)
        if seal is None:
            seal = seal_of(self.objects.get(name, 0, HEAD.size), PACK_MAGIC, self.space)
            with self._lock:
                self._seals[pack] = seal
        return seal

    # -- writing ---------------------------------------------------------------------------------------

    def writer(self) -> Writer:
        """Return what adds items; end it with :meth:`Writer.finish`."""
        return Writer(self)


class Writer:
    """Adds items to a space: packs are stored when they are full, the index of them in the end.

    A pack is made to last while the next one is put together; an index waits for all that it describes.

    Attributes:
        stored: bytes stored so far.
        items: how many items were added.
    """

    def __init__(self, contents: Contents) -> None:
        self.stored = 0
        self.items = 0
        self._contents = contents
        self._behind = Behind(contents.objects)
        self._pending: set[bytes] = set()
        self._packs: list[PackIndex] = []
        self._begin()

    def _begin(self) -> None:
        self._builder = PackBuilder(self._contents.space)
        self._keys: list[Digests] = []
        self._lengths: list[Sequence[int]] = []
        self._in_pack = 0

    def is_new(self, key: bytes) -> bool:
        """Whether an item is neither here nor among those being added; it counts as one of these then."""
        if key in self._pending or self._contents.holds(as_digests(key))[0]:
            return False
        self._pending.add(key)
        return True

    def new_ones(self, digests: Digests) -> list[int]:
        """Return the rows of ``digests``, shape (count, 32), that are new; see :meth:`is_new`."""
        rows = []
        for row, held in enumerate(self._contents.holds(digests)):
            key = digests[row].tobytes()
            if not held and key not in self._pending:
                self._pending.add(key)
                rows.append(row)
        return rows

    def add(self, keys: Digests, lengths: Sequence[int], squeezed: bytes) -> None:
        """Append a record of items; see :func:`~overlaysync.vault.pack.squeeze`.

        Raises:
            NoSpaceError, OverlaysyncError: the place cannot store it.
        """
        self._builder.add(squeezed, sum(lengths))
        self._keys.append(keys)
        self._lengths.append(lengths)
        self.items += len(lengths)
        self._in_pack += len(lengths)
        if self._builder.is_full or self._in_pack >= _INDEX_ITEMS // 4:
            self._end_pack()

    def add_item(self, key: bytes, data: bytes) -> None:
        """Append one item as a record of its own, unless it is here."""
        if self.is_new(key):
            self.add(as_digests(key), [len(data)], squeeze([data]))

    def part(self) -> None:
        """Begin another pack: what follows is not needed together with what came before."""
        if self._keys:
            self._end_pack()

    def finish(self) -> None:
        """Store what is left, and the index."""
        self.part()
        self._end_index()

    def close(self) -> None:
        """Return when nothing is being stored any more; for who does not :meth:`finish`."""
        self._behind.end()

    def _end_pack(self) -> None:
        data, hash = self._builder.end()
        contents = self._contents
        self._behind.put(object_name(contents.space.tag, Kind.PACK, hash), data)
        pack = PackIndex(
            hash,
            len(data),
            self._builder.places,
            list(map(len, self._lengths)),
            np.concatenate(self._keys),
            np.concatenate([np.asarray(lengths, dtype=np.uint32) for lengths in self._lengths]),
        )
        self.stored += len(data)
        self._packs.append(pack)
        contents._index.add(pack)
        self._pending.difference_update(key.tobytes() for key in pack.keys)
        self._begin()
        if len(self._packs) >= _INDEX_EVERY or sum(len(one.keys) for one in self._packs) >= _INDEX_ITEMS:
            self._end_index()

    def _end_index(self) -> None:
        if not self._packs:
            return
        contents = self._contents
        data = encode_index(self._packs, contents.space)
        hash = hash_of(data)
        self._behind.wait()
        contents.objects.put(object_name(contents.space.tag, Kind.INDEX, hash), data)
        contents._believed.add(hash)
        for pack in self._packs:
            contents._described.setdefault(pack.name, hash)
        self.stored += len(data)
        self._packs = []


def damaged_records(contents: Contents, packs: Iterable[PackIndex]) -> Iterator[Damage]:
    """Read whole packs and yield what of them is damaged: by their names, and record by record."""
    for pack in packs:
        name = object_name(contents.space.tag, Kind.PACK, pack.name)
        try:
            data = get_whole(contents.objects, name)
            seal = seal_of(data, PACK_MAGIC, contents.space)
            for place in pack.places:
                read_record(seal, place, data[place.offset : place.offset + place.stored])
        except OverlaysyncError as error:
            yield Damage(name, str(error))
