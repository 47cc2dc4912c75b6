"""What tells machines apart: a hash of the kernel's boot id, the same for all nodes on one kernel.

Each start of a machine makes a new one. It is hashed, so that nobody learns an id that other programs use.
Nothing proves that it is a node's own: it is for counting machines, and for nothing else.
"""

from __future__ import annotations

from pathlib import Path

from overlaysync.model.digest import derive
from overlaysync.net.bounds import BOOT_SIZE

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_CONTEXT = "overlaysync v1 boot id"


def boot_hash(path: Path = _BOOT_ID) -> bytes:
    """Return the hash of this machine's boot id; b"" where it cannot be read."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return b""
    return derive(_CONTEXT, text.encode())[:BOOT_SIZE] if text else b""
