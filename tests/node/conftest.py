"""A node for tests of what nodes do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from overlaysync.node.node import Node


@pytest.fixture
def node(home: Path) -> Iterator[Node]:
    """One with an empty home."""
    made = Node.open(dict(os.environ))
    yield made
    made.close()
