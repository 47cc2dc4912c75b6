"""Which indexes a writer believes: its own, and those of others once all that they describe was read.

An index of others can say of any key that a pack holds it. A writer that believed it would leave out what
nobody has, and would find that out when it is needed. So an item of others counts as stored only when every
item that its index describes is what its key says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from overlaysync.errors import DecodeError, OverlaysyncError
from overlaysync.model.digest import DIGEST_SIZE, hash_units
from overlaysync.model.manifest import manifest_id
from overlaysync.model.pages import PageList, page_digest
from overlaysync.units import MIB
from overlaysync.vault.index import PackIndex
from overlaysync.vault.objects import Kind, Objects, get_whole, object_name
from overlaysync.vault.pack import PACK_MAGIC, read_record, seal_of
from overlaysync.vault.spaces import Space

NOTES = ".believed"
"""In the directory of a vault: hashes of the indexes that are believed, a line each."""

_LINE = re.compile(r"[0-9a-f]{64}")
_EXPANSION, _SLACK = 16, 64 * MIB
"""So many times the size of its packs is read of an index, and so much more; else it is not believed."""


class Believed:
    """The hashes of the indexes that are believed. What is lost of the file is read and compared again.

    Args:
        root: the directory of the vault; None to keep nothing.
    """

    def __init__(self, root: Path | None = None) -> None:
        self._path = root / NOTES if root else None
        self._hashes: set[str] = set()
        if self._path:
            with suppress(OSError, UnicodeDecodeError):
                self._hashes = set(filter(_LINE.fullmatch, self._path.read_text("ascii").split("\n")))

    def __contains__(self, index: object) -> bool:
        return isinstance(index, bytes) and index.hex() in self._hashes

    def add(self, index: bytes) -> None:
        """Believe an index from now on."""
        self._hashes.add(index.hex())
        if self._path:
            with suppress(OSError), open(self._path, "a", encoding="ascii") as file:
                file.write(f"\n{index.hex()}")


def are_true(objects: Objects, space: Space, packs: Sequence[PackIndex]) -> bool:
    """Whether packs hold what an index says, to the last item; they are read whole.

    Raises:
        OverlaysyncError: a pack cannot be read.
    """
    stored, plain = sum(pack.size for pack in packs), sum(int(pack.lengths.sum()) for pack in packs)
    if plain > _EXPANSION * stored + _SLACK:
        return False
    try:
        return all(_is_right(key, item) for pack in packs for key, item in _items(objects, space, pack))
    except DecodeError:
        return False


def _items(objects: Objects, space: Space, pack: PackIndex) -> Iterator[tuple[bytes, memoryview]]:
    """Yield what a pack holds by its index: keys and items."""
    data = get_whole(objects, object_name(space.tag, Kind.PACK, pack.name))
    seal, row = seal_of(data, PACK_MAGIC, space), 0
    for place, count in zip(pack.places, pack.counts, strict=True):
        record, at = memoryview(read_record(seal, place, data[place.offset :][: place.stored])), 0
        for key, length in zip(
            pack.keys[row : row + count], pack.lengths[row : row + count].tolist(), strict=True
        ):
            yield key.tobytes(), record[at : at + length]
            at += length
        row += count


def _is_right(key: bytes, item: memoryview) -> bool:
    """Whether an item of any kind has that key."""
    if hash_units(item, max(1, len(item)))[:DIGEST_SIZE] == key or page_digest(item) == key:
        return True
    data = bytes(item)
    if manifest_id(data) == key:
        return True
    with suppress(OverlaysyncError):
        return PageList.decode(data).id == key
    return False
