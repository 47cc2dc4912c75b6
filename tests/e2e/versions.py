"""Versions for end-to-end tests: images that are edited, shared for a moment, and forked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from overlaysync.units import KIB
from tests.e2e import disks
from tests.e2e.nodes import Node, Share


def edit(path: Path, word: str, *, offset: int = 0) -> None:
    """Write into an image as its guest would; a fetched master is made writable first, as its user would."""
    path.chmod(0o644)
    disks.write(path, offset, disks.noise(word, 4 * KIB))


def publish(node: Node, path: Path, *options: object) -> dict[str, Any]:
    """Share an image for a moment; what the share says of it."""
    share = node.share(path, *options)
    shared: dict[str, Any] = share.document()["shared"][0]
    share.stop()
    return shared


@contextmanager
def shared(node: Node, *words: object) -> Iterator[Share]:
    """A share that ends with the block."""
    share = node.share(*words)
    try:
        yield share
    finally:
        share.stop()
