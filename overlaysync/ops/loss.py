"""Loss: the one place that decides whether removing or replacing a file loses guest data for good.

Guest data count as safe when another image here holds them, when another publisher signed them or a version
that was made from them (so that it had them), or when another machine was seen to have them. Internal
snapshots are guest data that travel nowhere, so they are never safe. What may be lost is for the user to
confirm; what is asked and how is for the command.
"""

from __future__ import annotations

import os
from collections.abc import Collection

from overlaysync.errors import OverlaysyncError, WouldDestroyError
from overlaysync.formats.detect import open_image
from overlaysync.formats.recognition import always
from overlaysync.model.datamap import DataMap
from overlaysync.model.digest import Kind
from overlaysync.model.names import one_field
from overlaysync.ops.hashing import Progress
from overlaysync.ops.library import Known, Library
from overlaysync.ops.verify import Verdict
from overlaysync.store.catalog import ManifestRow

_NAMED = 8
"""Snapshots that are named."""

_UNPUBLISHED = "what its guest wrote is in no other file here, and was never published"


def would_be_lost(
    library: Library,
    known: Known,
    *,
    own: bytes,
    keeping: bool = False,
    going: Collection[str] = (),
) -> str:
    """Return what would be lost with the file of ``known``, as the reason in an error; "" for nothing.

    Args:
        library: knows the other images here, and the manifests.
        known: the file as it is now.
        own: this node's public key: what it published alone is nowhere else.
        keeping: whether the active state is kept elsewhere by the command itself, so that only internal
            snapshots matter.
        going: real paths of other files that go as well, so that they keep nothing.
    """
    snapshots = _snapshots(known.path)
    if snapshots:
        return snapshots
    if keeping or _is_elsewhere(library, known, own, {known.path, *going}):
        return ""
    if library.catalog.manifests(content=known.content.id):
        return "no other machine is known to have this version"
    return _UNPUBLISHED


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


def lost_with(
    library: Library,
    path: str,
    *,
    own: bytes,
    now: float,
    going: Collection[str] = (),
    progress: Progress | None = None,
) -> str:
    """Return what would be lost with the file at ``path``, as :func:`would_be_lost`.

    It is hashed only as far as that may find its content elsewhere: what was never fetched, published or read
    here is not. A file that cannot be read with its master cannot be compared.
    """
    real = os.path.realpath(path)
    catalog = library.catalog
    try:
        if snapshots := _snapshots(real):
            return snapshots
        if not (catalog.held_at(real) or catalog.image_at(real)):
            return _UNPUBLISHED if _has_data(real) else ""
        known = library.examine(real, now=now, progress=progress)
    except OverlaysyncError as error:
        return f"what its guest wrote cannot be compared with other files: {error}"
    return would_be_lost(library, known, own=own, going=going)


def lost_by_repair(library: Library, verdict: Verdict, *, own: bytes) -> str:
    """Return what would be lost if a damaged file were healed, as :func:`would_be_lost`.

    Rot is nobody's work: of a file that was not written to only its internal snapshots count.
    """
    if verdict.known is None:
        return "it cannot be read as an image, so what it holds cannot be compared" if verdict.touched else ""
    return would_be_lost(library, verdict.known, own=own, keeping=not verdict.touched)


def _snapshots(path: str) -> str:
    """What internal snapshots the image itself has, for people; "" for none, or when it cannot be read."""
    try:
        with open_image(path, vouched=always) as image:
            count, names = image.snapshots, image.snapshot_names()
    except (OverlaysyncError, OSError):
        return ""
    if not count:
        return ""
    named = ", ".join(f"'{one_field(name)}'" for name in names[:_NAMED])
    more = f" and {count - _NAMED} more" if named and count > _NAMED else ""
    what = "an internal snapshot" if count == 1 else f"{count} internal snapshots"
    listed = f" ({named}{more})" if named else ""
    return f"it has {what}{listed}, kept in no other file"


def _is_elsewhere(library: Library, known: Known, own: bytes, going: Collection[str]) -> bool:
    """Whether what the guest sees can be had without the file of ``known`` and the others that go."""
    if known.layer is not None and not DataMap(known.layer, library.load_page).count and not _hides(known):
        return True  # nothing was written since it was made
    rows = library.catalog.manifests(content=known.content.id)
    if any(row.publisher != own for row in rows) or library.catalog.holders(known.content.id):
        return True
    if any(_is_followed(library, row, own) for row in rows):
        return True
    inode = known.files[0][:2] if known.files else None
    return any(
        row.path not in going and row.fingerprint[:2] != inode and _stands_alone(library, row.path, going)
        for row in library.holders(known.disk.id)
    )


def _is_followed(library: Library, row: ManifestRow, own: bytes) -> bool:
    """Whether another publisher signed a version that was made from this one: so it had it."""
    versions = library.catalog.versions(row.team, row.name)
    return any(later.publisher != own and row.id in later.follows[:1] for later in versions)


def _has_data(path: str) -> bool:
    """Whether anything is written to the image itself."""
    with open_image(path, vouched=always) as image:
        return any(extent.kind is not Kind.UNALLOCATED for extent in image.extents(0, image.virtual_size))


def _hides(known: Known) -> bool:
    """Whether an overlay without data marks zeros over what its master has."""
    return known.layer is not None and bool(known.layer.indices)


def _stands_alone(library: Library, path: str, going: Collection[str]) -> bool:
    """Whether the image at ``path`` stands on no file that is to go."""
    try:
        with library.open(path) as chain:
            return all(os.path.realpath(image.path) not in going for image in chain.images)
    except (OverlaysyncError, OSError):
        return False
