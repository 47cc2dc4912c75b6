"""Assemble an image from verified units: planned first, then written in any order, published when whole.

An :class:`Assembly` is fed from any source (peers, local images) and from any thread. A unit is written only
after its digest has been checked, straight to its final place in the part file; tables and header come last;
then the file gets its name.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from overlaysync.errors import ImageError, OverlaysyncError
from overlaysync.formats.image import Format
from overlaysync.formats.layout import Layout, Target
from overlaysync.formats.plan import plan_layout
from overlaysync.formats.qcow2_packed import PackedImage
from overlaysync.formats.recognition import HEAD_SIZE, foreign_format
from overlaysync.model.datamap import DataMap, SlotRun
from overlaysync.model.digest import as_digests, equal_rows, hash_units
from overlaysync.model.have import HaveMap
from overlaysync.ops.hashing import Progress
from overlaysync.ops.packing import Packer, Packing
from overlaysync.ops.part_files import check_free, plan_key
from overlaysync.store.pack import PackFile
from overlaysync.store.partial import PartFile
from overlaysync.store.target import Entry
from overlaysync.units import MIB, PAGE_UNITS

BATCH = 4 * MIB
"""Bytes copied or asked for at a time."""


class Assembly:
    """One image being written.

    Attributes:
        data: the data map of its content.
        have: the slots that are verified and written.
        written: bytes accepted so far, resumed ones included.
        resumed: bytes that an earlier, interrupted run had written.
    """

    def __init__(self, data: DataMap, layout: Layout, part: PartFile) -> None:
        self.data = data
        self.have = HaveMap(data.count)
        self.written = 0
        self.resumed = 0
        self._layout = layout
        self._part = part
        self._pack: PackFile | None = None
        self._done = False
        self._lock = threading.Lock()

    @classmethod
    def open(
        cls,
        path: Path,
        target: Target,
        data: DataMap,
        journals: Path,
        *,
        replaces: Entry | None = None,
        progress: Progress | None = None,
    ) -> Assembly:
        """Plan ``path`` and open its part file; what an interrupted run left is verified and kept.

        ``progress`` is told of the bytes verified, and may end that with an exception.

        Raises:
            WouldDestroyError: the name is taken, and nothing may be replaced.
            InUseError: another process writes it.
            NoSpaceError: it does not fit.
            ImageError: the target format cannot hold it.
        """
        if replaces is None:
            check_free(path)
        layout = plan_layout(target, data)
        part = PartFile.open(
            path,
            key=plan_key(data.pages, target),
            size=layout.file_size,
            data_bytes=data.size if target.format is Format.RAW else layout.file_size,
            journal_dir=journals,
        )
        assembly = cls(data, layout, part)
        try:
            assembly._resume(progress)
        except BaseException:
            part.close()
            raise
        return assembly

    def batch_slots(self) -> int:
        """Slots in a batch."""
        return max(1, BATCH // self.data.pages.unit)

    def missing(self) -> Iterator[tuple[int, int]]:
        """(first, count) of the slots still missing."""
        return self.have.missing().runs(1 << 30)

    def accept(self, first: int, count: int, data: memoryview) -> list[tuple[int, int]]:
        """Verify and write consecutive slots.

        Args:
            first, count: the slots.
            data: their bytes, joined.

        Returns:
            (first, count) of slots whose bytes are wrong; they are not written.

        Raises:
            NoSpaceError, OSError: writing failed.
        """
        unit = self.data.pages.unit
        wrong: list[tuple[int, int]] = []
        for run in self.data.runs(first, count):
            start = (run.first - first) * unit
            part = data[start : start + self.data.span(run.first, len(run.units))]
            good = equal_rows(as_digests(hash_units(part, unit)), run.digests)
            self._write(run, part, good)
            wrong.extend((run.first + int(at), 1) for at in np.flatnonzero(~good))
        return wrong

    def places(self, first: int, count: int) -> Iterator[tuple[int, int]]:
        """(offset, length) in the file of consecutive slots, in order."""
        unit = self.data.pages.unit
        for run in self.data.runs(first, count):
            hosts = self._layout.locate(run.first, run.units)
            for low, high in _stretches(hosts, np.ones(len(hosts), np.bool_), unit):
                yield int(hosts[low]), self.data.span(run.first + low, high - low)

    @property
    def path(self) -> str:
        """Real path of the finished file."""
        return str(self._part.target)

    def open_reader(self) -> int:
        """Return a descriptor to read the file with, also when it has got its name; the caller closes it."""
        return self._part.open_reader()

    @property
    def shares(self) -> bool:
        """Whether the part file has shared anything."""
        return self._part.clones

    def may_share(self, source: int) -> bool:
        """Whether it is worth a try with the open file ``source``."""
        return self._part.may_clone(source)

    def share(self, first: int, count: int, source: int, offset: int, scratch: memoryview) -> int:
        """Let the part file share consecutive whole units with another, as far as the file system can.

        What is shared is a snapshot, and it is verified as the part file has it: however the source changes,
        nothing else slips in. What was not shared, or is wrong, stays missing and is written over later; so
        nobody else may give these slots meanwhile. Those that are held already are left alone.

        Args:
            first, count: the slots.
            source: a descriptor of the other file.
            offset: where in it they begin, in bytes; they lie there one after the other.
            scratch: a buffer of at least a unit to read into.

        Returns:
            Bytes accepted.
        """
        unit, accepted = self.data.pages.unit, 0
        gaps = list(self.have.gaps(first, count, PAGE_UNITS))
        for run in (run for gap in gaps for run in self.data.runs(*gap)):
            hosts = self._layout.locate(run.first, run.units)
            start = offset + (run.first - first) * unit
            for low, high in _stretches(hosts, np.ones(len(hosts), np.bool_), unit):
                if self._part.clone(source, start + low * unit, (high - low) * unit, int(hosts[low])):
                    accepted += self._confirm(run, hosts, low, high, scratch)
        return accepted

    def checkpoint(self, now: float) -> None:
        """Make what is written safe against a crash, when it is time to."""
        if self._part.should_checkpoint(now):
            self._part.checkpoint()

    def pack(self, packing: Packing, progress: Progress | None = None) -> None:
        """Write the image anew with compressed clusters; that file gets the name in :meth:`finish`.

        Args:
            packing: how.
            progress: told of the bytes of data that are done; may end it with an exception.

        Raises:
            NoSpaceError: there is no room for it beside the part file, which can be finished all the same.
            VerificationError: the part file does not hold any more what was written to it.
            OverlaysyncError: the disk failed.
        """
        assert self.have.complete(), "only a whole image is packed"
        self._part.checkpoint()  # packing takes a while, and a crash meanwhile must cost nothing
        image = PackedImage(self._layout.target, packing.compression)
        self._pack = self._part.begin_pack(packing.room)
        packer = Packer(self.data, self._layout, self._part.read_into, packing.compression, progress)
        try:
            with closing(packer.windows()) as windows:
                for window in windows:
                    self._pack.write(image.add(window))
            self._pack.write(image.end())
            self._pack.end(image.size)
        except BaseException:
            self._drop_pack()
            raise

    def finish(
        self,
        *,
        mode: int,
        replaces: Entry | None = None,
        check: Callable[[int], None] | None = None,
        progress: Progress | None = None,
    ) -> int:
        """Write tables and header, and give the file its name.

        Args:
            mode: of the file.
            replaces: what may be replaced; see :meth:`PartFile.publish`.
            check: looks at the finished file, by a descriptor that it closes, and raises if it must not get
                the name.
            progress: is called for each part of the tables, with 0; may end the work with an exception.

        Returns:
            A descriptor of the file, which the caller closes: what is noted of it is to come from there, as
            its name may lead to another by then.

        Raises:
            WouldDestroyError: something else has the name.
            ImageError: as a raw file it would be taken for an image of another format.
        """
        assert self.have.complete(), "an image is published whole or not at all"
        self._refuse_disguise()
        if self._pack is None:
            for offset, data in self._layout.metadata():
                if progress:
                    progress(0)
                self._part.pwrite(offset, [data])
        if check is not None:
            try:
                check(self.open_reader())
            except OverlaysyncError:
                self._abandon()
                raise
        file = self._pack.open_reader() if self._pack else self.open_reader()
        try:
            self._part.publish(mode=mode, replaces=replaces, pack=self._pack)
        except BaseException:
            os.close(file)
            raise
        self._done = True
        return file

    def close(self) -> None:
        """Let go of the part file; unless it was published it stays for a later run. No thread may write."""
        if not self._done:
            self._drop_pack()
            with suppress(OverlaysyncError):
                self._part.checkpoint()
            self._part.close()

    def _drop_pack(self) -> None:
        if self._pack is not None:
            self._pack.drop()
            self._pack = None

    def _abandon(self) -> None:
        self._part.abandon()
        self._done = True

    def _refuse_disguise(self) -> None:
        """Refuse a raw file that begins with a format's header: its guest may have written that."""
        if self._layout.target.format is not Format.RAW:
            return
        name = foreign_format(self._part.pread(0, HEAD_SIZE))
        if name:
            self._abandon()
            raise ImageError(
                f"its guest's data begins like {name}, so it cannot be kept as a raw file",
                path=str(self._part.target),
                hint="keep it as qcow2 or QED: --format qcow2",
            )

    def _write(self, run: SlotRun, part: memoryview, good: NDArray[np.bool_]) -> None:
        hosts = self._layout.locate(run.first, run.units)
        unit = self.data.pages.unit
        for low, high in _stretches(hosts, good, unit):
            self._part.pwrite(int(hosts[low]), [part[low * unit : high * unit]])
            self._hold(run.first + low, high - low)

    def _confirm(
        self, run: SlotRun, hosts: NDArray[np.int64], low: int, high: int, scratch: memoryview
    ) -> int:
        """Hold those of the whole units [low, high), side by side in the file, that are right."""
        unit, accepted = self.data.pages.unit, 0
        step = len(scratch) // unit
        for start in range(low, high, step):
            end = min(start + step, high)
            data = scratch[: (end - start) * unit]
            try:
                if self._part.read_into(int(hosts[start]), data) < len(data):
                    continue
            except OverlaysyncError:
                continue  # A bad sector, shared like the good ones: other bytes will be written elsewhere.
            good = equal_rows(as_digests(hash_units(data, unit)), run.digests[start:end])
            for at, stop in _stretches(hosts[start:end], good, unit):
                self._hold(run.first + start + at, stop - at)
                accepted += (stop - at) * unit
        return accepted

    def _hold(self, first: int, count: int) -> None:
        """Count slots that are verified and in the part file."""
        self._part.note(first, count)
        with self._lock:
            self.have.add(first, count)
            self.written += self.data.span(first, count)

    def _resume(self, progress: Progress | None) -> None:
        """Re-read what the journal claims; only what still verifies counts."""
        for first, count in self._part.claimed:
            if first + count > self.data.count:
                continue
            for at in range(first, first + count, self.batch_slots()):
                part = min(self.batch_slots(), first + count - at)
                if progress:
                    progress(self.data.span(at, part))
                for run in self.data.runs(at, part):
                    self._reread(run)
        self.resumed = self.written = sum(self.data.span(*run) for run in self.have.runs(1 << 30))

    def _reread(self, run: SlotRun) -> None:
        """Count what the part file has of a run and what its digests confirm."""
        unit = self.data.pages.unit
        hosts = self._layout.locate(run.first, run.units)
        for low, high in _stretches(hosts, np.ones(len(hosts), np.bool_), unit):
            size = self.data.span(run.first + low, high - low)
            data = memoryview(self._part.pread(int(hosts[low]), size))
            if len(data) != size:
                continue
            good = equal_rows(as_digests(hash_units(data, unit)), run.digests[low:high])
            for start, end in _stretches(hosts[low:high], good, unit):
                self.have.add(run.first + low + start, end - start)


def _stretches(hosts: NDArray[np.int64], good: NDArray[np.bool_], unit: int) -> Iterator[tuple[int, int]]:
    """[low, high) index ranges of good units that lie one after the other in the file."""
    chosen = np.flatnonzero(good)
    if not len(chosen):
        return
    breaks = np.flatnonzero((np.diff(chosen) != 1) | (np.diff(hosts[chosen]) != unit)) + 1
    for stretch in np.split(chosen, breaks):
        yield int(stretch[0]), int(stretch[-1]) + 1
