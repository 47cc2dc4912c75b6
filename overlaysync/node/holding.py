"""What a file holds after a fetch."""

from __future__ import annotations

from overlaysync.node.fetch_types import Fetched
from overlaysync.ops.versions import is_news, settled
from overlaysync.store.catalog import Catalog
from overlaysync.store.held import Held


def note_held(catalog: Catalog, fetched: Fetched) -> None:
    """Note which version the file holds now; one that is newer than what was offered stays noted."""
    manifest, path = fetched.manifest, fetched.known.path
    if fetched.known.content.id != manifest.header.content_id or not fetched.known.files:
        return
    noted = catalog.held.at(path)
    before = noted.manifests if noted else ()
    if noted and fetched.already and not is_news(catalog, before, manifest):
        return
    ids = settled(catalog, manifest, (*before, *fetched.verdict.superseded))
    header = manifest.header
    # Its next version is one of the thing that it is, whatever the file is called here.
    catalog.held.hold(Held(path, header.team, header.name, ids, fetched.known.files[0]))
