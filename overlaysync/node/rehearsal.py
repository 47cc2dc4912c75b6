"""A node for a drill: this one's key, teams and knowledge, in a home of its own that is thrown away.

Whatever a restore notes, stores or forgets goes there. What the vault of this node has is linked into the
other one's: the objects are immutable, so that both can have the same files.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from overlaysync.node.node import Node
from overlaysync.ops.library import Library
from overlaysync.ops.make import Maker
from overlaysync.ops.publish import Publisher
from overlaysync.ops.vms.beside import describe
from overlaysync.store.catalog import Catalog
from overlaysync.store.home import Home
from overlaysync.store.presence import Presence
from overlaysync.vault.directory import DirectoryObjects
from overlaysync.vault.spaces import PUBLIC


@contextmanager
def rehearsing(node: Node, place: Path, *, forgets: bool) -> Iterator[Node]:
    """Open such a node while the block runs.

    Args:
        node: this one.
        place: directory for its home.
        forgets: whether this machine is itself among what is lost: then the other knows nothing.
    """
    root = place / "home"
    home = Home(root, node.home.config)
    root.mkdir(mode=0o700)
    if not forgets:
        node.catalog.copy_to(home.catalog)
    home.prepare()
    presence, catalog = Presence.begin(root), Catalog.open(home)
    library = Library(catalog, time.thread_time)
    other = replace(
        node,
        home=home,
        catalog=catalog,
        library=library,
        publisher=Publisher(library, node.key, node.label, node.teams, describe),
        maker=Maker(library, home.journals),
        presence=presence,
    )
    try:
        yield other
    finally:
        catalog.close()
        presence.end()


def link_vault(node: Node, other: Node, tag: str) -> bool:
    """Give the other node what the vault of this one has of a space, and of the public one.

    Returns:
        Whether all of it could be linked; what could not is to be pulled instead.
    """
    source = DirectoryObjects(node.home.vault)
    for prefix in (tag, PUBLIC.tag):
        for stored in source.list(f"{prefix}/"):
            target = other.home.vault / stored.name
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                with suppress(FileNotFoundError):  # a newer head has taken its place meanwhile
                    os.link(node.home.vault / stored.name, target, follow_symlinks=False)
            except OSError:
                return False
    return True
