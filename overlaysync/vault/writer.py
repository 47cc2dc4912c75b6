"""Adding items to one space of a vault.

Packs are written first, then the index that describes them: a writer that is killed in between leaves packs
that no index describes. Their items are stored again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from overlaysync.model.digest import Digests, as_digests
from overlaysync.vault.behind import Behind
from overlaysync.vault.contents import Contents
from overlaysync.vault.index import MAX_PACKS, PackIndex, encode_index
from overlaysync.vault.objects import Kind, hash_of, object_name
from overlaysync.vault.pack import PackBuilder, squeeze

_INDEX_EVERY = MAX_PACKS
"""Packs after which an index is written: a save that is killed then goes on from there."""
_INDEX_ITEMS = 1 << 20
"""Items after which an index is written, and a fourth of them after which a pack is closed: small items that
compress well are many in a pack, and an index must stay within its limit."""


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
        self._behind.wait()  # before the pack is joined, so that no third one is in memory
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
        contents.add_pack(pack)
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
        contents.add_index(hash, self._packs)
        self.stored += len(data)
        self._packs = []
