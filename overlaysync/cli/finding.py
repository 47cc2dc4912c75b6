"""Finding the image that a command's argument means, and what is known of it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from overlaysync.cli.output import Output

if TYPE_CHECKING:
    from overlaysync.formats.image import Format
    from overlaysync.model.reference import Reference
    from overlaysync.node.node import Node
    from overlaysync.ops.adopt import Stray
    from overlaysync.ops.library import Known
    from overlaysync.ops.resolve import Listing
    from overlaysync.trust.envelope import Manifest


def is_path(text: str) -> bool:
    """Whether the user means a file: it exists, or is written like a path."""
    from overlaysync.formats.recognition import ending_of

    return os.path.exists(text) or text.startswith((".", "/", "~")) or ending_of(text) != ""


def guest_size(node: Node, path: str, format: Format | None = None) -> int:
    """Return the guest bytes of an image and all below it; 0 when it cannot be read."""
    from overlaysync.errors import ImageError

    try:
        return node.library.guest_size(path, format)
    except ImageError:
        return 0


def examine(node: Node, output: Output, path: str, format: Format | None = None) -> Known:
    """What is in the image, with a progress bar while it is hashed."""
    from overlaysync.errors import NotFoundError
    from overlaysync.node.node import now

    if not is_path(path):
        raise NotFoundError(
            f"There is no file {path}", why="a path is needed here", hint="overlaysync tree, for paths"
        )
    output.begin(f"hashing {os.path.basename(path)}", node.library.guest_size(path, format))
    try:
        known = node.library.examine(path, now=now(), format=format, progress=output.advance)
    finally:
        output.end()
    node.catalog.mark_named(known.path)
    return known


def look_at(node: Node, output: Output, path: str) -> Stray:
    """Hash an overlay by itself, with a progress bar."""
    from overlaysync.formats.detect import open_image
    from overlaysync.ops.adopt import look
    from overlaysync.ops.library import vouched_by

    with open_image(path, None, vouched_by(node.catalog)) as image:
        size = image.virtual_size
    output.begin(f"hashing {os.path.basename(path)}", size)
    try:
        return look(path, node.library, output.advance)
    finally:
        output.end()


def examine_stray(node: Node, output: Output, path: str, directories: list[str]) -> Known:
    """What is in the image; an overlay whose master is not where its header says is read over it elsewhere.

    Raises:
        BaseImageError: its master is not known, or not here.
    """
    from overlaysync.errors import BaseImageError
    from overlaysync.node.adoption import Adoption

    try:
        return examine(node, output, path)
    except BaseImageError:
        adoption = Adoption(node, look_at(node, output, path), directories, output)
        proof = adoption.here()
        if proof is None:
            raise
    assert proof.known.parent is not None
    output.note(f"{path} is read over {proof.known.parent.path}: {proof.words}")
    return proof.known


def here(node: Node, output: Output, text: str) -> Known:
    """The image on this machine that a path or reference means, masters before overlays.

    Raises:
        NotFoundError: it is not here.
        AmbiguousError: several fit.
    """
    from overlaysync.errors import NotFoundError
    from overlaysync.model.reference import parse_reference

    if is_path(text):
        return examine(node, output, text)
    reference = parse_reference(text)
    for path in _paths_of(node, reference):
        return examine(node, output, path)
    raise NotFoundError(
        f"'{reference}' is not on this machine",
        hint=f"overlaysync fetch {reference}, or give the path of the image",
    )


def _paths_of(node: Node, reference: Reference) -> list[str]:
    """Images here that fit: by id, by the name they were published under, or by the name of the file."""
    from overlaysync.errors import NotFoundError
    from overlaysync.ops.believe import meant_here
    from overlaysync.ops.publish import stem
    from overlaysync.ops.resolve import fits, resolve

    rows = [row for row in node.catalog.all_images() if node.library.known(row.path)]
    rows.sort(key=lambda row: row.layer is not None)
    if reference.id_prefix is not None:
        found = [
            row
            for row in rows
            if any(
                id is not None and id.hex().startswith(reference.id_prefix) for id in (row.disk, row.layer)
            )
        ]
        return [row.path for row in found]
    listings = local_listings(node)
    meant = meant_here(reference, listings, node.book())
    try:
        content = resolve(reference, meant)[0].manifest.header.content_id
        return [row.path for row in rows if content == (row.layer or row.disk)]
    except NotFoundError:
        others = {item.manifest.header.content_id for item in listings if fits(reference, item)}
        return [
            row.path
            for row in rows
            if reference.team is None
            and stem(row.path) == reference.name
            and (row.layer or row.disk) not in others
        ]


def check_membership(node: Node, reference: Reference) -> None:
    """Nothing of a team is listed to others, so there is no use in looking for it.

    Raises:
        NotFoundError: ``reference`` names a team that this node is not in.
    """
    from overlaysync.errors import NotFoundError

    if reference.team is not None and not node.may_see(reference.team):
        raise NotFoundError(
            f"'{reference}' cannot be seen here",
            why=f"this node is not in team '{reference.team}'",
            hint=f"overlaysync team join {reference.team}, with the team's code",
        )


def local_listings(node: Node) -> list[Listing]:
    """What this node knows by name and has here."""
    from overlaysync.ops.resolve import Listing
    from overlaysync.trust.envelope import open_envelope

    present = {row.layer or row.disk for row in node.catalog.all_images() if node.library.known(row.path)}
    return [
        Listing(open_envelope(row.envelope)) for row in node.catalog.manifests() if row.content in present
    ]


def manifest_of(node: Node, known: Known) -> Manifest | None:
    """The manifest this content is known by here, the one with the file's name first."""
    from overlaysync.ops.publish import stem
    from overlaysync.trust.envelope import open_envelope

    rows = node.catalog.manifests(content=known.content.id)
    rows.sort(key=lambda row: row.name != stem(known.path))
    return open_envelope(rows[0].envelope) if rows else None
