"""The header of a qcow2 image: fields, features, extensions.

Refuses what we cannot or will not read: encryption, external data files (CVE-2024-32498), unknown
incompatible features, damaged images. Source: QEMU docs/interop/qcow2.rst, "Header" and "Header extensions";
bounds from block/qcow2.h and block/qcow2.c.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from overlaysync.errors import ImageError
from overlaysync.formats.files import pread_exact
from overlaysync.formats.image import MAGIC, Backing, Compression, Format, check_virtual_size
from overlaysync.units import KIB, MIB, SECTOR, ceil_div

_FIELDS_V2 = struct.Struct(">4sIQIIQIIQQIIQ")
_FIELDS_V3 = struct.Struct(">QQQII")
_V2_SIZE = _FIELDS_V2.size
_V3_SIZE = _V2_SIZE + _FIELDS_V3.size

_EXT_BACKING_FORMAT = 0xE2792ACA
_EXT_FEATURE_NAMES = 0x6803F857
_EXT_BITMAPS = 0x23852875
_EXT_DATA_FILE = 0x44415441
_MAX_EXTENSIONS = 1000

_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION, _EXTENDED_L2 = (1 << bit for bit in range(5))
_KNOWN_FEATURES = _DIRTY | _CORRUPT | _DATA_FILE | _COMPRESSION | _EXTENDED_L2
_AUTOCLEAR_RAW_DATA = 2

_MAX_L1_BYTES = 32 * MIB
_MAX_REFTABLE_BYTES = 8 * MIB
_MAX_SNAPSHOTS = 65536
_MAX_NAME = 1023
_MAX_FORMAT_NAME = 15
_MIN_EXTENDED_CLUSTER = 16 * KIB


@dataclass(frozen=True, slots=True)
class Header:
    """What the header says, checked; offsets and sizes in bytes.

    Attributes:
        l1_entries: entries of the whole active L1 table.
        l1_needed: how many of them the disk needs.
        notes: what a rebuilt image would not carry over.
        snapshots: internal snapshots.
        snapshots_offset: of their table, which is not checked.
    """

    version: int
    cluster_size: int
    extended_l2: bool
    compression: Compression
    virtual_size: int
    l1_offset: int
    l1_entries: int
    l1_needed: int
    reftable_offset: int
    reftable_size: int
    backing: Backing | None
    notes: tuple[str, ...]
    snapshots: int
    snapshots_offset: int

    @property
    def entry_size(self) -> int:
        """Bytes of an L2 entry."""
        return 16 if self.extended_l2 else 8


@dataclass(frozen=True, slots=True)
class _Fields:
    """The fields as they are in the file; those that version 2 lacks have their implied values."""

    magic: bytes
    version: int
    backing_offset: int
    backing_size: int
    cluster_bits: int
    size: int
    crypt_method: int
    l1_size: int
    l1_offset: int
    reftable_offset: int
    reftable_clusters: int
    snapshots: int
    snapshots_offset: int
    incompatible: int = 0
    compatible: int = 0
    autoclear: int = 0
    refcount_order: int = 4
    header_length: int = 72
    compression: int = 0

    @property
    def cluster_size(self) -> int:
        return 1 << self.cluster_bits


def read_header(path: str, fd: int, file_size: int) -> Header:
    """Read and check the header of the qcow2 image open as ``fd``.

    Raises:
        ImageError: it is damaged or of a kind we do not read.
    """

    def refuse(reason: str, offset: int | None = None) -> NoReturn:
        raise ImageError(reason, path=path, offset=offset)

    fields = _read_fields(path, fd)
    if not 9 <= fields.cluster_bits <= 21:
        refuse(f"its cluster size, 2^{fields.cluster_bits} bytes, is not from 512 bytes to 2 MiB")
    first_cluster = pread_exact(fd, min(fields.cluster_size, file_size), 0, path=path)
    if not fields.header_length <= len(first_cluster):
        refuse(f"its header length, {fields.header_length} bytes, is not possible", 100)
    extensions = dict(_extensions(fields, first_cluster, path))
    _check_features(fields, extensions, path)
    _check_places(fields, file_size, path)
    entry_size = 16 if fields.incompatible & _EXTENDED_L2 else 8
    virtual_size = check_virtual_size(fields.size // SECTOR * SECTOR, path)
    l1_needed = ceil_div(virtual_size, fields.cluster_size // entry_size * fields.cluster_size)
    if fields.l1_size < l1_needed:
        refuse(f"its L1 table, {fields.l1_size} entries, is too small for its virtual size", 36)
    return Header(
        version=fields.version,
        cluster_size=fields.cluster_size,
        extended_l2=entry_size == 16,
        compression=Compression(fields.compression),
        virtual_size=virtual_size,
        l1_offset=fields.l1_offset,
        l1_entries=fields.l1_size,
        l1_needed=l1_needed,
        reftable_offset=fields.reftable_offset,
        reftable_size=fields.reftable_clusters * fields.cluster_size,
        backing=_backing(fields, extensions, first_cluster, path),
        notes=tuple(_notes(fields, extensions)),
        snapshots=fields.snapshots,
        snapshots_offset=fields.snapshots_offset,
    )


def _read_fields(path: str, fd: int) -> _Fields:
    values = _FIELDS_V2.unpack(pread_exact(fd, _V2_SIZE, 0, path=path))
    magic, version = values[:2]
    if magic != MAGIC[Format.QCOW2]:
        raise ImageError("it has no qcow2 header", path=path)
    if version == 1:
        raise ImageError(
            "it is a QCOW image of version 1", path=path, hint="convert it with qemu-img convert -O qcow2"
        )
    if version == 2:
        return _Fields(*values)
    if version != 3:
        raise ImageError(
            f"it is a qcow2 image of version {version}; versions 2 and 3 are supported",
            path=path,
            offset=4,
        )
    more = _FIELDS_V3.unpack(pread_exact(fd, _FIELDS_V3.size, _V2_SIZE, path=path))
    length = more[-1]
    if length < _V3_SIZE or length % 8:
        raise ImageError(f"its header length, {length} bytes, is not possible", path=path, offset=100)
    compression = pread_exact(fd, 1, _V3_SIZE, path=path)[0] if length > _V3_SIZE else 0
    return _Fields(*(*values, *more, compression))


def _check_features(fields: _Fields, extensions: dict[int, bytes], path: str) -> None:
    def refuse(reason: str, offset: int) -> NoReturn:
        raise ImageError(reason, path=path, offset=offset)

    unknown = fields.incompatible & ~_KNOWN_FEATURES
    if unknown:
        refuse(f"it needs features that overlaysync does not know: {_feature_names(unknown, extensions)}", 72)
    if fields.crypt_method:
        refuse("it is encrypted", 32)
    if fields.incompatible & _CORRUPT:
        refuse("it is marked as corrupt", 72)
    if (
        fields.incompatible & _DATA_FILE
        or fields.autoclear & _AUTOCLEAR_RAW_DATA
        or _EXT_DATA_FILE in extensions
    ):
        refuse("its data lie in an external data file", 72)
    if fields.compression > max(Compression) or bool(fields.compression) != bool(
        fields.incompatible & _COMPRESSION
    ):
        refuse(
            f"its compression type, {fields.compression}, is not zlib or zstd, or does not fit its features",
            104,
        )
    if fields.incompatible & _EXTENDED_L2 and fields.cluster_size < _MIN_EXTENDED_CLUSTER:
        refuse("its clusters are too small for subclusters", 20)
    if fields.refcount_order > 6:
        refuse(f"its refcounts are too wide (order {fields.refcount_order})", 96)


def _check_places(fields: _Fields, file_size: int, path: str) -> None:
    """Refuse tables that are too large, not aligned or not in the file."""

    def refuse(reason: str, offset: int) -> NoReturn:
        raise ImageError(reason, path=path, offset=offset)

    l1_bytes, reftable_bytes = fields.l1_size * 8, fields.reftable_clusters * fields.cluster_size
    if l1_bytes > _MAX_L1_BYTES:
        refuse("its L1 table is over 32 MiB", 36)
    if fields.l1_offset % fields.cluster_size:
        refuse("its L1 table is not where a table may be", 40)
    if l1_bytes and fields.l1_offset + l1_bytes > file_size:
        refuse("its L1 table lies past the end of the file", 40)
    if not 0 < reftable_bytes <= _MAX_REFTABLE_BYTES:
        refuse("its refcount table is empty or over 8 MiB", 56)
    if fields.reftable_offset % fields.cluster_size:
        refuse("its refcount table is not where a table may be", 48)
    if fields.reftable_offset + reftable_bytes > file_size:
        refuse("its refcount table lies past the end of the file", 48)
    if fields.snapshots > _MAX_SNAPSHOTS:
        refuse(f"it has {fields.snapshots} internal snapshots, more than QEMU allows", 60)


def _extensions(fields: _Fields, first_cluster: bytes, path: str) -> Iterator[tuple[int, bytes]]:
    """(type, data) of every header extension."""
    end = len(first_cluster)
    if fields.backing_offset:
        end = min(end, fields.backing_offset)
    at = fields.header_length
    for _ in range(_MAX_EXTENSIONS):
        if at + 8 > end:
            return
        kind, length = struct.unpack_from(">II", first_cluster, at)
        if not kind:
            return
        at += 8
        if length > end - at:
            raise ImageError("a header extension is longer than the header", path=path, offset=at - 4)
        yield kind, first_cluster[at : at + length]
        at += -(-length // 8) * 8
    raise ImageError("it has too many header extensions", path=path, offset=at)


def _feature_names(features: int, extensions: dict[int, bytes]) -> str:
    """Return the names of incompatible features, as far as the image names them, for people."""
    table = extensions.get(_EXT_FEATURE_NAMES, b"")
    names = {
        table[at + 1]: _printable(table[at + 2 : at + 48])
        for at in range(0, min(len(table), 256 * 48) - 47, 48)
        if table[at] == 0
    }
    bits = [bit for bit in range(64) if features >> bit & 1]
    return ", ".join(names.get(bit) or f"bit {bit}" for bit in bits)


def _printable(name: bytes) -> str:
    """``name`` up to its first zero byte, with everything but printable ASCII replaced by "?"."""
    text = name.split(b"\0", 1)[0].decode("latin-1")
    return "".join(char if " " <= char <= "~" else "?" for char in text)


def _backing(
    fields: _Fields, extensions: dict[int, bytes], first_cluster: bytes, path: str
) -> Backing | None:
    if not fields.backing_offset or not fields.backing_size:
        return None
    end = fields.backing_offset + fields.backing_size
    if (
        fields.backing_size > _MAX_NAME
        or fields.backing_offset < fields.header_length
        or end > len(first_cluster)
    ):
        raise ImageError("the name of its backing file does not lie in its header", path=path, offset=8)
    named = extensions.get(_EXT_BACKING_FORMAT, b"")
    if len(named) > _MAX_FORMAT_NAME:
        raise ImageError("the name of its backing file's format is too long", path=path)
    return Backing(first_cluster[fields.backing_offset : end], _printable(named) or None)


def _notes(fields: _Fields, extensions: dict[int, bytes]) -> Iterator[str]:
    if fields.snapshots:
        yield f"its internal snapshots ({fields.snapshots}) are not carried over"
    if _EXT_BITMAPS in extensions:
        count = int.from_bytes(extensions[_EXT_BITMAPS][:4], "big")
        yield f"its dirty bitmaps ({count}) are not carried over"
    if fields.incompatible & _DIRTY:
        yield "it was not closed cleanly; 'qemu-img check -r all' repairs it"
