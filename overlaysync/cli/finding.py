"""Finding the image that a command's argument means, and what is known of it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from overlaysync.cli.output import Output

if TYPE_CHECKING:
    from overlaysync.formats.image import Format
    from overlaysync.node.node import Node
    from overlaysync.ops.library import Known
    from overlaysync.ops.resolve import Listing
    from overlaysync.trust.envelope import Manifest


def is_path(text: str) -> bool:
    """Whether the user means a file: it exists, or is written like a path."""
    return (
        os.path.exists(text)
        or text.startswith((".", "/", "~"))
        or text.endswith((".qcow2", ".qed", ".raw", ".img"))
    )


def guest_size(path: str) -> int:
    """Guest bytes of an image and all below it: the work of hashing it."""
    from overlaysync.formats.chain import Chain

    with Chain.open(path) as chain:
        return sum(image.virtual_size for image in chain.images)


def examine(node: Node, output: Output, path: str, format: Format | None = None) -> Known:
    """What is in the image, with a progress bar while it is hashed."""
    from overlaysync.formats.chain import Chain
    from overlaysync.node.node import now

    with Chain.open(path, format) as chain:
        size = sum(image.virtual_size for image in chain.images)
    output.begin(f"hashing {os.path.basename(path)}", size)
    try:
        return node.library.examine(path, now=now(), format=format, progress=output.advance)
    finally:
        output.end()


def here(node: Node, output: Output, text: str) -> Known:
    """The image on this machine that a path or reference means.

    Raises:
        NotFoundError: it is not here.
        AmbiguousError: several fit.
    """
    from overlaysync.errors import NotFoundError
    from overlaysync.model.reference import parse_reference
    from overlaysync.ops.resolve import resolve

    if is_path(text):
        return examine(node, output, text)
    reference = parse_reference(text)
    if reference.id_prefix is not None:
        for row in node.catalog.all_images():
            if row.disk.hex().startswith(reference.id_prefix) and node.library.known(row.path):
                return examine(node, output, row.path)
    listings = local_listings(node)
    if not listings and reference.id_prefix is None:
        raise NotFoundError(f"'{reference}' is not on this machine", hint=f"overlaysync fetch {reference}")
    content = resolve(reference, listings)[0].manifest.header
    rows = node.catalog.images_with_layer(content.content_id) or node.catalog.images_with_disk(
        content.content_id
    )
    for row in rows:
        if node.library.known(row.path):
            return examine(node, output, row.path)
    raise NotFoundError(f"'{reference}' is not on this machine", hint=f"overlaysync fetch {reference}")


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
