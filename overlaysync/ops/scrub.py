"""Reads an image that is served from its disk once more, and compares it with what was published.

Unlike verify it reads on one thread, a window at a time with a pause before each, does not trust the page
cache, keeps nothing, and takes no lock: the caller finds out whether the file changed meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from overlaysync.errors import ImageError
from overlaysync.formats.chain import Chain
from overlaysync.model.digest import as_digests, equal_rows
from overlaysync.model.pages import LoadPage, PageList, page_digest
from overlaysync.ops.hashing import Pause, RegionHasher
from overlaysync.ops.verify import Damage, joined
from overlaysync.units import PAGE_UNITS


@dataclass(frozen=True, slots=True)
class Finding:
    """What reading again has found.

    Attributes:
        damage: runs of guest bytes that are not what they were; empty when all is well.
        unreadable: why it cannot be read as an image at all; "" when it can.
    """

    damage: tuple[Damage, ...]
    unreadable: str = ""


def recheck(served: Chain, content: PageList, load: LoadPage, *, pause: Pause) -> Finding:
    """Compare the disk, or the top layer, of an image that is open to be served with ``content``.

    The files are those that are served, whatever their names lead to by now; their tables are read again.

    Raises:
        OverlaysyncError: what ``pause`` raises.
    """
    try:
        _drop_cached(served)
        with served.again() as chain:
            if chain.virtual_size != content.virtual_size:
                return Finding((Damage(0, content.virtual_size),), "it has another virtual size")
            return Finding(tuple(joined(_differing(chain, content, load, pause))))
    except ImageError as error:
        return Finding((Damage(0, content.virtual_size),), error.reason)


def _drop_cached(chain: Chain) -> None:
    """Let the kernel forget what it has read of the image: what is on the disk now is to be read."""
    for image in chain.images:
        os.posix_fadvise(image.fd, 0, 0, os.POSIX_FADV_DONTNEED)


def _differing(chain: Chain, content: PageList, load: LoadPage, pause: Pause) -> Iterator[tuple[int, int]]:
    """[first, last) guest bytes of every unit that differs, rising; all of a page that cannot be read."""
    hasher = RegionHasher(chain, content.unit, content.is_layer, pause=pause)
    for index in sorted({*hasher.busy_pages(), *content.indices}):
        start = index * PAGE_UNITS * content.unit
        try:
            body = hasher.page(index)
        except (ImageError, OSError):
            yield start, min(start + PAGE_UNITS * content.unit, content.virtual_size)
            continue
        digest = content.page(index)
        if page_digest(body) == digest or (digest is None and body == content.blank_page(index)):
            continue
        known = content.load(index, load)
        for at in np.flatnonzero(~equal_rows(as_digests(body), known)).tolist():
            offset = start + at * content.unit
            yield offset, offset + content.unit_length(index * PAGE_UNITS + at)
