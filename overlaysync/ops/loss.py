"""Loss: the one place that decides whether removing or replacing a file loses guest data for good.

Guest data count as safe when another image here holds them, when another machine was seen to have them, or
when another publisher signed them or a version that was made from them: so it had them. That it had them says
nothing once a fork was settled: the side that was given up is held by none that only follows it. Internal
snapshots are guest data that travel nowhere, so they are never safe. What may be lost is for the user to
confirm; what is asked and how is for the command.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence

from overlaysync.errors import OverlaysyncError, WouldDestroyError
from overlaysync.formats.detect import open_image
from overlaysync.formats.recognition import always
from overlaysync.model.datamap import DataMap
from overlaysync.model.history import History
from overlaysync.model.names import one_field
from overlaysync.ops.hashing import Progress
from overlaysync.ops.known import Known, is_blank
from overlaysync.ops.library import Library
from overlaysync.ops.manifest_rows import manifest_row
from overlaysync.ops.verify import Verdict
from overlaysync.store.manifests import ManifestRow
from overlaysync.trust.envelope import Manifest

_NAMED = 8
"""Snapshots that are named."""

_HEIRS = 64
"""Versions made from one that are looked at, the newest first; with more, none is known to be kept."""

NO_OTHER = "no other machine is known to have this version"

_UNPUBLISHED = "what its guest wrote is in no other file here, and was never published"


def would_be_lost(
    library: Library,
    known: Known,
    *,
    own: bytes,
    keeping: bool = False,
    going: Collection[str] = (),
    offered: Manifest | None = None,
) -> str:
    """Return what would be lost with the file of ``known``, as the reason in an error; "" for nothing.

    Args:
        library: knows the other images here, and the manifests.
        known: the file as it is now.
        own: this node's public key: what it published alone is nowhere else.
        keeping: whether the active state is kept elsewhere by the command itself, so that only internal
            snapshots matter.
        going: real paths of other files that go as well, so that they keep nothing.
        offered: what is to take the file's place, and can be had now.
    """
    snapshots = _snapshots(known.path)
    if snapshots:
        return snapshots
    rows = _versions_of(library, known, offered)
    if keeping or _is_elsewhere(library, known, rows, own, {known.path, *going}, offered):
        return ""
    return NO_OTHER if rows else _UNPUBLISHED


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
        if not (catalog.held.at(real) or catalog.images.at(real)):
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
    """Return what internal snapshots the image itself has, for people.

    "" for none, or when it cannot be read.
    """
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


def _versions_of(library: Library, known: Known, offered: Manifest | None) -> list[ManifestRow]:
    """Return the versions that have the content of a file.

    Of the name that is offered also those only seen.
    """
    header = offered.header if offered else None
    seen = library.catalog.manifests.versions(header.team, header.name) if header else []
    rows = [*library.catalog.manifests.matching(content=known.content.id), *seen]
    return list({row.id: row for row in rows if row.content == known.content.id}.values())


def _is_elsewhere(
    library: Library,
    known: Known,
    rows: Sequence[ManifestRow],
    own: bytes,
    going: Collection[str],
    offered: Manifest | None,
) -> bool:
    """Whether what the guest sees can be had without the file of ``known`` and the others that go.

    ``rows`` are the versions that have its content.
    """
    if known.layer is not None and not DataMap(known.layer, library.load_page).count and not _hides(known):
        return True  # nothing was written since it was made
    if any(_lives_on(library, row, own, offered) for row in rows) or _is_held(library, known, rows):
        return True
    inode = known.files[0][:2] if known.files else None
    return any(
        row.path not in going and row.fingerprint[:2] != inode and _stands_alone(library, row.path, going)
        for row in library.holders(known.disk.id)
    )


def _lives_on(library: Library, row: ManifestRow, own: bytes, offered: Manifest | None) -> bool:
    """Whether another publisher signed a version or one that was made from it, and did not give that up.

    What is ``offered`` can be had, whatever versions of others say that they were chosen over it.
    """
    versions = library.catalog.manifests.versions(row.team, row.name)
    here = manifest_row(offered) if offered else None
    if here and (here.team, here.name) == (row.team, row.name):
        versions = [here, *(other for other in versions if other.id != here.id)]
    history = History(versions)
    heirs = history.heirs(row.id) | {row.id}
    theirs = [heir for heir in versions if heir.id in heirs and heir.publisher != own]
    return any(heir is here or not history.chosen_over(heir.id) for heir in theirs[:_HEIRS])


def _is_held(library: Library, known: Known, rows: Sequence[ManifestRow]) -> bool:
    """Whether another machine was seen to have the content, and has not given it up since."""
    holders = library.catalog.holders.of(known.content.id)
    if not holders:
        return False
    over = {settler for row in rows for settler in _chosen_over(library, row)}
    return any(not {holder.node, holder.label} & over for holder in holders)


def _chosen_over(library: Library, row: ManifestRow) -> set[bytes | str]:
    """Return the keys and labels of publishers that settled a fork for another side than a version."""
    versions = library.catalog.manifests.versions(row.team, row.name)
    history = History(versions)
    over = history.chosen_over(row.id)
    settlers = [later for later in versions if later.id in over]
    return {mark for later in settlers for mark in (later.publisher, later.label) if mark}


def _has_data(path: str) -> bool:
    """Whether anything is written to the image itself."""
    with open_image(path, vouched=always) as image:
        return not is_blank(image)


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
