"""The announcer of a node: it looks for a free name while the node prepares what it will share."""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager

from overlaysync.discovery.announcer import Announcer
from overlaysync.net.faults import Faults
from overlaysync.node.node import Node


@asynccontextmanager
async def announcing(
    node: Node, interfaces: Iterable[str] = (), faults: Faults | None = None
) -> AsyncIterator[Announcer]:
    """Give a node's announcer, which looks for a free name while the block runs, and says goodbye after it.

    Args:
        node: will be announced, once :func:`overlaysync.node.serving.serve` knows what with.
        interfaces: names of those to use; none for all that are usual.
        faults: unexpected exceptions go there.
    """
    with _own_label(node) as label:
        announcer = Announcer(label, interfaces=tuple(interfaces), faults=faults)
        announcer.look_for_name(patient=True)
        try:
            yield announcer
        finally:
            await announcer.stop()


@contextmanager
def _own_label(node: Node) -> Iterator[str]:
    """Yield the node's label for its first share, and one with the process's number for others of that home.

    mDNS finds out about two of one name, but not always when they begin within a second.
    """
    lock = os.open(node.home.root / "sharing.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        label = node.label
    except OSError:  # another has it, or the file system knows no locks
        label = f"{node.label}-{os.getpid()}"
    try:
        yield label
    finally:
        os.close(lock)
