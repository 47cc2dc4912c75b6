"""Discard: remove overlays that nobody needs any more, and refuse the others."""

from __future__ import annotations

import os
import shlex

from overlaysync.errors import InUseError, WouldDestroyError
from overlaysync.formats.chain import reachable
from overlaysync.formats.detect import open_image
from overlaysync.formats.files import open_regular
from overlaysync.formats.locks import in_use, in_use_for_writing, writer_of
from overlaysync.ops.folders import image_files
from overlaysync.ops.library import vouched_by
from overlaysync.store.catalog import Catalog
from overlaysync.store.files import sync_directory, translate


def check_discardable(path: str, catalog: Catalog) -> None:
    """Refuse what must not be removed.

    Raises:
        WouldDestroyError: it is a master, or overlays stand on it.
        InUseError: QEMU has it open.
        ImageError: it is not an image.
    """
    # It alone: an overlay whose master is gone is good for nothing else.
    image = open_image(path, vouched=vouched_by(catalog))
    image.close()
    if image.backing is None:
        raise WouldDestroyError(
            f"{path} is a master, not an overlay",
            hint="remove a master by hand, once no overlay stands on it",
        )
    check_unneeded(path, catalog)


def check_unneeded(path: str, catalog: Catalog, *, instead: str = "") -> None:
    """Refuse a file that a VM runs on or that overlays stand on; any other may be removed or replaced.

    Args:
        path: the file.
        catalog: knows what stands on it.
        instead: the command that keeps it and does what is wanted otherwise; "" for none.

    Raises:
        WouldDestroyError, InUseError: which.
    """
    fd = open_regular(path)
    try:
        if in_use(fd):
            who = writer_of(fd) or "another program"
            written = in_use_for_writing(fd)
            hint = (
                "shut the VM down first" if written else "end what reads it first: a VM, or overlaysync share"
            )
            raise InUseError(f"{path} is in use", why=f"by {who}", hint=hint)
        status = os.fstat(fd)
    finally:
        os.close(fd)
    standing = standing_on(path, (status.st_dev, status.st_ino), catalog)
    if standing:
        raise WouldDestroyError(
            f"{path} has overlays on it",
            why=", ".join(standing),
            hint=f"to have both: {instead}; or promote, rebase or discard those first"
            if instead
            else "promote, rebase or discard those first",
        )


def standing_on(path: str, inode: tuple[int, int], catalog: Catalog) -> list[str]:
    """Paths of images that stand on the file: known ones, and those beside it."""
    real = os.path.realpath(path)
    known = [row.path for row in catalog.all_images()]
    found = []
    for other in sorted({*known, *map(os.path.realpath, image_files([os.path.dirname(real)]))}):
        if other == real or not os.path.exists(other):
            continue
        if any(below[:2] == inode for below in reachable(other)[1:]):
            found.append(other)
    return found


def discard(path: str, catalog: Catalog) -> None:
    """Remove the overlay, after :func:`check_discardable`; a symlink that led to it goes too.

    Raises:
        NotAllowedError: the directory is not writable. And as :func:`check_discardable`.
    """
    check_discardable(path, catalog)
    real = os.path.realpath(path)
    try:
        os.unlink(real)
        if os.path.islink(path):
            os.unlink(path)
        sync_directory(os.path.dirname(real))
    except OSError as error:
        directory = os.path.dirname(real)
        hint = f"it takes the right to write to its directory: ls -ld {shlex.quote(directory)}"
        raise translate(error, f"Cannot remove {path}", directory=directory, hint=hint) from error
    catalog.forget_image(real)
