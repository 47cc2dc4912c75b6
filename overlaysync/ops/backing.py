"""Backing files that the user meant: an image's header may name any file, and must not make us publish it.

A backing file counts as meant when the user named it, now or in an earlier command, when it was fetched or
published before, or when it lies beside the overlay or in a directory above it. A raw one, whose content
proves little, is only shared when it was named, fetched or published.
"""

from __future__ import annotations

import os
from collections.abc import Collection

from overlaysync.errors import NotAllowedError
from overlaysync.formats.image import Format
from overlaysync.ops.again import ShareAgain
from overlaysync.ops.known import Known
from overlaysync.store.catalog import Catalog


def check_meant(
    known: Known, named: Collection[str], catalog: Catalog, *, sharing: ShareAgain | None = None
) -> None:
    """Refuse an overlay that stands on a file the user has not meant.

    Args:
        known: the overlay; a master is always meant.
        named: real paths of files and directories that the user named.
        catalog: knows what was named, fetched and published before.
        sharing: the command, if it is ``share``, which takes the backing file as well.

    Raises:
        NotAllowedError: it does.
    """
    for image in list(known.lineage)[1:]:
        if not _is_meant(image, known.path, named, catalog, sharing=sharing is not None):
            kind = "a raw file" if image.geometry.format is Format.RAW else "a file elsewhere"
            way = (
                sharing.share(image.path, known.path)
                if sharing
                else (f"overlaysync id '{image.path}', and then this command again")
            )
            raise NotAllowedError(
                f"{known.path} stands on {image.path}, {kind} that was not named",
                why="the header of an image can name any file on this machine, even a private one",
                hint=f"if it is the master, name it: {way}",
            )


def mark_meant(catalog: Catalog, base: Known, directories: Collection[str]) -> None:
    """Note that the user means a master that was found by its content, if it lies in one of ``directories``.

    One that is only known from elsewhere is not marked: a publisher needs no more than its id to name it.
    """
    if os.path.dirname(base.path) in set(map(os.path.realpath, directories)):
        catalog.images.mark_named(base.path)


def _is_meant(image: Known, overlay: str, named: Collection[str], catalog: Catalog, *, sharing: bool) -> bool:
    if any(image.path == path or image.path.startswith(f"{path.rstrip('/')}/") for path in named):
        return True
    if catalog.images.is_named(image.path) or catalog.held.at(image.path):
        return True
    if catalog.manifests.matching(content=image.content.id):
        return True
    beside_or_above = f"{os.path.dirname(overlay)}/".startswith(f"{os.path.dirname(image.path).rstrip('/')}/")
    return beside_or_above and not (sharing and image.geometry.format is Format.RAW)
