"""Publish: describe an image and everything below it in signed manifests."""

from __future__ import annotations

import os
from collections.abc import Callable

import msgspec

from overlaysync.errors import UsageError
from overlaysync.formats.image import Format
from overlaysync.formats.recognition import ending_of, fits_ending
from overlaysync.model.datamap import DataMap
from overlaysync.model.digest import format_id
from overlaysync.model.manifest import Header
from overlaysync.model.names import check_name, name_from
from overlaysync.model.pin import Pin
from overlaysync.ops.library import Known, Library
from overlaysync.store.catalog import Catalog, ManifestRow
from overlaysync.trust.envelope import Manifest, open_envelope, sign_header
from overlaysync.trust.keys import NodeKey
from overlaysync.units import CHUNK


def _anybody(team: str) -> bool:
    return True


def stem(path: str) -> str:
    """Return the name that a file gives its content: its own, without the ending of an image."""
    name = os.path.basename(path)
    return name_from(name[: len(name) - len(ending_of(name))])


def image_path(directory: str, name: str, format: Format) -> str:
    """Return where an image goes that the user calls ``name``, with its ending or without.

    Raises:
        UsageError: it is no name, or has another format's ending.
    """
    check_ending(check_name(name), format)
    return os.path.join(directory, name if ending_of(name) else f"{name}.{format.value}")


def check_ending(path: str, format: Format) -> None:
    """Refuse to give an image of ``format`` a name that images of another format have.

    Raises:
        UsageError: ``path`` has such an ending.
    """
    if fits_ending(path, format):
        return
    called, ending = os.path.splitext(os.path.basename(path))
    raise UsageError(
        f"The image is {format.value}, so its name cannot end in {ending}",
        hint=f"call it {called}.{format.value}, or ask for another format with --format, "
        "where the command has that option",
    )


class Publisher:
    """Makes manifests in the name of one node.

    Args:
        library: where images and manifests are known.
        key: signs.
        label: ``user@host-abc234``, for people.
    """

    def __init__(self, library: Library, key: NodeKey, label: str) -> None:
        self._library = library
        self._key = key
        self._label = label

    def publish(
        self,
        known: Known,
        *,
        team: str | None,
        created: str,
        name: str | None = None,
        may_see: Callable[[str], bool] = _anybody,
    ) -> Manifest:
        """The manifest of ``known``: the one that is known for this content and name, or a new version.

        When this node signed it, a name that is nobody's yet becomes its own.

        Args:
            team: whom it is for, "" for everybody; None keeps what the content already has, and what is new
                is for those who have the image below.
            created: ISO 8601 UTC.
            name: instead of the file's stem.
            may_see: whether this node is in a team; the manifests of others are taken last.
        """
        manifest = self._manifest(known, team, created, name, may_see)
        header, key = manifest.header, self._key.public
        if manifest.publisher == key:
            pin = Pin(header.team, header.name, key, created, label=self._label)
            self._library.catalog.pins.pin_first(pin)
        return manifest

    def _manifest(
        self,
        known: Known,
        team: str | None,
        created: str,
        name: str | None = None,
        may_see: Callable[[str], bool] = _anybody,
    ) -> Manifest:
        if team:
            check_name(team, "team")
        name = check_name(name) if name else stem(known.path)
        rows = self._library.catalog.manifests(team=team, name=name, content=known.content.id)
        if rows:
            return open_envelope(_first(rows, may_see).envelope)
        below = self._teams_below(known, may_see)
        header = self._header(known, name, below[0] if team is None else team, created)
        if not {"", header.team}.intersection(below):  # who is not in that team learns no name of its things
            header = msgspec.structs.replace(header, parent_name="")

        def next_version(version: int) -> ManifestRow:
            return _row(sign_header(msgspec.structs.replace(header, version=version), self._key))

        return open_envelope(self._library.catalog.keep_next(header.team, name, next_version).envelope)

    def publish_lineage(
        self,
        known: Known,
        *,
        team: str | None,
        created: str,
        may_see: Callable[[str], bool] = _anybody,
    ) -> list[tuple[Known, Manifest]]:
        """Manifests of ``known`` and of all images below it, top first.

        An image below keeps a manifest that somebody already made for its content, whatever its name; its
        name is not made this node's, for nobody asked to publish it.
        """
        result = [(known, self.publish(known, team=team, created=created, may_see=may_see))]
        for below in list(known.lineage)[1:]:
            rows = self._library.catalog.manifests(content=below.content.id)
            manifest = (
                open_envelope(_first(rows, may_see).envelope)
                if rows
                else self._manifest(below, team, created)
            )
            result.append((below, manifest))
        return result

    def _teams_below(self, known: Known, may_see: Callable[[str], bool]) -> list[str]:
        """The teams that the image below is known to, those that this node is in first; "" for everybody."""
        rows = self._library.catalog.manifests(content=known.parent.content.id) if known.parent else []
        return sorted({row.team for row in rows}, key=lambda team: (not may_see(team), team)) or [""]

    def _header(self, known: Known, name: str, team: str, created: str) -> Header:
        """The header, but for its version."""
        content = known.content
        layer = known.layer is not None
        return Header(
            kind="layer" if layer else "disk",
            team=team,
            name=name,
            version=1,
            id=format_id(content.id),
            virtual_size=content.virtual_size,
            unit=content.unit,
            data_size=DataMap(content, self._library.load_page).size,
            list_size=len(content.encode()),
            parent=format_id(content.parent) if content.parent else "",
            parent_name=stem(known.parent.path) if known.parent else "",
            result=format_id(known.disk.id),
            format=known.geometry.format.value,
            cluster_size=rebuilt_cluster_size(known),
            created=created,
            by=self._label,
        )


def _first(rows: list[ManifestRow], may_see: Callable[[str], bool]) -> ManifestRow:
    return next((row for row in rows if may_see(row.team)), rows[0])


def rebuilt_cluster_size(known: Known) -> int:
    """The cluster size of a faithful copy: the sender's, or the granule where it has subclusters."""
    geometry = known.geometry
    if geometry.format is Format.RAW:
        return CHUNK
    if geometry.subcluster_size < geometry.cluster_size:
        return known.content.unit if known.layer else geometry.cluster_size
    return geometry.cluster_size


def keep_manifest(catalog: Catalog, manifest: Manifest, *, at: str = "") -> None:
    """Keep a verified manifest in the catalog, seen at that time (ISO 8601 UTC)."""
    catalog.keep_manifest(_row(manifest), at=at)


def _row(manifest: Manifest) -> ManifestRow:
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
    )
