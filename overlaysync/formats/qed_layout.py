"""The layout of a new QED image: header and backing name, L1, L2 tables, data.

Left out: NEED_CHECK (the file becomes visible only when it is whole) and format names, which QED cannot hold:
a backing file that is not raw is probed by QEMU.
Source: docs/interop/qed_spec.rst of QEMU; limits beyond it are those of block/qed.c and block/qed.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from overlaysync.errors import ImageError
from overlaysync.formats.image import MAGIC, Format
from overlaysync.formats.layout import Target, UnitMap, check_target
from overlaysync.formats.table_layout import ENTRY_SIZE, TableLayout
from overlaysync.units import MIB

HEADER = struct.Struct("<4s3I5Q2I")
"""magic, cluster_size, table_size and header_size (clusters), features (incompatible, compatible, autoclear),
l1_table_offset, image_size, backing_filename offset and size."""

BACKING_FILE = 1
BACKING_FORMAT_NO_PROBE = 4


def choose_table_size(target: Target) -> int:
    """Clusters per table: QEMU's 4, or more where the virtual size asks for it.

    QEMU opens no table of one cluster, and with 4 MiB clusters (whose reach is beyond any need) only tables
    of two: its check of the largest size overflows for more.

    Raises:
        ImageError: no table size reaches the virtual size.
    """
    for table_size in (2,) if target.cluster_size >= 4 * MIB else (4, 8, 16):
        entries = table_size * target.cluster_size // ENTRY_SIZE
        if target.virtual_size <= entries * entries * target.cluster_size:
            return table_size
    raise ImageError(
        f"QED cannot hold {target.virtual_size} bytes in clusters of {target.cluster_size}",
        hint="choose larger clusters, or qcow2",
    )


class QedLayout(TableLayout):
    """A QED image; see :class:`TableLayout`.

    Raises:
        ImageError: the target is out of QED's bounds, or its backing name does not fit into the header.
    """

    entry_type = np.dtype("<u8")

    def __init__(self, target: Target, units: UnitMap) -> None:
        check_target(target)
        cluster_size = target.cluster_size
        if HEADER.size + len(target.backing_name or b"") > cluster_size:
            raise ImageError("the backing file's name does not fit", hint="choose larger clusters")
        self.table_clusters = choose_table_size(target)
        super().__init__(target, units, table_size=self.table_clusters * cluster_size)
        self.place(l1_offset=cluster_size, l2_offset=cluster_size + self.table_size)

    def metadata(self) -> Iterator[tuple[int, bytes]]:
        yield from self.tables()
        yield 0, self._header()

    def _header(self) -> bytes:
        target = self.target
        name = target.backing_name or b""
        features = BACKING_FILE if name else 0
        if name and target.backing_format is Format.RAW:
            features |= BACKING_FORMAT_NO_PROBE
        header = HEADER.pack(
            MAGIC[Format.QED],
            target.cluster_size,
            self.table_clusters,
            1,
            features,
            0,
            0,
            self.l1_offset,
            target.virtual_size,
            HEADER.size if name else 0,
            len(name),
        )
        return header + name
