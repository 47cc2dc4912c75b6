"""Present: which files on this machine a reference means, and whether that is one.

A file counts by the versions that it holds, and one that was written to since by those that it held: a VM's
work is not lost sight of because the VM has run. Two files with the same content are copies of one thing.
Left out: what peers have (:mod:`overlaysync.ops.name_policy`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from overlaysync.errors import AmbiguousError, NotFoundError
from overlaysync.formats.recognition import IMAGE_ENDINGS
from overlaysync.model.digest import short_id
from overlaysync.model.history import History
from overlaysync.model.names import meant
from overlaysync.model.reference import Reference
from overlaysync.ops.audience import stem
from overlaysync.ops.known import is_read_only
from overlaysync.ops.library import Library
from overlaysync.ops.matching import fits_name
from overlaysync.store.images import ImageRow
from overlaysync.store.manifests import ManifestRow
from overlaysync.trust.book import Book


@dataclass(frozen=True, slots=True)
class Present:
    """An image file on this machine.

    Attributes:
        path: real path.
        row: what is known of it, or was before it was written to.
        stale: whether it was written to since it was hashed, so that what it holds is not known.
        changed: whether it was written to since it was fetched, published or hashed.
        versions: those that it holds; of a changed one, those that it held.
    """

    path: str
    row: ImageRow
    stale: bool
    changed: bool
    versions: tuple[ManifestRow, ...] = ()

    @property
    def is_overlay(self) -> bool:
        return self.row.layer is not None

    @property
    def content(self) -> bytes:
        """The content id of what is known of it."""
        return self.row.layer or self.row.disk


def present_files(library: Library) -> list[Present]:
    """Return all image files that are known here and still exist, masters before overlays, then by path."""
    rows = [row for row in library.catalog.images.all() if os.path.isfile(row.path)]
    return sorted((_present(library, row) for row in rows), key=lambda file: (file.is_overlay, file.path))


def files_meant(library: Library, book: Book, reference: Reference) -> list[Present]:
    """Return every file here that ``reference`` may mean, whichever version it holds.

    Raises:
        NotFoundError: there is none.
    """
    files = present_files(library)
    found = _fitting(reference, files, book)
    if not found:
        raise NotFoundError(
            f"'{reference}' is not on this machine",
            why=_near(reference, files),
            hint="overlaysync ls --local, for the names that are; overlaysync tree, for all files",
        )
    return found


def file_meant(
    library: Library, book: Book, reference: Reference, *, unchanged: bool = False, copies: bool = True
) -> Present:
    """Return the one file here that ``reference`` means.

    A name without a version means the newest version that is here. Of copies the first is taken, masters and
    read-only files before others.

    Args:
        library, book: know what is here, and whose the names are.
        reference: means one thing, or what only one file here fits.
        unchanged: whether only a file counts that still holds what was fetched, published or hashed.
        copies: whether one of several copies may be taken for all.

    Raises:
        NotFoundError: nothing fits.
        AmbiguousError: several things fit; none is chosen.
    """
    files = present_files(library)
    found = _fitting(reference, files, book)
    kept = [file for file in found if not (unchanged and _is_changed(reference, file))]
    if not kept:
        raise _not_here(reference, files, found)
    if reference.id_prefix is None and reference.version is None:
        kept = _newest(reference, kept, library)
    things = {_thing(reference, file) for file in kept}
    if len(things) > 1 or (len(kept) > 1 and not copies):
        raise AmbiguousError(
            f"'{reference}' means {len(kept)} files on this machine",
            candidates=tuple(map(describe_file, kept)),
            hint="name one by its path",
        )
    return min(kept, key=lambda file: (file.is_overlay, not is_read_only(file.path), file.path))


def describe_file(file: Present) -> str:
    """Return one line to choose by: path, what it is, which versions it holds or held."""
    names = ", ".join(row.title for row in file.versions) or stem(file.path)
    kind = "overlay" if file.is_overlay else "master"
    changed = ", written to since" if file.changed else ""
    return f"{file.path}  {kind} {names}  {short_id(file.content)}{changed}"


def _present(library: Library, row: ImageRow) -> Present:
    catalog, content = library.catalog, row.layer or row.disk
    noted = catalog.held.at(row.path)
    held = [one for one in map(catalog.manifests.find, noted.manifests if noted else ()) if one]
    fresh = library.known(row.path) is not None
    if fresh and (not held or any(one.content == content for one in held)):
        same = [one for one in held if one.content == content]
        others = [one for one in catalog.manifests.matching(content=content) if one not in same]
        return Present(row.path, row, stale=False, changed=False, versions=(*same, *others))
    versions = tuple(held) or tuple(catalog.manifests.matching(content=content))
    return Present(row.path, row, stale=not fresh, changed=True, versions=versions)


def _fitting(reference: Reference, files: Sequence[Present], book: Book) -> list[Present]:
    """Files that fit by id, by the name they were published under, or else by the name of the file."""
    if reference.peer is not None:
        return []  # what a peer has is not here
    if reference.id_prefix is not None:
        return [file for file in files if _ids(reference, file)]
    named = [file for file in files if any(_fits(reference, row) for row in file.versions)]
    if reference.is_many:
        return [*named, *(file for file in _by_file_name(reference, files) if file not in named)]
    own = [
        file for file in named if any(_fits(reference, row) and _is_meant(row, book) for row in file.versions)
    ]
    return own or [file for file in _by_file_name(reference, files) if file not in named]


def _by_file_name(reference: Reference, files: Iterable[Present]) -> list[Present]:
    """Files that were never published under another name."""
    if reference.team is not None or reference.version is not None or reference.name is None:
        return []
    name = reference.name
    fits: Callable[[str], bool] = (
        (lambda path: fnmatchcase(stem(path), name))
        if reference.is_pattern
        else (lambda path: stem(path) == name)
    )
    return [file for file in files if fits(file.path)]


def _near(reference: Reference, files: Iterable[Present]) -> str:
    """Return the question whether a name on this machine was meant; "" for none."""
    if reference.name is None or reference.peer is not None:
        return ""
    rows = [(row.team, row.name) for file in files for row in file.versions]
    names = {name for team, name in rows if team == (reference.team or "")}
    if reference.team is None:
        names |= {stem(file.path) for file in files}
    mark = f"{reference.team}/" if reference.team else ""
    return meant(f"{mark}{reference.name}", {f"{mark}{name}" for name in names})


def _fits(reference: Reference, row: ManifestRow) -> bool:
    return fits_name(reference, row.team, row.name) and reference.version in (None, row.version)


def _is_meant(row: ManifestRow, book: Book) -> bool:
    """Whether a version is a team's, its name's publisher's or this node's own, and of no distrusted one."""
    if book.refuses(row.publisher):
        return False
    return bool(row.team) or row.publisher == book.own or not book.is_other(row.publisher, "", row.name)


def _newest(reference: Reference, files: list[Present], library: Library) -> list[Present]:
    """Return the files whose version no other file's follows, name by name; files of no version stay."""
    rows = {row.id: row for file in files for row in file.versions if _fits(reference, row)}
    names = {(row.team, row.name) for row in rows.values()}
    seen = [row for team, name in names for row in library.catalog.manifests.versions(team, name)]
    newest = {row.id for row in History([*seen, *rows.values()]).newest(rows.values())}
    return [
        file
        for file in files
        if any(row.id in newest for row in file.versions)
        or not any(_fits(reference, row) for row in file.versions)
    ]


def _thing(reference: Reference, file: Present) -> bytes | str:
    """Return what two files have in common that are copies of one thing; a changed file is like no other."""
    if _is_changed(reference, file):
        return file.path
    return min(_ids(reference, file)) if reference.id_prefix is not None else file.content


def _is_changed(reference: Reference, file: Present) -> bool:
    """Whether the file is not what the reference names: an id means bytes, a name what was published."""
    return file.stale if reference.id_prefix is not None else file.changed


def _ids(reference: Reference, file: Present) -> list[bytes]:
    """Return the ids of a file that the reference begins."""
    prefix = reference.id_prefix or ""
    return [id for id in (file.row.disk, file.row.layer) if id is not None and id.hex().startswith(prefix)]


def _not_here(reference: Reference, files: Sequence[Present], changed: Sequence[Present]) -> NotFoundError:
    if changed:
        return NotFoundError(
            f"'{reference}' is not on this machine as it was published",
            why=f"{changed[0].path} was written to since",
            hint=f"overlaysync fetch {reference}, or give the path of the image",
        )
    # People leave the ending out, and a path of two parts then reads like an image of a team.
    near = next((path for ending in IMAGE_ENDINGS if os.path.isfile(path := f"{reference}{ending}")), "")
    what = f"'{reference}' is not on this machine"
    if near:
        return NotFoundError(what, why=f"there is a file {near}", hint=f"the same command with {near}")
    hint = f"overlaysync fetch {reference}, or give the path of the image"
    return NotFoundError(what, why=_near(reference, files), hint=hint)
