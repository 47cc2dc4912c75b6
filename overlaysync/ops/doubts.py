"""Doubts: what was noted of a file that nothing proves to be what it is taken for, and what becomes of it."""

from __future__ import annotations

from dataclasses import replace

from overlaysync.model.fingerprint import Fingerprint
from overlaysync.store.catalog import Catalog
from overlaysync.store.doubts import Doubt


def doubt_about(catalog: Catalog, path: str, file: Fingerprint, content: bytes) -> Doubt | None:
    """Return what was noted of a file, or of its content elsewhere, for want of a proof.

    A guess that was published is still a guess: only a version from before it counts against that.
    """
    doubt = catalog.doubts.about(path, file)
    if doubt is not None:
        return doubt
    doubt = catalog.doubts.by_content().get(content)
    if doubt is None or any(
        is_before(row.created, doubt) for row in catalog.manifests.matching(content=content)
    ):
        return None
    return doubt


def spread_doubt(catalog: Catalog, path: str, file: Fingerprint, content: bytes) -> None:
    """Carry the doubt about a file over to what a guest has made of it since."""
    doubt = catalog.doubts.about(path, file)
    if doubt is not None and (doubt.path, doubt.file, doubt.content) != (path, file, content):
        catalog.doubts.note(replace(doubt, path=path, file=file, content=content))


def is_before(created: str, doubt: Doubt) -> bool:
    """Return whether a version was made (ISO 8601 UTC) before a content was guessed: then it may prove it."""
    return created < doubt.at
