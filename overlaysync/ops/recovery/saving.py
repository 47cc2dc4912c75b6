"""Save: what is frozen goes into the vault, unit by unit, and a state says what it was.

Only what the vault does not have is read, compressed and stored. Order: packs, indexes, the state, the head;
a command that is killed leaves no reference to a missing object, and the same command stores the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from overlaysync.errors import InUseError
from overlaysync.formats.chain import Chain
from overlaysync.model.datamap import DataMap
from overlaysync.model.digest import Digests, as_digests, equal_rows, hash_units
from overlaysync.model.pages import LoadPage, PageList
from overlaysync.ops.hashing import Progress
from overlaysync.ops.threads import in_order
from overlaysync.trust.envelope import Manifest
from overlaysync.vault.contents import Contents
from overlaysync.vault.pack import RECORD, squeeze
from overlaysync.vault.state import COMPANION_PART
from overlaysync.vault.writer import Writer

OpenChain = Callable[[], AbstractContextManager[Chain]]


@dataclass(frozen=True, slots=True)
class Content:
    """A disk or a layer that goes into a vault.

    Attributes:
        manifest: describes it.
        pages: its page list.
        open: opens the image that holds it.
    """

    manifest: Manifest
    pages: PageList
    open: OpenChain


@dataclass(slots=True)
class Saver:
    """Puts contents into one space.

    Attributes:
        contents: the space.
        load: gives pages.
        progress: told of the guest bytes dealt with; may end the work with an exception.
        read: bytes that had to be read.
        keys: of every item that what was put needs.
    """

    contents: Contents
    load: LoadPage
    progress: Progress
    read: int = 0
    keys: list[Digests] = field(default_factory=list)
    _writer: Writer = field(init=False)

    def __post_init__(self) -> None:
        self._writer = Writer(self.contents)

    @property
    def stored(self) -> int:
        """Bytes stored so far."""
        return self._writer.stored

    def put(self, content: Content) -> None:
        """Store what is new of a content.

        Raises:
            InUseError: the image does not hold it any more.
            NoSpaceError, OverlaysyncError: the vault cannot store it.
        """
        data = DataMap(content.pages, self.load)
        with content.open() as chain:
            reader = _Reader(chain, content.pages)
            with closing(in_order(reader.squeeze, self._batches(data))) as records:
                for batch, squeezed in records:
                    self._writer.add(batch.digests, batch.lengths, squeezed)
                    self.read += sum(batch.lengths)
        self._put_description(content)

    def part(self) -> None:
        """Begin another pack: masters are often here already, and then only what stands on them is pulled."""
        self._writer.part()

    def put_companion(self, data: bytes) -> tuple[str, ...]:
        """Store a small file, and return the digests of its parts in hexadecimal."""
        digests = hash_units(memoryview(data), COMPANION_PART)
        keys = as_digests(digests)
        for row, key in enumerate(keys):
            self._writer.add_item(key.tobytes(), data[row * COMPANION_PART : (row + 1) * COMPANION_PART])
        self.keys.append(keys)
        return tuple(key.tobytes().hex() for key in keys)

    def close(self) -> None:
        """End what is under way, also when what was put is not finished."""
        self._writer.close()

    def finish(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Store what is left; returns (indexes, packs) that all that was put needs, in hexadecimal."""
        self._writer.finish()
        packs = self.contents.packs_with_any(self.keys)
        indexes = self.contents.indexes_of(packs)
        return tuple(sorted(map(bytes.hex, indexes))), tuple(sorted(map(bytes.hex, packs)))

    def _put_description(self, content: Content) -> None:
        """Store the manifest, the page list and the pages."""
        pages, manifest = content.pages, content.manifest
        for digest in dict.fromkeys(pages.digests):
            if self._writer.is_new(digest):
                body = self.load(digest)
                self._writer.add(as_digests(digest), [len(body)], squeeze([body]))
        self._writer.add_item(pages.id, pages.encode())
        self._writer.add_item(manifest.id, manifest.envelope)
        self.keys.append(as_digests(b"".join((*pages.digests, pages.id, manifest.id))))

    def _batches(self, data: DataMap) -> Iterator[_Batch]:
        """Yield the units that are new, a record at a time."""
        batch, unit = _Batch.empty(), data.pages.unit
        for run in data.runs(0, data.count):
            rows = np.asarray(self._writer.new_ones(run.digests), dtype=np.int64)
            self.keys.append(run.digests)
            self.progress(data.span(run.first, len(run.units)))
            for part in np.split(rows, range(RECORD // unit, len(rows), max(1, RECORD // unit))):
                batch.add(run.units[part], run.digests[part], data.pages)
                if sum(batch.lengths) >= RECORD:
                    yield batch
                    batch = _Batch.empty()
        if batch.lengths:
            yield batch


@dataclass(slots=True)
class _Batch:
    """Units that become one record.

    Attributes:
        units: their numbers; shape (count,).
        digests: of each; shape (count, 32).
        lengths: of each, in bytes.
    """

    units: NDArray[np.int64]
    digests: Digests
    lengths: list[int]

    @classmethod
    def empty(cls) -> _Batch:
        return cls(np.empty(0, np.int64), as_digests(b""), [])

    def add(self, units: NDArray[np.int64], digests: Digests, pages: PageList) -> None:
        if len(units):
            self.units = np.concatenate([self.units, units])
            self.digests = np.concatenate([self.digests, digests])
            self.lengths += [pages.unit] * (len(units) - 1) + [pages.unit_length(int(units[-1]))]


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads, checks and compresses batches; several threads use it at once."""

    chain: Chain
    pages: PageList

    def squeeze(self, batch: _Batch) -> tuple[_Batch, bytes]:
        """Return a batch and its record.

        Raises:
            InUseError: the image holds something else by now.
        """
        buffer = memoryview(bytearray(sum(batch.lengths)))
        unit, at = self.pages.unit, 0
        for low, high in stretches(batch.units):
            length = sum(batch.lengths[low:high])
            self.chain.read_into(int(batch.units[low]) * unit, buffer[at : at + length])
            at += length
        if not equal_rows(as_digests(hash_units(buffer, unit)), batch.digests).all():
            raise InUseError(
                f"{self.chain.top.path} changed while it was saved",
                hint="nothing may write to a master; to see what differs: overlaysync verify "
                f"'{self.chain.top.path}'",
            )
        return batch, squeeze([buffer])


def stretches(units: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield (first, end) of the rows of consecutive units."""
    breaks = (np.flatnonzero(np.diff(units) != 1) + 1).tolist()
    if len(units):
        yield from zip([0, *breaks], [*breaks, len(units)], strict=True)
