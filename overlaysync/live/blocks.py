"""Which of QEMU's block nodes writes to a file.

Names and order of nodes change from start to start, and a filter may lie above the node that is meant: what
counts is the file that a node itself has open, by device and inode.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence

from overlaysync.live.answers import Node
from overlaysync.live.processes import Process
from overlaysync.live.targets import Source


def nodes_for(sources: Iterable[Source], nodes: Sequence[Node], process: Process | None) -> dict[str, str]:
    """Return the names of the nodes that write to sources, by path; those that none writes to are left out.

    Args:
        sources: the files.
        nodes: QEMU's answer to ``query-named-block-nodes``.
        process: the QEMU, as far as it can be seen.
    """
    found: dict[str, str] = {}
    for source in sources:
        for node in nodes:
            if _is_format(node, source) and not node.ro and _is_at(node, source, process):
                found[source.path] = node.node_name
                break
    return found


def _is_format(node: Node, source: Source) -> bool:
    return node.drv == source.format


def _file_of(node: Node) -> str:
    """Return the name of the file that a node has open; "" where it is no plain file, or only a part of one.

    Where a node was given more than a name, QEMU describes it as ``json:`` with the nodes below in it.
    """
    if not node.file.startswith("json:"):
        return node.file
    try:
        below = json.loads(node.file.removeprefix("json:"))
        if below.get("offset") or "size" in below:
            return ""
        while isinstance(below.get("file"), dict):
            below = below["file"]
        return str(below.get("filename", ""))
    except (ValueError, RecursionError, AttributeError):
        return ""


def _is_at(node: Node, source: Source, process: Process | None) -> bool:
    """Whether the file of a node is the source's."""
    name = _file_of(node)
    if not name:
        return False
    directory = process.directory if process else os.getcwd()
    try:
        status = os.stat(os.path.join(directory, name))
        if (status.st_dev, status.st_ino) == source.identity:
            return True
    except (OSError, ValueError):
        pass
    # QEMU has left the directory that the name is relative to; the kernel knows the path of what is open.
    if process is None or os.path.isabs(name):
        return False
    ending = f"/{os.path.normpath(name)}"
    alike = [identity for identity, path in process.files.items() if path.endswith(ending)]
    return alike == [source.identity]
