"""Adopt: find out which master an overlay belongs to when the path in its header cannot tell.

What an overlay adds to its master has an id only together with that master: its layer id. So the disk on
which its layer id is one that was published, or seen here before, is the one it was made on. Where granules
lie whole in the overlay's clusters (of 4 KiB or more), the id on any disk follows from the overlay alone, and
no master is read or fetched in vain; else each candidate is read.

Left out: bringing a missing master here (:mod:`overlaysync.node.adoption`), writing the new file
(:meth:`overlaysync.ops.make.Maker.adopt`).
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum, auto

import numpy as np

from overlaysync.errors import BaseImageError, InUseError, OverlaysyncError, UsageError
from overlaysync.formats.chain import Chain
from overlaysync.formats.detect import open_image
from overlaysync.formats.image import Geometry
from overlaysync.formats.locks import hold_read_lock
from overlaysync.formats.names import display
from overlaysync.model.digest import Kind, equal_rows, format_id, kinds_of, short_id
from overlaysync.model.fingerprint import Fingerprint
from overlaysync.model.names import one_field
from overlaysync.model.pages import LoadPage, PageList
from overlaysync.ops.bases import find_base
from overlaysync.ops.doubts import is_before
from overlaysync.ops.expected import published_contents
from overlaysync.ops.hashing import Progress, hash_layer
from overlaysync.ops.known import Known
from overlaysync.ops.library import Library, vouched_by
from overlaysync.ops.page_keeper import PageKeeper
from overlaysync.ops.publish import keep_manifest
from overlaysync.ops.trust_messages import who
from overlaysync.store.doubts import Doubt
from overlaysync.store.held import Held
from overlaysync.store.images import ImageRow
from overlaysync.trust.book import Book, Trust
from overlaysync.trust.envelope import Manifest, open_envelope
from overlaysync.trust.teams import Team
from overlaysync.units import MIN_GRANULE, format_size

_NOWHERE = bytes(32)
"""Stands for the disk below an overlay whose master is not known yet."""
_STILL_THE_SAME = 0.5
"""Part of its granules by which an overlay is known again that was moved and written to."""
_NAMED_CANDIDATES = 3


@dataclass(frozen=True, slots=True)
class Stray:
    """An overlay by itself, without the image below it.

    Attributes:
        path: real path.
        geometry: of the file.
        layer: its own granules. Where granules lie whole in clusters, they are the same over any master.
        backing: the name of its master in its header.
        file: its fingerprint.
        options: of the command that adopts it, which the commands in its errors repeat.
    """

    path: str
    geometry: Geometry
    layer: PageList
    backing: str
    file: Fingerprint
    options: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """The command that adopts it, as it was given, but for what is said of the master."""
        return shlex.join(["overlaysync", "adopt", self.path, *self.options])

    @property
    def is_exact(self) -> bool:
        """Whether its granules do not depend on what is below."""
        return self.geometry.subcluster_size >= MIN_GRANULE

    @property
    def is_empty(self) -> bool:
        """Whether nothing was written to it."""
        return not self.layer.indices

    def on(self, parent: bytes) -> PageList:
        """Return its layer on the disk with the id ``parent``; only right when it is exact."""
        return replace(self.layer, parent=parent)


class ElsewhereError(BaseImageError):
    """Something says that the overlay belongs on another master than the one that the user named."""


class Grade(IntEnum):
    """How much a claim counts; of two that contradict each other the higher one does."""

    RECORD = auto()
    """The file was on that master when it was last read here, and was written to since."""
    ALIKE = auto()
    """Another overlay that was read here holds the same."""
    SEEN = auto()
    """This file was read on that master here, or an unknown publisher describes it."""
    TRUSTED = auto()
    """A team of this node, or a publisher that is trusted for the name, describes it."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Something that says which disk a stray stands on.

    Attributes:
        parent: the disk.
        layer: the layer id that the stray has on it, if the claim is about it.
        grade: how much it counts.
        words: what says so, for people.
        manifest: where that is one.
        parent_name: what its publisher calls the master; "" when not known.
    """

    parent: bytes
    layer: bytes
    grade: Grade
    words: str
    manifest: Manifest | None = None
    parent_name: str = ""


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


def look(path: str, library: Library, progress: Progress | None = None) -> Stray:
    """Hash the overlay at ``path`` by itself.

    Raises:
        UsageError: it is a master.
        ImageError: it cannot be read.
        InUseError: a VM writes to it, or it changed while it was read.
    """
    keeper = PageKeeper(library.catalog)
    with open_image(path, None, vouched_by(library.catalog)) as image:
        hold_read_lock(image.fd, path=path)
        if image.backing is None:
            raise UsageError(f"{path} is a master: it has no backing file", hint=f"overlaysync show '{path}'")
        before = Fingerprint.of(os.fstat(image.fd))
        layer = hash_layer(Chain.alone(image), _NOWHERE, keeper.keep, progress)
        if before != Fingerprint.of(os.fstat(image.fd)):
            raise InUseError(f"{path} changed while it was read", hint="try again when nothing writes to it")
        keeper.flush()
        backing = os.fsdecode(image.backing.name)
        return Stray(os.path.realpath(path), image.geometry, layer, backing, before)


# -- what says where it belongs ----------------------------------------------------------------------


class Claims:
    """Collects what speaks for one master or another.

    Args:
        stray: the overlay.
        library: what is known here.
        book, teams: whose word counts.
    """

    def __init__(self, stray: Stray, library: Library, book: Book, teams: Mapping[str, Team]) -> None:
        self._stray = stray
        self._library = library
        self._book = book
        self._teams = teams
        self._ids: dict[bytes, bytes] = {}
        self._doubts = library.catalog.doubts.by_content()

    def here(self) -> list[Claim]:
        """Return what is known here: by manifests kept or seen, by images, by layers that were read before.

        Overlays to which nothing was written are all alike, so of such a one only its own record counts.
        """
        catalog = self._library.catalog
        self._doubts = doubted = catalog.doubts.by_content()
        rows = [
            row
            for row in catalog.images.all()
            if row.layer not in doubted and not catalog.doubts.about(row.path, row.fingerprint)
        ]
        if self._stray.is_empty:
            own = [row for row in rows if row.path == self._stray.path and self._is_same_file(row)]
            return [claim for row in own if (claim := self._by_image(row) or self._by_record(row))]
        claims = [*self.of(open_envelope(row.envelope) for row in catalog.manifests.layers())]
        claims += [claim for row in rows if (claim := self._by_image(row))]
        if self._stray.is_exact:
            claims += [
                Claim(
                    pages.parent, pages.id, Grade.ALIKE, "an overlay that was read on it here held the same"
                )
                for pages in catalog.pages.lists_of_shape(self._stray.layer.shape)
                if pages.parent not in (None, _NOWHERE) and pages.id not in doubted
            ]
        claims += [claim for row in rows if (claim := self._by_record(row))]
        return claims

    def of(self, manifests: Iterable[Manifest]) -> Iterator[Claim]:
        """Yield what manifests of overlays say, those that are about an overlay like this one."""
        pages = self._stray.layer
        for manifest in () if self._stray.is_empty else manifests:
            header = manifest.header
            if (header.virtual_size, header.unit) != (pages.virtual_size, pages.unit):
                continue
            if header.parent_id is None or not self._may_be(header.parent_id, header.content_id):
                continue
            if not manifest.belongs(self._teams) or self._is_guess(manifest):
                continue
            trust = self._book.trust(manifest.publisher, header.team, header.name)
            grade = Grade.TRUSTED if header.team or trust is not Trust.NO else Grade.SEEN
            words = f"it is {header.full_name}:{header.version} by {who(manifest.publisher, header.by)}"
            parent_name = header.parent_name
            yield Claim(header.parent_id, header.content_id, grade, words, manifest, parent_name)

    def _is_guess(self, manifest: Manifest) -> bool:
        """Whether a manifest may come of what was put on a master here without proof: it proves nothing."""
        doubt = self._doubts.get(manifest.header.content_id)
        return doubt is not None and not is_before(manifest.header.created, doubt)

    def _by_image(self, row: ImageRow) -> Claim | None:
        """Return what an image that is known here says."""
        if row.layer is None or row.parent is None or row.virtual_size != self._stray.layer.virtual_size:
            return None
        if not self._may_be(row.parent, row.layer):
            return None
        if row.path == self._stray.path:
            return Claim(row.parent, row.layer, Grade.SEEN, "it was read on that master here")
        words = f"it holds the same as {row.path}, which was read on that master here"
        return Claim(row.parent, row.layer, Grade.ALIKE, words)

    def _by_record(self, row: ImageRow) -> Claim | None:
        """Return what was known of the file before it was written to, here or where it was moved from."""
        stray = self._stray
        if row.layer is None or row.parent is None or not self._is_same_file(row):
            return None
        moved = row.path != stray.path
        recorded = self._library.catalog.pages.load_list(row.layer)
        if (moved and os.path.lexists(row.path)) or recorded is None:
            return None
        kept = kept_part(recorded, stray.layer, self._library.load_page)
        if kept is None or (moved and kept < _STILL_THE_SAME):
            return None
        words = "it was on that master when it was last read here, and was written to since"
        return Claim(row.parent, row.layer, Grade.RECORD, words)

    def _is_same_file(self, row: ImageRow) -> bool:
        """Whether it is the row of this file, whatever was written to it since."""
        return row.fingerprint[:2] == self._stray.file[:2]

    def _may_be(self, parent: bytes, layer: bytes) -> bool:
        """Whether the stray may have that layer id on that disk."""
        if not self._stray.is_exact:
            return True
        if parent not in self._ids:
            self._ids[parent] = self._stray.on(parent).id
        return self._ids[parent] == layer


def kept_part(before: PageList, now: PageList, load: LoadPage) -> float | None:
    """Return which part of the granules of ``before`` are unchanged in ``now``; 0 when it has none.

    None when ``now`` cannot have come from it by writing: that never gives a granule back to the master.
    """
    if (before.virtual_size, before.unit) != (now.virtual_size, now.unit):
        return None
    total = same = 0
    for index in before.indices:
        old, new = before.load(index, load), now.load(index, load)
        allocated = kinds_of(old) != Kind.UNALLOCATED
        if (kinds_of(new)[allocated] == Kind.UNALLOCATED).any():
            return None
        total += int(np.count_nonzero(allocated))
        same += int(np.count_nonzero(equal_rows(old, new) & allocated))
    return same / total if total else 0.0


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
        raise _belongs_elsewhere(stray, only, list(chosen.values()))
    if len(chosen) > 1:
        raise _disputed(stray, list(chosen.values()))
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
        base = find_base(library, parent, directories, called=called, now=now)
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


# -- refusals ----------------------------------------------------------------------------------------


def unproven(
    stray: Stray, claims: Sequence[Claim], *, only: Known | None, asked: str, guess: str
) -> BaseImageError:
    """Return the error for an overlay whose master is not known.

    Args:
        stray: the overlay.
        claims: what speaks for some master, none of which is here or within reach.
        only: the master that the user named.
        asked: where it was looked for beside this machine: "2 peers"; "" for nowhere.
        guess: path of an image here that is called like the missing master; "" when there is none.
    """
    where = f"known here or offered by {asked}" if asked else "known here"
    size = format_size(stray.layer.virtual_size)
    found = only.path if only else guess
    master = f"'{found}'" if found else "PATH"
    go_on = f"if you are sure of its master: {stray.command} --master {master} --unverified"
    if stray.is_empty and only is None:
        return BaseImageError(
            f"Cannot tell which master {stray.path} belongs to",
            why=f"nothing was written to it, so it fits any master of {size}",
            hint=f"{stray.command} --master {master}",
        )
    wanted = missing_disks(claims)
    if wanted and only is None:
        return BaseImageError(
            f"The master of {stray.path} is neither on this machine nor within reach",
            why=f"it belongs on {' or '.join(wanted)}",
            hint=f"{stray.command} --peer HOST, or with --masters DIR; {go_on}",
        )
    why = f"no overlay of its size ({size}) that is {where} has its content"
    if only:
        why = f"no overlay on {only.path} ({short_id(only.disk.id)}) that is {where} has its content"
    return BaseImageError(
        f"Cannot prove which master {stray.path} belongs to",
        why=f"{why}; its header names {display(stray.backing)}",
        hint=f"ask its publisher to share it, then: {stray.command} --peer HOST; {go_on}",
    )


def missing_disks(claims: Iterable[Claim]) -> list[str]:
    """Return for people the disks that claims speak for, at most a few."""
    named = {
        claim.parent: f"'{one_field(claim.parent_name)}' {format_id(claim.parent)}"
        if claim.parent_name
        else format_id(claim.parent)
        for claim in claims
    }
    return list(named.values())[:_NAMED_CANDIDATES]


def _belongs_elsewhere(stray: Stray, only: bytes, claims: Sequence[Claim]) -> ElsewhereError:
    claim = claims[0]
    return ElsewhereError(
        f"{stray.path} does not belong on {format_id(only)}",
        why=f"it belongs on {format_id(claim.parent)}: {claim.words}",
        hint=f"{stray.command} (without --master)",
    )


def _disputed(stray: Stray, claims: Sequence[Claim]) -> BaseImageError:
    sides = "; ".join(f"on {short_id(claim.parent)}: {claim.words}" for claim in claims[:_NAMED_CANDIDATES])
    return BaseImageError(
        f"{stray.path} may belong on {len(claims)} different masters",
        why=sides,
        hint=f"{stray.command} --master REF, with the id (b3:…) of the right one",
    )
