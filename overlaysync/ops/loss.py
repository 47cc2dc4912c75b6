"""Loss: the one place that decides whether removing or replacing a file loses guest data for good.

Guest data count as safe when another image here holds them, when another publisher signed them, or when
another machine was seen to have them. Internal snapshots are guest data that travel nowhere, so they are
never safe. What may be lost is for the user to confirm; what is asked and how is for the command.
"""

from __future__ import annotations

import os

from overlaysync.errors import OverlaysyncError, WouldDestroyError
from overlaysync.formats.chain import Chain
from overlaysync.formats.detect import open_image
from overlaysync.model.datamap import DataMap
from overlaysync.ops.library import Known, Library


def would_be_lost(library: Library, known: Known, *, own: bytes, keeping: bool = False) -> str:
    """Return what would be lost with the file of ``known``, as the reason in an error; "" for nothing.

    Args:
        library: knows the other images here, and the manifests.
        known: the file as it is now.
        own: this node's public key: what it published alone is nowhere else.
        keeping: whether the active state is kept elsewhere by the command itself, so that only internal
            snapshots matter.
    """
    snapshots = snapshot_count(known.path)
    if snapshots:
        count = "an internal snapshot" if snapshots == 1 else f"{snapshots} internal snapshots"
        return f"it has {count}, which are in no other file"
    if keeping or _is_elsewhere(library, known, own):
        return ""
    if library.catalog.manifests(content=known.content.id):
        return "no other machine is known to have this version"
    return "what its guest wrote is in no other file here, and was never published"


def check_nothing_lost(
    library: Library, known: Known, *, own: bytes, keeping: bool = False, what: str, hint: str
) -> None:
    """Refuse to lose guest data.

    Args:
        library, known, own, keeping: as for :func:`would_be_lost`.
        what: what is refused: "Not discarding vm/web.qcow2".
        hint: how to keep the data, and how to lose them on purpose.

    Raises:
        WouldDestroyError: something would be lost.
    """
    why = would_be_lost(library, known, own=own, keeping=keeping)
    if why:
        raise WouldDestroyError(what, why=why, hint=hint)


def snapshot_count(path: str) -> int:
    """Return how many internal snapshots the image itself has; 0 when it cannot be read."""
    try:
        with open_image(path) as image:
            return image.snapshots
    except (OverlaysyncError, OSError):
        return 0


def _is_elsewhere(library: Library, known: Known, own: bytes) -> bool:
    """Whether what the guest sees can be had without the file of ``known``."""
    if known.layer is not None and not DataMap(known.layer, library.load_page).count and not _hides(known):
        return True  # nothing was written since it was made
    rows = library.catalog.manifests(content=known.content.id)
    if any(row.publisher != own for row in rows) or library.catalog.holders(known.content.id):
        return True
    inode = known.files[0][:2] if known.files else None
    return any(
        row.path != known.path and row.fingerprint[:2] != inode and _stands_alone(row.path, known.path)
        for row in library.holders(known.disk.id)
    )


def _hides(known: Known) -> bool:
    """Whether an overlay without data marks zeros over what its master has."""
    return known.layer is not None and bool(known.layer.indices)


def _stands_alone(path: str, removed: str) -> bool:
    """Whether the image at ``path`` does not stand on the file that is to go."""
    try:
        with Chain.open(path) as chain:
            return all(os.path.realpath(image.path) != removed for image in chain.images)
    except (OverlaysyncError, OSError):
        return False
