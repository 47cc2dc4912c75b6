"""Headers of manifests for tests that only look at names, versions and publishers."""

from __future__ import annotations

import hashlib
from typing import Any

from overlaysync.model.digest import format_id
from overlaysync.model.manifest import Header


def disk_header(content: str, **fields: Any) -> Header:
    """The header of a disk whose id is made of ``content``; ``fields`` are its own."""
    id = format_id(hashlib.sha256(content.encode()).digest())
    same = {"created": "2026-01-31T12:00:00Z", "format": "raw", "cluster_size": 65536, "unit": 65536}
    sizes = {"virtual_size": 1 << 20, "data_size": 0, "list_size": 48}
    return Header(**{"kind": "disk", "id": id, "result": id, **same, **sizes, **fields})
