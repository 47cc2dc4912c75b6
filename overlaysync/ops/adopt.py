"""Adopt: find out which master an overlay belongs to when the path in its header cannot tell.

What an overlay adds to its master has an id only together with that master: its layer id. So the disk on
which its layer id is one that was published, or seen here before, is the one it was made on. Where granules
lie whole in the overlay's clusters (of 4 KiB or more), the id on any disk follows from the overlay alone, and
no master is read or fetched in vain; else each candidate is read.

Left out: bringing a missing master here (:mod:`overlaysync.node.adoption`), writing the new file
(:meth:`overlaysync.ops.make.Maker.adopt`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from overlaysync.errors import InUseError, OverlaysyncError
from overlaysync.model.digest import short_id
from overlaysync.ops.adopt_messages import belongs_elsewhere, disputed
from overlaysync.ops.bases import Places, find_base
from overlaysync.ops.claims import Claim, Grade
from overlaysync.ops.expected import published_contents
from overlaysync.ops.hashing import Progress
from overlaysync.ops.known import Known
from overlaysync.ops.library import Library
from overlaysync.ops.manifest_rows import keep_manifest
from overlaysync.ops.strays import Stray
from overlaysync.store.doubts import Doubt
from overlaysync.store.held import Held


@dataclass(frozen=True, slots=True)
class Proof:
    """A stray, read over the master that it belongs to.

    Attributes:
        known: the overlay over that master.
        words: why it is the one.
        claim: what says so; None when nothing had to, since nothing was written to the overlay.
    """

    known: Known
    words: str
    claim: Claim | None = None


# -- which master -----------------------------------------------------------------------------------


def candidates(stray: Stray, claims: Sequence[Claim], only: bytes | None = None) -> list[bytes]:
    """Return the disks that the stray may stand on, what counts most first.

    Args:
        stray: the overlay. Of an exact one all claims are about it, so its disk is one, or disputed.
        claims: what speaks for which.
        only: the disk that the user named, None for any.

    Raises:
        BaseImageError: the claims that count most speak for another disk than ``only``, or for several.
    """
    ordered = sorted(claims, key=lambda claim: -claim.grade)
    if only and stray.is_empty:
        return [only]
    if not stray.is_exact:
        return [one for one in dict.fromkeys(claim.parent for claim in ordered) if only in (None, one)]
    chosen = {claim.parent: claim for claim in ordered if claim.grade is ordered[0].grade}
    if only in chosen:
        return [only] if only else []
    if only and chosen:
        raise belongs_elsewhere(stray, only, list(chosen.values()))
    if len(chosen) > 1:
        raise disputed(stray, list(chosen.values()))
    return list(chosen)


def prove(
    library: Library, stray: Stray, base: Known, claims: Iterable[Claim], progress: Progress | None = None
) -> Proof | None:
    """Read the stray over ``base``, and return the proof that it belongs there; None when there is none."""
    known = read_over(library, stray, base, progress)
    assert known.layer is not None
    about = [claim for claim in claims if claim.parent == base.disk.id]
    for claim in sorted(about, key=lambda claim: -claim.grade):
        if claim.layer == known.layer.id or claim.grade is Grade.RECORD:
            return Proof(known, claim.words, claim)
    if stray.is_empty and base.disk.virtual_size == stray.layer.virtual_size:
        return Proof(known, "nothing was written to it, so it fits any master of its size")
    return None


def read_over(library: Library, stray: Stray, base: Known, progress: Progress | None = None) -> Known:
    """Return what the stray is on ``base``, whether it belongs there or not."""
    layer = stray.on(base.disk.id) if stray.is_exact else None
    known = library.examine_over(stray.path, base, layer=layer, progress=progress)
    if known.files[0] != stray.file:
        raise InUseError(
            f"{stray.path} changed while it was read", hint="try again when nothing writes to it"
        )
    return known


def on_its_master(
    library: Library, stray: Stray, claims: Sequence[Claim], directories: list[str], *, now: float
) -> Proof | None:
    """Return the stray on the master that it belongs to, if that is known and here.

    Args:
        library: what is known here.
        stray: the overlay.
        claims: what speaks for which master.
        directories: where masters are looked for that are not known yet.
        now: seconds since 1970.

    Raises:
        BaseImageError: the claims contradict each other.
    """
    for parent in candidates(stray, claims):
        called = next((claim.parent_name for claim in claims if claim.parent == parent), "")
        base = find_base(library, parent, Places(directories, called), now=now)
        if base and stray.path not in {image.path for image in base.lineage}:
            proof = prove(library, stray, base, claims)
            if proof:
                return proof
    return None


def already_stands(library: Library, path: str, parent: bytes, *, now: float) -> bool:
    """Whether the overlay at ``path`` opens by itself, on a disk with the id ``parent``."""
    try:
        with library.open(path) as chain:
            below = chain.images[1].path
        return library.examine(below, now=now).disk.id == parent
    except (OverlaysyncError, OSError):
        return False


# -- afterwards --------------------------------------------------------------------------------------


def note_history(library: Library, stray: Stray, made: Known, proof: Proof, *, at: str) -> None:
    """Note that the new file holds what the old one held, so that its next version follows that.

    Args:
        library: where it is noted.
        stray: the old file.
        made: the new one.
        proof: what the old one was found to be.
        at: the present time, ISO 8601 UTC.
    """
    catalog = library.catalog
    settle(library, made, proof)
    held = catalog.held.at(stray.path)
    manifest = proof.claim.manifest if proof.claim else None
    if held:
        unchanged = made.content.id in published_contents(library.catalog, stray.path)
        # Where it was written to since, the note stays that of the file as it was: what differs is work.
        catalog.held.hold(replace(held, path=made.path, file=made.files[0] if unchanged else held.file))
    elif manifest and manifest.header.content_id == made.content.id:
        keep_manifest(catalog, manifest, at=at)
        header = manifest.header
        catalog.held.hold(Held(made.path, header.team, header.name, (manifest.id,), made.files[0]))


def settle(library: Library, known: Known, proof: Proof) -> None:
    """Forget that a file was a guess, when a claim proves the same content."""
    if proof.claim is not None and proof.claim.layer == known.content.id:
        library.catalog.doubts.settle(known.content.id)


def note_unverified(library: Library, made: Known, against: str = "", *, at: str) -> str:
    """Note for good that nothing proves an overlay to belong on its master; returns the words.

    Args:
        library: where it is noted.
        made: the overlay.
        against: what speaks against it, if anything does.
        at: the present time, ISO 8601 UTC.
    """
    assert made.parent is not None
    text = (
        "nothing proves that it belongs on its master: it was put on "
        f"{made.parent.path} ({short_id(made.parent.disk.id)}) by adopt --unverified"
    )
    text += f", although {against}" if against else ""
    library.catalog.doubts.note(Doubt(made.path, made.files[0], made.content.id, text, at))
    return text
