"""The names of a qcow2 image's internal snapshots; what is in them is left out.

Source: QEMU docs/interop/qcow2.rst, "Snapshots".
"""

from __future__ import annotations

import os
import struct
from contextlib import suppress

from overlaysync.units import KIB

_ENTRY = struct.Struct(">QIHHIIQII")
"""L1 offset and entries, lengths of id and name, date (s, ns), clock, sizes of VM state and extra data."""

_MAX_OFFSET = (1 << 63) - _ENTRY.size - 64 * KIB

_READ = 64 * KIB
"""Bytes of the table that are read: names are for people, and nobody reads hundreds."""


def snapshot_names(fd: int, offset: int, count: int) -> tuple[str, ...]:
    """Return the names of the first snapshots in the table at ``offset``, as far as they are whole."""
    table = b""
    with suppress(OSError):
        table = os.pread(fd, _READ, min(offset, _MAX_OFFSET))
    names: list[str] = []
    at = 0
    while len(names) < count and at + _ENTRY.size <= len(table):
        _, _, id_length, name_length, *_, extra = _ENTRY.unpack_from(table, at)
        start = at + _ENTRY.size + extra + id_length
        end = start + name_length
        if end > len(table):
            break
        names.append(table[start:end].decode(errors="replace"))
        at = end + -end % 8
    return tuple(names)
