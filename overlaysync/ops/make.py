"""Make images from images here: new overlays, promoted masters, rebased overlays. Always in a new file."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from overlaysync.errors import (
    BaseImageError,
    InUseError,
    OverlaysyncError,
    UsageError,
    VerificationError,
    WouldDestroyError,
)
from overlaysync.formats.chain import Chain
from overlaysync.formats.image import Format, copied_as
from overlaysync.model.datamap import DataMap
from overlaysync.model.digest import (
    MARKERS,
    ZERO,
    Digests,
    Kind,
    as_digests,
    canonicalise,
    equal_rows,
    hash_units,
    short_id,
)
from overlaysync.model.pages import PageList, PageListBuilder
from overlaysync.ops.assemble import Assembly
from overlaysync.ops.audience import sources_of
from overlaysync.ops.doubts import doubt_about
from overlaysync.ops.hashing import Progress, combine
from overlaysync.ops.known import Known, is_read_only
from overlaysync.ops.library import Library
from overlaysync.ops.local import LocalCopier, LocalSource
from overlaysync.ops.page_keeper import PageKeeper
from overlaysync.ops.part_files import target_for
from overlaysync.ops.publish import rebuilt_cluster_size
from overlaysync.store.files import make_directory
from overlaysync.store.made import Made
from overlaysync.store.target import Entry
from overlaysync.units import CHUNK, PAGE_UNITS, ceil_div

MASTER_MODE = 0o444
OVERLAY_MODE = 0o644
_MADE_OF = "it was made of "


def backing_name(overlay: str, base: str) -> bytes:
    """How ``overlay`` names its base: by file name in one directory (so both can move), else by real path.

    A name with a colon gets ``./`` in front, or QEMU would take it for a protocol.
    """
    # The directory alone: the overlay's own name may be a link, and is going to be replaced then.
    directory = os.path.realpath(os.path.dirname(os.path.abspath(overlay)))
    if directory != os.path.dirname(os.path.realpath(base)):
        return os.fsencode(os.path.realpath(base))
    name = os.path.basename(os.path.realpath(base))
    return os.fsencode(f"./{name}" if ":" in name else name)


def check_base(base: Known) -> None:
    """Refuse an overlay that may be written: its owner would start it and ruin what stands on it.

    Raises:
        WouldDestroyError: it is one.
    """
    if base.layer is not None and not is_read_only(base.path):
        raise WouldDestroyError(
            f"{base.path} is an overlay that may be written, and no image can safely stand on it",
            hint=f"promote it to a master, or: chmod a-w '{base.path}'",
        )


class Maker:
    """Writes new images through ``library``; part files keep their journals in ``journals``."""

    def __init__(self, library: Library, journals: Path) -> None:
        self._library = library
        self._journals = journals

    def new(self, path: str, base: Known, *, format: Format, now: float) -> Known:
        """Return an empty overlay on ``base``.

        Raises:
            WouldDestroyError: ``path`` is taken, or ``base`` may be written.
            BaseImageError: ``base`` has changed since it was hashed.
        """
        check_base(base)
        layer = PageList(base.disk.virtual_size, CHUNK, base.disk.id)
        made = self._write(_Work(path, layer, base.disk, format, CHUNK, base, base), now=now)
        return self._pass_doubt(base, made)

    def promote(
        self, known: Known, path: str, *, format: Format, now: float, progress: Progress | None = None
    ) -> Known:
        """Return a standalone read-only master of what the guest of ``known`` sees.

        Raises:
            UsageError: it is a master already.
            VerificationError: the bytes read do not make the disk id known in advance.
        """
        if known.layer is None:
            raise UsageError(
                f"{known.path} is a master already: it has no backing file", hint="copy or fetch it instead"
            )
        self._check_result(known)
        with self._library.open_known(known) as chain:
            _check_same(known, chain)
            work = _Work(path, known.disk, known.disk, format, rebuilt_cluster_size(known), known)
            made = self._write(work, LocalSource(chain, known.disk), now=now, progress=progress)
        return self._pass_doubt(known, made)

    def rebase(
        self,
        known: Known,
        base: Known,
        path: str,
        *,
        now: float,
        replaces: Entry | None = None,
        progress: Progress | None = None,
    ) -> Known:
        """Return an overlay on ``base`` whose guest sees what the guest of ``known`` sees.

        Raises:
            UsageError: ``known`` is a master, or ``base`` stands on it.
            WouldDestroyError: ``path`` is taken, or ``base`` may be written.
            BaseImageError: ``base`` has changed since it was hashed.
        """
        if known.layer is None:
            raise UsageError(
                f"{known.path} is a master: there is nothing to rebase",
                hint="name the overlay first and the master after --onto",
            )
        if known.path in {image.path for image in base.lineage}:
            raise UsageError(
                f"{known.path} cannot stand on itself", hint="choose a master that does not stand on it"
            )
        check_base(base)
        keeper = PageKeeper(self._library.catalog)
        library = self._library
        with library.open_known(known) as chain, library.open_known(base) as below:
            _check_same(known, chain)
            layer = _Difference(known, base, chain, below, self._library).page_list(keeper)
            keeper.flush()
            result = combine(base.disk, layer, self._library.load_page, chain, keeper.keep)
            if result.id != known.disk.id:
                raise VerificationError(
                    f"Rebasing {known.path} would change what its guest sees",
                    why=f"{short_id(result.id)} instead of {short_id(known.disk.id)}",
                    hint=f"overlaysync verify '{base.path}', and '{known.path}'",
                )
            keeper.flush()
            # Not larger than a granule: of a larger cluster only some granules may differ from the base.
            cluster_size = min(rebuilt_cluster_size(known), layer.unit)
            format = copied_as(known.geometry.format)
            work = _Work(path, layer, known.disk, format, cluster_size, known, base, replaces)
            made = self._write(work, LocalSource(chain, layer), now=now, progress=progress)
        return self._pass_doubt(known, made)

    def adopt(self, known: Known, path: str, *, now: float, progress: Progress | None = None) -> Known:
        """Write a copy of an overlay that names the master it was read over, with the same layer.

        Raises:
            WouldDestroyError: ``path`` is taken, or the master may be written.
            BaseImageError: the master has changed since it was hashed.
        """
        if known.layer is None or known.parent is None:
            raise ValueError("only an overlay that was read over a master can be put on it")
        check_base(known.parent)
        with self._library.open_known(known) as chain:
            format, cluster_size = copied_as(known.geometry.format), rebuilt_cluster_size(known)
            work = _Work(path, known.layer, known.disk, format, cluster_size, known, known.parent)
            self._library.catalog.pages.keep_list(known.layer)
            return self._write(work, LocalSource(chain, known.layer), now=now, progress=progress)

    def _pass_doubt(self, source: Known, made: Known) -> Known:
        """Note that nothing proves what was made of an image of which nothing proves what it is."""
        library = self._library
        doubt = doubt_about(library.catalog, source.path, source.files[0], source.content.id)
        if doubt is None:
            return made
        text = doubt.text if doubt.text.startswith(_MADE_OF) else f"{_MADE_OF}{source.path}: {doubt.text}"
        library.catalog.doubts.note(
            replace(doubt, path=made.path, file=made.files[0], content=made.content.id, text=text)
        )
        return replace(made, notes=(*made.notes, text))

    def _check_result(self, known: Known) -> None:
        """Check that the promotion gives what its manifest said."""
        assert known.layer is not None
        for row in self._library.catalog.manifests.matching(content=known.layer.id):
            if row.result is not None and row.result != known.disk.id:
                raise VerificationError(
                    f"{known.path} does not make the disk its manifest promises",
                    why=f"{short_id(known.disk.id)} instead of {short_id(row.result)}",
                    hint=f"overlaysync verify '{known.path}'",
                )

    def _check_unchanged(self, base: Known) -> None:
        """Refuse an overlay whose master has changed since it was hashed: it would show a mixture."""
        row = self._library.known(base.path)
        if row is None or row.disk != base.disk.id:
            raise BaseImageError(
                f"{base.path} has changed since it was verified", hint="start again when nothing writes to it"
            )

    def _made_before(self, work: _Work, source: LocalSource | None, now: float) -> Known | None:
        """Return the image at its place, if it is already what is to be made, by an earlier run perhaps."""
        if not os.path.isfile(work.path):
            return None
        if source is not None and os.path.samefile(work.path, source.chain.top.path):
            return None
        try:
            with self._library.open(work.path, work.format) as chain:
                if chain.virtual_size != work.content.virtual_size:
                    return None
            # What is known of it, if anything, is not believed, and not replaced by what is there now.
            made = self._library.examine_anew(work.path, now=now, format=work.format)
        except (OverlaysyncError, OSError):
            return None
        below = made.parent.path if made.parent else None
        if made.content.id != work.content.id or below != (work.base.path if work.base else None):
            return None
        if work.base is None and not is_read_only(work.path):
            return None
        self._library.confirm(made, now=now)
        self._note_made(made, work, now)
        return made

    def _note_made(self, made: Known, work: _Work, now: float) -> None:
        """Note what was made and of what, in place of what this path held before.

        Whom the new file is for is known by what it was made of, which may be gone when it is shared.
        """
        catalog = self._library.catalog
        disk = made.disk.id if made.layer is None else None
        sources = sources_of(catalog, work.source)
        catalog.made.note(Made(made.path, disk, made.files[0], now, made.content.id, sources))

    def _write(
        self, work: _Work, source: LocalSource | None = None, *, now: float, progress: Progress | None = None
    ) -> Known:
        base = work.base
        target = target_for(
            work.content,
            format=work.format,
            cluster_size=work.cluster_size,
            backing_name=backing_name(work.path, base.path) if base else None,
            backing_format=base.geometry.format if base else None,
        )
        load = self._library.load_page
        make_directory(os.path.dirname(work.path))
        try:
            assembly = Assembly.open(
                Path(work.path), target, DataMap(work.content, load), self._journals, replaces=work.replaces
            )
        except WouldDestroyError:
            if made := self._made_before(work, source, now):
                return made
            raise
        try:
            if source is not None:
                LocalCopier(assembly, load, progress).take(source)
            if not assembly.have.complete():
                raise VerificationError(
                    f"Cannot write {work.path}: some bytes of its source do not match their digests",
                    hint="overlaysync verify PATH, to see which",
                )
            if base:
                self._check_unchanged(base)
            file = assembly.finish(mode=OVERLAY_MODE if base else MASTER_MODE, replaces=work.replaces)
        finally:
            assembly.close()
        made = self._library.remember(assembly.path, work.format, work.content, work.disk, file=file, now=now)
        self._note_made(made, work, now)
        return made


def _check_same(known: Known, chain: Chain) -> None:
    """Refuse to remove an image that was written to since it was hashed: that would be lost.

    Raises:
        InUseError: the image or one below it has changed.
    """
    if chain.fingerprints() != known.files:
        raise InUseError(
            f"{known.path} changed since it was hashed", hint="try again when nothing writes to it"
        )


@dataclass(frozen=True, slots=True)
class _Work:
    """An image to be made of ``source``: ``content`` is written, ``disk`` is what its guest then sees."""

    path: str
    content: PageList
    disk: PageList
    format: Format
    cluster_size: int
    source: Known
    base: Known | None = None
    replaces: Entry | None = None


class _Difference:
    """What must lie over ``base`` so that a guest sees the disk of ``known``."""

    def __init__(self, known: Known, base: Known, chain: Chain, below: Chain, library: Library) -> None:
        assert known.layer is not None
        self._disk = known.disk
        self._base = base.disk
        self._unit = known.layer.unit
        self._ratio = CHUNK // self._unit
        self._chain = chain
        self._below = below
        self._load = library.load_page

    def page_list(self, keeper: PageKeeper) -> PageList:
        """Return the layer, in granules of the original."""
        layer = PageListBuilder(
            virtual_size=self._disk.virtual_size, unit=self._unit, parent=self._base.id, keep=keeper.keep
        )
        granules = ceil_div(self._disk.virtual_size, self._unit)
        for index in self._pages():
            rows = self._granules(index)
            for sub in range(0, len(rows), PAGE_UNITS):
                page = (index * PAGE_UNITS * self._ratio + sub) // PAGE_UNITS
                count = min(PAGE_UNITS, granules - page * PAGE_UNITS)
                if count > 0:
                    layer.add(page, rows[sub : sub + count].tobytes())
        return layer.build()

    def _pages(self) -> list[int]:
        """Return the pages of the disk in which it may differ from the base."""
        disk, base = self._disk, self._base
        below = {index for index in base.indices if index * PAGE_UNITS < disk.unit_count}
        return sorted(index for index in {*disk.indices} | below if disk.page(index) != base.page(index))

    def _granules(self, index: int) -> Digests:
        """Return the layer's digests for page ``index`` of the disk, whole chunks of granules."""
        own = self._disk.load(index, self._load)
        rows = np.zeros((len(own), self._ratio, 32), dtype=np.uint8)
        for at in np.flatnonzero(~self._same(index, own)).tolist():
            rows[at] = self._chunk(index * PAGE_UNITS + at, own[at])
        return rows.reshape(-1, 32)

    def _same(self, index: int, own: Digests) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Which chunks of the page the base shows as they should be; past its end it shows zeros.

        Digests of chunks of different length, at an end, are equal for zeros only.
        """
        theirs = np.empty_like(own)
        theirs[:] = np.frombuffer(ZERO, dtype=np.uint8)
        first = index * PAGE_UNITS
        if first < self._base.unit_count:
            known = self._base.load(index, self._load)[: len(own)]
            theirs[: len(known)] = known
        return equal_rows(own, theirs)

    def _chunk(self, chunk: int, digest: Digests) -> Digests:
        """Return the granules of a chunk that differs."""
        if self._ratio == 1:
            return digest[np.newaxis]
        length = self._disk.unit_length(chunk)
        data, theirs = (memoryview(bytearray(length)) for _ in range(2))
        self._chain.read_into(chunk * CHUNK, data)
        inside = max(0, min(length, self._base.virtual_size - chunk * CHUNK))
        if inside:
            self._below.read_into(chunk * CHUNK, theirs[:inside])
        hashed = as_digests(hash_units(data, self._unit)).copy()
        canonicalise(hashed, self._unit, last_length=length % self._unit or self._unit)
        for granule in range(len(hashed)):
            part = slice(granule * self._unit, (granule + 1) * self._unit)
            if bytes(data[part]) == bytes(theirs[part]):
                hashed[granule] = np.frombuffer(MARKERS[Kind.UNALLOCATED], dtype=np.uint8)
        rows = np.zeros((self._ratio, 32), dtype=np.uint8)
        rows[: len(hashed)] = hashed
        return rows
