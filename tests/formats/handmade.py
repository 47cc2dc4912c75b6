"""Tiny qcow2 and QED images made by hand, with every field's place known: to be damaged on purpose.

A pattern says what the clusters are: ``D`` data, ``-`` unallocated, ``Z`` zero, and for qcow2 ``P`` zero with
a host cluster, ``C`` compressed, ``S`` (extended L2 only) partly written. Cluster number n is filled with
byte ``n % 251 + 1``.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from backports import zstd

from overlaysync.formats.image import Format
from overlaysync.units import ceil_div, round_up

QCOW2_FIELDS = {
    "magic": (0, 4),
    "version": (4, 4),
    "backing_offset": (8, 8),
    "backing_size": (16, 4),
    "cluster_bits": (20, 4),
    "size": (24, 8),
    "crypt_method": (32, 4),
    "l1_size": (36, 4),
    "l1_offset": (40, 8),
    "reftable_offset": (48, 8),
    "reftable_clusters": (56, 4),
    "snapshots": (60, 4),
    "snapshots_offset": (64, 8),
    "incompatible": (72, 8),
    "compatible": (80, 8),
    "autoclear": (88, 8),
    "refcount_order": (96, 4),
    "header_length": (100, 4),
    "compression": (104, 1),
}
"""name → (offset, bytes); big-endian."""

QED_FIELDS = {
    "magic": (0, 4),
    "cluster_size": (4, 4),
    "table_size": (8, 4),
    "header_size": (12, 4),
    "features": (16, 8),
    "compat_features": (24, 8),
    "autoclear_features": (32, 8),
    "l1_offset": (40, 8),
    "image_size": (48, 8),
    "name_offset": (56, 4),
    "name_size": (60, 4),
}
"""name → (offset, bytes); little-endian."""

ZLIB_COMPRESSION, ZSTD_COMPRESSION = 0, 1
COPIED = 1 << 63
PARTLY_WRITTEN = 0b1010 | 0b0100 << 32
"""Subclusters 1 and 3 allocated, 2 zero."""


@dataclass
class Handmade:
    """An image in memory.

    Attributes:
        data: the file.
        fields: name → (offset, bytes).
        order: byte order of fields and tables.
        tables: file offsets of every table's entries: "l1", "l2", "reftable".
        cluster_size: bytes.
    """

    data: bytearray
    fields: dict[str, tuple[int, int]]
    order: str
    cluster_size: int
    tables: dict[str, list[int]] = field(default_factory=dict)

    def set(self, **values: int) -> Handmade:
        """Overwrite header fields."""
        for name, value in values.items():
            offset, size = self.fields[name]
            self.data[offset : offset + size] = value.to_bytes(size, self._byteorder)
        return self

    def get(self, name: str) -> int:
        """A header field."""
        offset, size = self.fields[name]
        return int.from_bytes(self.data[offset : offset + size], self._byteorder)

    def entry(self, table: str, index: int) -> int:
        """An entry of a table; second tables are joined."""
        return int.from_bytes(self.data[self.tables[table][index] :][:8], self._byteorder)

    def set_entry(self, table: str, index: int, value: int) -> Handmade:
        """Overwrite an entry of a table."""
        self.set_word(self.tables[table][index], value)
        return self

    def set_word(self, offset: int, value: int) -> None:
        """Overwrite 8 bytes."""
        self.data[offset : offset + 8] = value.to_bytes(8, self._byteorder)

    def append_cluster(self, fill: bytes) -> int:
        """Append a cluster at a cluster's boundary and return its offset."""
        self.data.extend(bytes(round_up(len(self.data), self.cluster_size) - len(self.data)))
        offset = len(self.data)
        self.data.extend(fill * self.cluster_size)
        return offset

    def write(self, path: Path) -> Path:
        """Store the file."""
        path.write_bytes(self.data)
        return path

    @property
    def _byteorder(self) -> Literal["big", "little"]:
        return "big" if self.order == ">" else "little"


def fill(cluster: int) -> bytes:
    """The byte that data cluster number ``cluster`` is filled with."""
    return bytes([cluster % 251 + 1])


def qed(
    pattern: str = "D-ZD",
    *,
    cluster_size: int = 4096,
    table_size: int = 2,
    backing: bytes = b"",
    raw: bool = True,
) -> Handmade:
    """A QED image; ``raw``: whether the backing file is said to be raw."""
    entries = table_size * cluster_size // 8
    features = (1 | (4 if raw else 0)) if backing else 0
    image = Handmade(bytearray(cluster_size), QED_FIELDS, "<", cluster_size)
    image.data[:4] = b"QED\0"
    image.set(cluster_size=cluster_size, table_size=table_size, header_size=1, features=features)
    image.set(l1_offset=cluster_size, image_size=len(pattern) * cluster_size)
    if backing:
        image.set(name_offset=64, name_size=len(backing))
        image.data[64 : 64 + len(backing)] = backing
    _add_tables(image, pattern, entries, table_size * cluster_size, words=1)
    for index, char in enumerate(pattern):
        if char == "D":
            image.set_entry("l2", index, image.append_cluster(fill(index)))
        elif char == "Z":
            image.set_entry("l2", index, 1)
    return image


def qcow2(
    pattern: str = "D-ZD",
    *,
    version: int = 3,
    cluster_bits: int = 9,
    extended_l2: bool = False,
    compression: int = ZLIB_COMPRESSION,
    backing: bytes = b"",
    extensions: Sequence[tuple[int, bytes]] = (),
) -> Handmade:
    """A qcow2 image; ``extensions`` are (type, data) of further header extensions."""
    size = 1 << cluster_bits
    words = 2 if extended_l2 else 1
    length = 72 if version == 2 else 112
    image = Handmade(bytearray(size), QCOW2_FIELDS, ">", size)
    image.data[:4] = b"QFI\xfb"
    image.set(version=version, cluster_bits=cluster_bits, size=len(pattern) * size)
    if version > 2:
        features = (8 if compression else 0) | (16 if extended_l2 else 0)
        image.set(incompatible=features, refcount_order=4, header_length=length, compression=compression)
    for kind, data in extensions:
        struct.pack_into(">II", image.data, length, kind, len(data))
        image.data[length + 8 : length + 8 + len(data)] = data
        length += 8 + round_up(len(data), 8)
    if backing:
        image.set(backing_offset=length + 8, backing_size=len(backing))
        image.data[length + 8 : length + 8 + len(backing)] = backing
    image.set(reftable_offset=image.append_cluster(b"\0"), reftable_clusters=1)
    image.tables["reftable"] = [*range(size, 2 * size, 8)]
    image.set_entry("reftable", 0, image.append_cluster(b"\0"))
    image.set(l1_offset=len(image.data))
    _add_tables(image, pattern, size // 8 // words, size, words=words)
    image.set(l1_size=len(image.tables["l1"]))
    for index, char in enumerate(pattern):
        _fill_qcow2(image, index, char, compression, extended_l2)
    for index, char in enumerate(pattern):
        if char == "C":
            _compress(image, index, compression)
    _count_references(image)
    return image


def _add_tables(image: Handmade, pattern: str, entries: int, table_bytes: int, *, words: int) -> None:
    """Append the L1 table and every L2 table."""
    count = max(1, ceil_div(len(pattern), entries))
    l1 = len(image.data)
    l1_bytes = table_bytes if image.order == "<" else round_up(count * 8, image.cluster_size)
    image.data.extend(bytes(l1_bytes))
    image.tables["l1"] = [*range(l1, l1 + count * 8, 8)]
    image.tables["l2"] = []
    for index in range(count):
        table = len(image.data)
        image.data.extend(bytes(table_bytes))
        image.set_entry("l1", index, table | (COPIED if image.order == ">" else 0))
        image.tables["l2"] += range(table, table + table_bytes, 8 * words)


def _fill_qcow2(image: Handmade, index: int, char: str, compression: int, extended_l2: bool) -> None:
    place = image.tables["l2"][index]
    if char in "DPS":
        entry = image.append_cluster(fill(index)) | COPIED
        image.set_word(place, entry | (1 if char == "P" and not extended_l2 else 0))
    elif char == "Z" and not extended_l2:
        image.set_word(place, 1)
    if extended_l2:
        bitmap = {"D": 0xFFFFFFFF, "P": 0xFFFFFFFF << 32, "Z": 0xFFFFFFFF << 32, "S": PARTLY_WRITTEN}
        image.set_word(place + 8, bitmap.get(char, 0))


def _compress(image: Handmade, index: int, compression: int) -> None:
    """Append a compressed cluster, from the next byte on, and its entry."""
    data = fill(index) * image.cluster_size
    if compression == ZSTD_COMPRESSION:
        stored = zstd.compress(data)
    else:
        deflate = zlib.compressobj(9, zlib.DEFLATED, -12)
        stored = deflate.compress(data) + deflate.flush()
    start = len(image.data)
    image.data.extend(stored)
    sectors = (start + len(stored) - 1) // 512 - start // 512
    bits = 62 - (image.cluster_size.bit_length() - 9)
    image.set_entry("l2", index, 1 << 62 | sectors << bits | start)


def _count_references(image: Handmade) -> None:
    """Fill in the refcount block (16-bit), as far as it reaches; compressed clusters may share one."""
    block = image.entry("reftable", 0)
    counts = [1] * min(ceil_div(len(image.data), image.cluster_size), image.cluster_size // 2)
    compressed = [entry for at in image.tables["l2"] if (entry := _word(image, at)) >> 62 & 1]
    bits = 62 - (image.cluster_size.bit_length() - 9)
    shared: dict[int, int] = {}
    for entry in compressed:
        start, sectors = entry & (1 << bits) - 1, entry >> bits & (1 << 62 - bits) - 1
        last = (start // 512 + sectors) * 512
        for cluster in range(start // image.cluster_size, last // image.cluster_size + 1):
            shared[cluster] = shared.get(cluster, 0) + 1
    for cluster, count in shared.items():
        # The data before the first compressed cluster may end inside the same cluster only if it was aligned.
        if cluster < len(counts):
            counts[cluster] = count
    struct.pack_into(f">{len(counts)}H", image.data, block, *counts)


def _word(image: Handmade, offset: int) -> int:
    return int.from_bytes(image.data[offset : offset + 8], "big")


def memory_file(data: bytes | bytearray, *, size: int | None = None, sparse: bool = False) -> int:
    """A file in memory with these bytes; returns its descriptor.

    Args:
        data: what it begins with.
        size: extend it by a hole, or cut it, to so many bytes.
        sparse: make holes of its pages of zeros.
    """
    fd = os.memfd_create("image")
    step = 4096 if sparse else max(1, len(data))
    for offset in range(0, len(data), step):
        part = data[offset : offset + step]
        if not sparse or any(part):
            os.pwrite(fd, part, offset)
    os.ftruncate(fd, len(data) if size is None else size)
    return fd


def small_image(format: Format, path: Path) -> Path:
    """Write a small image of any format that is read."""
    match format:
        case Format.RAW:
            path.write_bytes(bytes(512))
        case Format.QED:
            qed().write(path)
        case Format.QCOW2:
            qcow2().write(path)
        case new:
            pytest.fail(f"tests/formats/handmade.py: small_image() is to write a {new} image")
    return path
