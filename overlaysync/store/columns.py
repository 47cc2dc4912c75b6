"""How values lie in the columns of the catalog."""

from __future__ import annotations

_ID_SIZE = 32


def split_ids(joined: bytes) -> tuple[bytes, ...]:
    """Return the ids that one column holds, one after the other."""
    return tuple(joined[at : at + _ID_SIZE] for at in range(0, len(joined), _ID_SIZE))
