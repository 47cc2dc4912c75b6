"""Freeze the disks of VMs: what they hold at one moment, so that the VMs may be started again at once.

All disks are locked first, then each is copied, by sharing blocks where the file system can. Elsewhere one
that was saved before is hashed first, which is faster than copying it, and only what the vault does not have
is copied. What is read from then on is the copies. An image below, a master, is not copied: nobody may write
to it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from overlaysync.errors import InUseError
from overlaysync.formats.chain import Chain
from overlaysync.formats.image import Format
from overlaysync.model.datamap import DataMap
from overlaysync.model.digest import Digests, Kind
from overlaysync.model.fingerprint import Fingerprint
from overlaysync.ops.hashing import Progress
from overlaysync.ops.known import Known
from overlaysync.ops.library import Library
from overlaysync.ops.recovery.saving import stretches
from overlaysync.store.freezing import Range, freeze, freeze_shared

Has = Callable[[Digests], Sequence[bool]]
"""Which of some units are in the vault."""


def _nothing_stored(digests: Digests) -> Sequence[bool]:
    return [False] * len(digests)


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the caller of a freeze is told and asked.

    Attributes:
        progress: told of the bytes copied and hashed; may end it with an exception.
        held: called at the moment that the copies show, while nobody can write to the disks.
        has: tells which units need not be read from the copies.
    """

    progress: Progress
    held: Callable[[], None] = lambda: None
    has: Has = _nothing_stored


@dataclass(frozen=True, slots=True)
class FrozenDisk:
    """A disk as it was at the moment of the freeze.

    Attributes:
        known: its content; its path, geometry and fingerprints are those of the image itself.
        file: a descriptor of the frozen copy.
        format: of the copy.
    """

    known: Known
    file: int
    format: Format

    def open(self, library: Library) -> Chain:
        """Open the copy, on what the image stands on; the caller closes it."""
        return library.open(self.known.path, self.format, file=os.dup(self.file))


@dataclass(frozen=True, slots=True)
class _Copy:
    """A frozen copy, of which the content may not be known yet."""

    path: str
    format: Format
    parent: Known | None
    known: Known | None
    files: tuple[Fingerprint, ...]
    file: int
    noted: bool
    """Whether the content was known before."""


@contextmanager
def frozen(
    library: Library,
    paths: Sequence[str],
    scratch: Path,
    *,
    now: float,
    hooks: Hooks,
) -> Iterator[dict[str, FrozenDisk]]:
    """Yield the frozen disks, by path; their copies are gone when the block ends.

    Args:
        library: opens images.
        paths: of the disks.
        scratch: a directory for the copies.
        now: seconds since 1970.
        hooks: what the caller is told and asked.

    Raises:
        InUseError: a VM writes to a disk, or begins to.
        BaseImageError, ImageError: the master of a disk is missing, or a disk cannot be read.
        NoSpaceError: there is no room for the copies.
    """
    masters = {path: _master(library, path, now, hooks.progress) for path in paths}
    with ExitStack() as files:
        with ExitStack() as locks:
            chains = {path: locks.enter_context(library.open_quiet(path)) for path in paths}
            copies = []
            for path, chain in chains.items():
                copy = _frozen(library, path, chain, masters[path], scratch, hooks)
                files.callback(os.close, copy.file)
                copies.append(copy)
            for copy in copies:
                if chains[copy.path].fingerprints() != copy.files:
                    raise _written(copy.path)
            hooks.held()
        yield {
            copy.path: FrozenDisk(_known(library, copy, now, hooks.progress), copy.file, copy.format)
            for copy in copies
        }


def _master(library: Library, path: str, now: float, progress: Progress) -> Known | None:
    """Return what a disk stands on, hashed while nothing waits for that; None for a standalone image."""
    with library.open(path) as chain:
        below = chain.parent()
        return library.examine_chain(below, now=now, progress=progress) if below else None


def _frozen(
    library: Library,
    path: str,
    chain: Chain,
    parent: Known | None,
    scratch: Path,
    hooks: Hooks,
) -> _Copy:
    files = chain.fingerprints()
    if parent is not None:
        if files[1:] != parent.files:
            raise _written(parent.path)
        library.masters.check_below(chain, parent)
    known = library.cached(chain, parent)
    format, noted = chain.top.geometry.format, known is not None
    file = freeze_shared(chain.top.fd, scratch)
    if file is None:
        if known is None and _was_stored(library, chain, hooks.has):
            known = library.hash_chain(chain, parent, hooks.progress)
        without = _ranges(library, chain, known, hooks.has) if known else ()
        file = freeze(chain.top.fd, scratch, hooks.progress, without=without)
    return _Copy(path, format, parent, known, files, file, noted)


def _was_stored(library: Library, chain: Chain, has: Has) -> bool:
    """Whether the vault has of what the image held when it was last looked at: then most is there still."""
    row = library.catalog.images.at(chain.top.real_path)
    pages = library.catalog.pages.load_list(row.layer or row.disk) if row else None
    if pages is None:
        return False
    data = DataMap(pages, library.load_page)
    return any(any(has(run.digests)) for run in data.runs(0, data.count))


def _ranges(library: Library, chain: Chain, known: Known, has: Has) -> list[Range]:
    """Return where in the file the units lie that the vault has, in order."""
    data = DataMap(known.content, library.load_page)
    unit, size = data.pages.unit, known.content.virtual_size
    found: list[Range] = []
    for run in data.runs(0, data.count):
        units = run.units[np.flatnonzero(has(run.digests))]
        for low, high in stretches(units):
            offset, end = int(units[low]) * unit, min(size, (int(units[high - 1]) + 1) * unit)
            found += (
                (extent.host, extent.host + extent.length)
                for extent in chain.top.extents(offset, end - offset)
                if extent.kind is Kind.DATA and not extent.stored
            )
    return _joined(found)


def _joined(ranges: Iterable[Range]) -> list[Range]:
    """Return ranges in order, those that touch or overlap as one."""
    joined: list[Range] = []
    for start, end in sorted(ranges):
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((start, end))
    return joined


def _known(library: Library, copy: _Copy, now: float, progress: Progress) -> Known:
    """Return the content of a copy, as that of its image; noted, if the image is still as it was."""
    known = copy.known
    if known is not None and copy.noted:
        return known
    if known is None:
        with library.open(copy.path, copy.format, file=os.dup(copy.file)) as chain:
            known = replace(library.hash_chain(chain, copy.parent, progress), files=copy.files)
    library.keep_content(known)
    with suppress(InUseError):  # the VM has begun again: its file is no longer this
        library.confirm(known, now=now)
    return known


def _written(path: str) -> InUseError:
    return InUseError(f"{path} changed while it was copied", hint="shut the VM down, and repeat the command")
