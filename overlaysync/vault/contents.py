"""Contents of one space of a vault: items found by their keys, and read.

The seal of a team's space shows that what is read is what was stored. The caller checks whether an item is
what its key says, since it knows the kind of key. How items are added: :mod:`.writer`.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass

from overlaysync.errors import DecodeError, NotFoundError, OverlaysyncError, VerificationError
from overlaysync.model.digest import Digests, as_digests
from overlaysync.units import MIB
from overlaysync.vault.belief import Believed, are_true
from overlaysync.vault.index import Index, PackIndex, Spot, decode_index, merged
from overlaysync.vault.objects import Kind, Objects, get_whole, object_name, parse_name
from overlaysync.vault.pack import HEAD, PACK_MAGIC, Place, read_record, seal_of
from overlaysync.vault.spaces import Seal, Space

_CACHE = 8 * MIB
"""Bytes of records kept: what follows in an image often follows in a record."""


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

    def learn_like(self, other: Contents) -> None:
        """Look up items where those of another place are looked up: the indexes are in memory once."""
        self._index, self._described = other._index, other._described

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

    # -- what was written ------------------------------------------------------------------------------

    def add_pack(self, pack: PackIndex) -> None:
        """Count what a pack holds as here: it was stored, or is about to be."""
        self._index.add(pack)

    def add_index(self, hash: bytes, packs: Iterable[PackIndex]) -> None:
        """Note that an index of these packs was stored by this node, which believes it."""
        self._believed.add(hash)
        for pack in packs:
            self._described.setdefault(pack.name, hash)


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
