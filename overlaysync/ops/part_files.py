"""Part files of images: what one is for, by which a later run knows it again, and what is left of one."""

from __future__ import annotations

import os
from pathlib import Path

from overlaysync.errors import WouldDestroyError
from overlaysync.formats.image import Format
from overlaysync.formats.layout import Target, cluster_size_for
from overlaysync.model.digest import derive
from overlaysync.model.pages import PageList
from overlaysync.store.partial import PartFile

PLAN_CONTEXT = "overlaysync v1 plan"


def discard_part(path: Path, target: Target, pages: PageList, journals: Path) -> None:
    """Remove the part file that a run left which was killed as soon as it had named a packed image.

    Raises:
        InUseError: another process writes it.
    """
    PartFile.discard(path, key=plan_key(pages, target), journal_dir=journals)


def check_free(path: str | Path) -> None:
    """Refuse a name that is taken.

    Raises:
        WouldDestroyError: it is.
    """
    if os.path.lexists(path):
        raise WouldDestroyError(f"{path} exists", hint="choose another name, or remove that file")


def plan_key(pages: PageList, target: Target) -> bytes:
    """Return what a part file is for: another content or layout is another key."""
    text = f"{target.format} {target.cluster_size} {target.backing_name!r} {target.backing_format}"
    return derive(PLAN_CONTEXT, pages.id + text.encode())


def target_for(
    pages: PageList,
    *,
    format: Format,
    cluster_size: int,
    backing_name: bytes | None = None,
    backing_format: Format | None = None,
) -> Target:
    """Return the target that holds ``pages`` in ``format``, in the sender's geometry where the format can."""
    if pages.is_layer != (backing_name is not None):
        raise ValueError("a layer stands on a backing file, a disk does not")
    return Target(
        format=format,
        cluster_size=cluster_size_for(format, cluster_size, pages.unit),
        virtual_size=pages.virtual_size,
        unit=pages.unit,
        blank=pages.blank,
        backing_name=backing_name,
        backing_format=backing_format,
    )
