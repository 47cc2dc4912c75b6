"""Names found in headers: what QEMU would make of them, and how people are shown them."""

from __future__ import annotations


def has_protocol(name: bytes) -> bool:
    """Whether QEMU would read ``name`` as ``protocol:...``: a colon comes before any slash."""
    return b":" in name.split(b"/", 1)[0]


def display(name: str) -> str:
    """Return a name for people: quoted, control characters and odd bytes escaped, at most 200 long."""
    return ascii(name if len(name) <= 200 else name[:197] + "...")
