"""Freeze the disks of VMs: what they hold at one moment, so that the VMs may be started again at once.

All disks are locked first, then each is copied, by sharing blocks where the file system can. What is read
from then on is the copies. An image below, a master, is not copied: nobody may write to it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from overlaysync.errors import InUseError
from overlaysync.formats.chain import Chain
from overlaysync.formats.image import Format
from overlaysync.model.fingerprint import Fingerprint
from overlaysync.ops.hashing import Progress
from overlaysync.ops.known import Known
from overlaysync.ops.library import Library
from overlaysync.store.freezing import freeze


@dataclass(frozen=True, slots=True)
class FrozenDisk:
    """A disk as it was at the moment of the freeze.

    Attributes:
        known: its content; its path and the fingerprints are those of the image itself.
        file: a descriptor of the frozen copy.
    """

    known: Known
    file: int

    def open(self, library: Library) -> Chain:
        """Open the copy, on what the image stands on; the caller closes it."""
        return library.open(self.known.path, self.known.geometry.format, file=os.dup(self.file))


@dataclass(frozen=True, slots=True)
class _Copy:
    """A frozen copy, of which the content may not be known yet."""

    path: str
    format: Format
    parent: Known | None
    known: Known | None
    files: tuple[Fingerprint, ...]
    file: int


@contextmanager
def frozen(
    library: Library,
    paths: Sequence[str],
    scratch: Path,
    *,
    now: float,
    progress: Progress,
    held: Callable[[], None] = lambda: None,
) -> Iterator[dict[str, FrozenDisk]]:
    """Yield the frozen disks, by path; their copies are gone when the block ends.

    Args:
        library: opens images.
        paths: of the disks.
        scratch: a directory for the copies.
        now: seconds since 1970.
        progress: told of the bytes copied and hashed; may end it with an exception.
        held: called at the moment that the copies show, while nobody can write to the disks.

    Raises:
        InUseError: a VM writes to one of them, or writes to one meanwhile.
        BaseImageError, ImageError: one has lost its master, or cannot be read.
        NoSpaceError: there is no room for the copies.
    """
    masters = {path: _master(library, path, now, progress) for path in paths}
    with ExitStack() as files:
        with ExitStack() as locks:
            chains = {path: locks.enter_context(library.open_quiet(path)) for path in paths}
            copies = []
            for path, chain in chains.items():
                copy = _frozen(library, path, chain, masters[path], scratch, progress)
                files.callback(os.close, copy.file)
                copies.append(copy)
            for copy in copies:
                if chains[copy.path].fingerprints() != copy.files:
                    raise _written(copy.path)
            held()
        yield {copy.path: FrozenDisk(_known(library, copy, now, progress), copy.file) for copy in copies}


def _master(library: Library, path: str, now: float, progress: Progress) -> Known | None:
    """Return what a disk stands on, hashed while nothing waits for that; None for a standalone image."""
    with library.open(path) as chain:
        below = chain.parent()
        return library.examine_chain(below, now=now, progress=progress) if below else None


def _frozen(
    library: Library, path: str, chain: Chain, parent: Known | None, scratch: Path, progress: Progress
) -> _Copy:
    files = chain.fingerprints()
    if parent is not None:
        if files[1:] != parent.files:
            raise _written(parent.path)
        library.masters.check_below(chain, parent)
    known = library.cached(chain, parent)
    format = chain.top.geometry.format
    return _Copy(path, format, parent, known, files, freeze(chain.top.fd, scratch, progress))


def _known(library: Library, copy: _Copy, now: float, progress: Progress) -> Known:
    """Return the content of a copy, as that of its image; noted, if the image is still as it was."""
    if copy.known is not None:
        return copy.known
    with library.open(copy.path, copy.format, file=os.dup(copy.file)) as chain:
        known = replace(library.hash_chain(chain, copy.parent, progress), files=copy.files)
    library.keep_content(known)
    with suppress(InUseError):  # the VM has begun again: its file is no longer this
        library.confirm(known, now=now)
    return known


def _written(path: str) -> InUseError:
    return InUseError(f"{path} changed while it was copied", hint="shut the VM down, and repeat the command")
