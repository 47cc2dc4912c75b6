"""Which machines have a version: those that serve it now, those where it is in use, those seen before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from overlaysync.model.names import one_field
from overlaysync.node.node import Node, timestamp
from overlaysync.ops.dates import ago
from overlaysync.ops.in_use import Usage


def holders(
    node: Node, content: bytes, labels: Sequence[str], in_use: Sequence[Usage]
) -> list[dict[str, Any]]:
    """Return the JSON form of all that have a content: the nodes that serve it now first.

    Args:
        node: knows which nodes were seen to have it.
        content: its id.
        labels: of the nodes that serve it now.
        in_use: nodes where a VM uses the file that held it; they have it no longer.
    """

    now = timestamp()
    found = [{"node": label, "now": True, "seen_at": now} for label in dict.fromkeys(labels)]
    known = {*labels, *(usage.label for usage in in_use)}
    for holder in node.catalog.holders.of(content):
        if holder.label not in known:
            known.add(holder.label)
            found.append({"node": holder.label, "now": False, "seen_at": holder.seen_at})
    return found


def usage_fields(in_use: Sequence[Usage]) -> list[dict[str, Any]]:
    """Return the JSON form of where a version is in use."""
    return [{"node": usage.label, "address": usage.address, "since": usage.since or None} for usage in in_use]


def holder_words(holder: dict[str, Any], now: float) -> str:
    """Return one holder for people."""

    label = one_field(holder["node"])
    return f"{label}, now" if holder["now"] else f"{label}, last seen {ago(holder['seen_at'], now)}".rstrip()


def seen_words(holder: dict[str, Any], now: float) -> str:
    """Return for people where a version was last seen, and how long ago."""
    return f"{one_field(holder['node'])} {ago(holder['seen_at'], now)}".rstrip()
