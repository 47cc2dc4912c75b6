"""Signed manifests as rows of the catalog."""

from __future__ import annotations

from overlaysync.store.catalog import Catalog
from overlaysync.store.manifests import ManifestRow
from overlaysync.trust.envelope import Manifest


def keep_manifest(catalog: Catalog, manifest: Manifest, *, at: str = "") -> None:
    """Keep a verified manifest in the catalog, seen at that time (ISO 8601 UTC)."""
    catalog.manifests.keep(manifest_row(manifest), at=at)


def manifest_row(manifest: Manifest) -> ManifestRow:
    """Return the catalog's row of a verified manifest."""
    header = manifest.header
    return ManifestRow(
        id=manifest.id,
        envelope=manifest.envelope,
        kind=header.kind,
        team=header.team,
        name=header.name,
        version=header.version,
        publisher=manifest.publisher,
        content=header.content_id,
        parent=header.parent_id,
        result=header.result_id,
        created=header.created,
        label=header.by,
        follows=header.followed,
    )
