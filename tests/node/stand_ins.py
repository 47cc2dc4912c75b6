"""A node that keeps nothing, for a reach whose peers are made up."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, cast

from overlaysync.node.node import Node


def forgetful_node(*, teams: Iterable[str] = ()) -> Node:
    """What a reach needs of a node; nothing that is noted is found again."""
    catalog = SimpleNamespace(
        manifests=SimpleNamespace(note_seen=lambda rows, at: None, find=lambda id: None),
        holders=SimpleNamespace(
            note_all=lambda *what, **when: None,
            held_by=lambda *of_whom: set(),
            forget=lambda *what: None,
        ),
        members=SimpleNamespace(note=lambda *what, **when: None),
    )
    key = SimpleNamespace(public=b"k" * 32)
    node = SimpleNamespace(
        teams={name: SimpleNamespace(id=name.encode()) for name in teams}, catalog=catalog, key=key
    )
    return cast(Node, cast(Any, node))
