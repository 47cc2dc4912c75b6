"""The demo's images: a master that is generated, and what a guest writes to an overlay on it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from overlaysync.formats.image import Format
from overlaysync.model.datamap import DataMap
from overlaysync.model.digest import as_digests, hash_units
from overlaysync.model.pages import PageListBuilder
from overlaysync.node.node import Node, now
from overlaysync.ops.assemble import Assembly
from overlaysync.ops.known import Known
from overlaysync.ops.local import LocalCopier, LocalSource
from overlaysync.ops.make import MASTER_MODE, OVERLAY_MODE, backing_name
from overlaysync.ops.part_files import target_for
from overlaysync.store.target import entry_at
from overlaysync.units import CHUNK, MIB, PAGE_UNITS

MASTER = "debian-demo"
VIRTUAL_SIZE = 256 * MIB

_AREAS = 12

_AREA_SIZE = 4 * MIB
"""The master's data: areas spread over its disk, 48 MiB together."""

CHANGED_CHUNKS = 96
"""What the guest writes: 6 MiB, spread as well."""


def make_master(node: Node, directory: Path) -> Known:
    """Return a master with random and compressible areas, as a file system has: raw first, then as qcow2."""

    raw, path = directory / f"{MASTER}.raw", directory / f"{MASTER}.qcow2"
    random = np.random.default_rng()
    with open(raw, "wb") as file:
        file.truncate(VIRTUAL_SIZE)
        for area in range(_AREAS):
            file.seek(area * (VIRTUAL_SIZE // _AREAS // CHUNK) * CHUNK)
            file.write(random.bytes(_AREA_SIZE) if area % 2 else _text(area))
    library = node.library
    disk = library.examine(raw, now=now()).disk
    target = target_for(disk, format=Format.QCOW2, cluster_size=CHUNK)
    assembly = Assembly.open(path, target, DataMap(disk, library.load_page), node.home.journals)
    try:
        with library.open(raw, Format.RAW) as chain:
            LocalCopier(assembly, library.load_page).take(LocalSource(chain, disk))
        assembly.finish(mode=MASTER_MODE)
    finally:
        assembly.close()
    raw.unlink()
    node.catalog.forget_image(os.path.realpath(raw))
    return library.examine(path, now=now())


def _text(area: int) -> bytes:
    lines = (b"line %d of the demo's file %d\n" % (line, area) for line in range(_AREA_SIZE // 20))
    return b"".join(lines)[:_AREA_SIZE]


def write_as_guest(node: Node, master: Known, path: Path) -> None:
    """Put an overlay with changed chunks in the place of the fresh one at ``path``."""

    data = memoryview(np.random.default_rng().bytes(CHANGED_CHUNKS * CHUNK))
    units = VIRTUAL_SIZE // CHUNK
    digests = np.zeros((units, 32), dtype=np.uint8)
    digests[:: units // CHANGED_CHUNKS][:CHANGED_CHUNKS] = as_digests(hash_units(data, CHUNK))
    pages: dict[bytes, bytes] = {}
    builder = PageListBuilder(
        virtual_size=VIRTUAL_SIZE, unit=CHUNK, parent=master.disk.id, keep=pages.__setitem__
    )
    for index in range(units // PAGE_UNITS):
        builder.add(index, digests[index * PAGE_UNITS : (index + 1) * PAGE_UNITS].tobytes())
    layer = builder.build()
    target = target_for(
        layer,
        format=Format.QCOW2,
        cluster_size=CHUNK,
        backing_name=backing_name(str(path), master.path),
        backing_format=Format.QCOW2,
    )
    replaces = entry_at(path)
    assembly = Assembly.open(
        path, target, DataMap(layer, pages.__getitem__), node.home.journals, replaces=replaces
    )
    try:
        assembly.accept(0, CHANGED_CHUNKS, data)
        assembly.finish(mode=OVERLAY_MODE, replaces=replaces)
    finally:
        assembly.close()
