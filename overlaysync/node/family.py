"""The family tree of what a node knows: its files and manifests, and what peers list."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import partial

from overlaysync.model.datamap import DataMap
from overlaysync.node.node import Node
from overlaysync.ops.known import is_as_hashed
from overlaysync.ops.matching import Listing
from overlaysync.ops.tree import Tree, build_tree
from overlaysync.store.images import ImageRow
from overlaysync.trust.envelope import Manifest, open_envelope


def family_of(
    node: Node,
    *,
    only_here: bool,
    listed: Iterable[Listing] = (),
    fits: Callable[[ImageRow], bool] | None = None,
    opened: Callable[[bytes], Manifest] = open_envelope,
) -> tuple[Tree, int]:
    """Return the tree of what this node knows, without files that are gone; and how much it knows in all.

    Args:
        node: knows.
        only_here: leave out what has nothing to do with files here.
        listed: what peers list; what is known here of it as well is one thing.
        fits: whether a row still fits its files; by default they are opened and looked at.
        opened: opens an envelope; the page, which draws the tree again and again, remembers them.
    """
    fits = fits or (lambda row: node.library.known(row.path) is not None)
    rows = [row for row in node.catalog.images.all() if os.path.exists(row.path)]
    other = [row for row in rows if not fits(row)]
    # Of an overlay that was not written to, only what is below can be another.
    astray = {row.path for row in other if row.layer and is_as_hashed(row)}
    changed = {row.path for row in other} - astray
    manifests = node.catalog.manifests.matching()
    sizes: dict[bytes, int] = {}
    for content in {row.layer or row.disk for row in rows} - {row.content for row in manifests}:
        pages = node.catalog.pages.load_list(content)
        if pages is not None:
            sizes[content] = DataMap(pages, node.library.load_page).size
    listings = [*listed]
    seen = {listing.manifest.id for listing in listings}
    known = (opened(row.envelope) for row in manifests)
    listings += [Listing(manifest) for manifest in known if manifest.id not in seen]
    draw = partial(build_tree, rows, listings, changed=changed, master_changed=astray, data_sizes=sizes)
    whole = draw()
    return draw(only_here=True) if only_here else whole, len(whole.rows)
