"""Finding the image that a command's argument means, and what is known of it."""

from __future__ import annotations

import os
import shlex

from overlaysync.cli.output import Output
from overlaysync.errors import BaseImageError, NotFoundError, OverlaysyncError
from overlaysync.formats.detect import open_image
from overlaysync.formats.image import Format
from overlaysync.formats.recognition import ending_of
from overlaysync.model.reference import parse_reference
from overlaysync.node.adoption import Adoption
from overlaysync.node.node import Node, now
from overlaysync.ops.audience import stem
from overlaysync.ops.known import Known, is_read_only
from overlaysync.ops.library import vouched_by
from overlaysync.ops.present import Present, file_meant, files_meant
from overlaysync.ops.strays import Stray, look
from overlaysync.trust.envelope import Manifest, open_envelope


def is_path(text: str) -> bool:
    """Whether the user means a file: it exists, or is written like a path."""

    if os.path.isdir(text) and not text.startswith((".", "/", "~")):
        return False  # red/ is a team, also beside a directory red
    return os.path.exists(text) or text.startswith((".", "/", "~")) or ending_of(text) != ""


def guest_size(node: Node, path: str, format: Format | None = None) -> int:
    """Return the guest bytes of an image and all below it; 0 when it cannot be read."""

    try:
        return node.library.guest_size(path, format)
    except OverlaysyncError:
        return 0


def examine(
    node: Node, output: Output, path: str, format: Format | None = None, *, accept_master: bool = False
) -> Known:
    """Return what is in the image, with a progress bar while it is hashed.

    ``accept_master`` takes what an overlay stands on for its master, whatever is known of it.
    """

    if not is_path(path):
        raise NotFoundError(
            f"There is no file {path}",
            why="a path is needed here",
            hint="to see the paths of images: overlaysync tree",
        )
    output.begin(f"hashing {os.path.basename(path)}", node.library.guest_size(path, format))
    try:
        known = node.library.examine(
            path, now=now(), format=format, progress=output.advance, accept_master=accept_master
        )
    finally:
        output.end()
    node.catalog.images.mark_named(known.path)
    return known


def master_here(node: Node, output: Output, text: str, *, accept: bool) -> Known:
    """Return the image on this machine that something is to stand on; it must be what it was published as.

    Raises:
        NotFoundError, AmbiguousError: as :func:`here`.
        BaseImageError: it was replaced or written to, and ``accept`` is not set.
    """
    try:
        known = here(node, output, text, accept_master=accept)
    except NotFoundError:
        if is_path(text) or parse_reference(text).id_prefix is not None:
            raise
        # The file of that name was written to: that is the news, with what it held and what it holds.
        known = examine(node, output, _one(node, text, unchanged=False, copies=True), accept_master=accept)
        if not accept:
            node.library.masters.check_as_published(known)
            raise
    if not accept:
        node.library.masters.check_as_published(known)
    return known


def note_writable(output: Output, *overlays: Known) -> None:
    """Say which images below overlays you may still write to: a guest above would see a mixture."""

    for path in dict.fromkeys(below.path for known in overlays for below in list(known.lineage)[1:]):
        if not is_read_only(path) and os.access(path, os.W_OK):
            output.note(f"  {path} is writable: make it read-only with: chmod a-w '{path}'")


def tell_notes(output: Output, *images: Known) -> None:
    """Say what is noted of images: that nothing proves what one is, for instance."""
    for image in images:
        for note in image.notes:
            output.note(f"  {image.path}: {note}")


def look_at(node: Node, output: Output, path: str) -> Stray:
    """Hash an overlay by itself, with a progress bar."""

    with open_image(path, None, vouched_by(node.catalog)) as image:
        size = image.virtual_size
    output.begin(f"hashing {os.path.basename(path)}", size)
    try:
        return look(path, node.library, output.advance)
    finally:
        output.end()


def examine_stray(
    node: Node, output: Output, path: str, directories: list[str], *, accept_master: bool = False
) -> Known:
    """Return what is in the image.

    An overlay whose master is not where its header says is read over it elsewhere.

    Raises:
        BaseImageError: its master is not known, or not here.
    """

    try:
        return examine(node, output, path, accept_master=accept_master)
    except BaseImageError:
        adoption = Adoption(node, look_at(node, output, path), directories, output)
        proof = adoption.here()
        if proof is None:
            raise
    assert proof.known.parent is not None
    output.note(f"{path} is read over {proof.known.parent.path}: {proof.words}")
    return proof.known


def here(node: Node, output: Output, text: str, *, accept_master: bool = False) -> Known:
    """Return the image on this machine that a path or reference means, as published.

    Of copies a master first.

    Raises:
        NotFoundError: it is not here.
        AmbiguousError: several fit.
    """
    if is_path(text):
        return examine(node, output, text, accept_master=accept_master)
    path = _one(node, text, unchanged=True, copies=True)
    return examine(node, output, path, accept_master=accept_master)


def path_of(node: Node, text: str, *, copies: bool = True) -> str:
    """Return the path of the one image here that a path or reference means, also when it has changed.

    Raises:
        NotFoundError: it is not here.
        AmbiguousError: several fit, or (without ``copies``) several files hold it.
    """
    return text if is_path(text) else _one(node, text, unchanged=False, copies=copies)


def paths_of(node: Node, text: str) -> list[str]:
    """Return the paths of all images on this machine that a path or reference means, whatever became of them.

    Raises:
        NotFoundError: there is none.
    """

    if is_path(text):
        return [text]
    return [file.path for file in _files_meant(node, text)]


def overlays_of(node: Node, output: Output, text: str) -> list[str]:
    """Return the paths of the overlays to discard: one of a name; all of a team or pattern, but no masters.

    Raises:
        NotFoundError: there is none.
        AmbiguousError: a name means several files.
    """

    if is_path(text):
        return [path_of(node, text, copies=False)]
    files = _files_meant(node, text)
    if not parse_reference(text).is_many:
        return [path_of(node, text, copies=False)]
    overlays = [file.path for file in files if file.is_overlay]
    for file in files:
        if overlays and not file.is_overlay:
            output.note(f"  {file.path} is a master, and stays")
    return overlays or [file.path for file in files]


def _files_meant(node: Node, text: str) -> list[Present]:
    """Return the files on this machine that a reference means.

    Raises:
        NotFoundError: there is none; a directory of that name is none either.
    """

    try:
        return files_meant(node.library, node.book(), parse_reference(text))
    except NotFoundError as error:
        raise _no_directory(text) or error from error


def _no_directory(text: str) -> NotFoundError | None:
    """Return the error for a word that means nothing here, but is the name of a directory.

    None for another word.
    """

    if not os.path.isdir(text):
        return None
    images = shlex.quote(os.path.normpath(text))
    return NotFoundError(
        f"{text} is a directory, and this command takes images",
        why="no image that is known here has that name or team",
        hint=f"name the images: {images}/*.qcow2",
    )


def _one(node: Node, text: str, *, unchanged: bool, copies: bool) -> str:

    reference = parse_reference(text)
    try:
        return file_meant(node.library, node.book(), reference, unchanged=unchanged, copies=copies).path
    except NotFoundError as error:
        raise _no_directory(text) or error from error


def manifest_of(node: Node, known: Known) -> Manifest | None:
    """Return the version that this content is known as: first the one that the file holds, then by name."""

    held = node.catalog.held.at(known.path)
    ids = held.manifests if held else ()
    rows = node.catalog.manifests.matching(content=known.content.id)
    rows.sort(key=lambda row: (row.id not in ids, row.name != stem(known.path)))
    return open_envelope(rows[0].envelope) if rows else None
