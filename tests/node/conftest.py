"""A node for tests of what nodes do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from overlaysync.node.node import Node
from tests.node.vaults import member


@pytest.fixture
def node(home: Path) -> Iterator[Node]:
    """One with an empty home."""
    made = Node.open(dict(os.environ))
    yield made
    made.close()


@pytest.fixture
def ann(tmp_path: Path) -> Iterator[Node]:
    """A member of the team red."""
    with member(tmp_path / "a", "ann") as node:
        yield node


@pytest.fixture
def bob(tmp_path: Path) -> Iterator[Node]:
    """Another one."""
    with member(tmp_path / "b", "bob") as node:
        yield node
