"""Bits that turn over on the disk: as there, and where that can be had, the file's times do not show it."""

from __future__ import annotations

import json
import mmap
import os
from dataclasses import replace
from pathlib import Path

from overlaysync.model.fingerprint import Fingerprint
from overlaysync.store.catalog import Catalog
from overlaysync.store.home import Home
from tests.images import format_of, run

MEMORY = Path("/dev/shm")
"""Usually a tmpfs, where a write through a map leaves the times of a file alone."""


def memory_or(place: Path) -> Path:
    """The file system in memory, or ``place`` where there is none that can be written."""
    return MEMORY if os.path.ismount(MEMORY) and os.access(MEMORY, os.W_OK) else place


def flip(path: Path, offset: int, bit: int) -> bool:
    """Turn one bit of a file over; whether nobody can see that by its times."""
    before = path.stat()
    mode = before.st_mode & 0o777
    if not os.access(path, os.W_OK):
        path.chmod(mode | 0o200)
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        byte = view[offset]  # read first: then the page is there, and writing to it is no event
        view[offset] = byte ^ 1 << bit
    if path.stat().st_mode & 0o777 != mode:
        path.chmod(mode)
    after = path.stat()
    return (before.st_mtime_ns, before.st_ctime_ns) == (after.st_mtime_ns, after.st_ctime_ns)


def stored(path: Path) -> list[tuple[int, int, int]]:
    """(guest offset, length, offset in the file) of the bytes that the image itself stores, as QEMU says."""
    entries = json.loads(run("qemu-img", "map", "--output=json", "-f", format_of(path), path))
    return [
        (entry["start"], entry["length"], entry["offset"])
        for entry in entries
        if entry["depth"] == 0 and entry["data"] and "offset" in entry
    ]


def host_offset(path: Path, guest: int) -> int:
    """Where a guest byte lies in the image's file."""
    for start, length, host in stored(path):
        if start <= guest < start + length:
            return host + guest - start
    raise AssertionError(f"{path} does not store guest byte {guest}")


def as_if_unseen(catalog: Catalog, path: Path) -> None:
    """Let the catalog take a file's present times for those it knew, as if the disk had changed its bytes.

    For file systems on which any write shows in the times of a file.
    """
    now = Fingerprint.of(path.stat())
    real = os.path.realpath(path)
    for row in catalog.images.all():
        chain = tuple(now if file[:2] == now[:2] else file for file in row.chain)
        if chain != row.chain:
            catalog.images.remember(replace(row, chain=chain))
    made = catalog.made.at(real)
    if held := catalog.held.at(real):
        catalog.held.hold(replace(held, file=now))
    if made:
        catalog.made.note(replace(made, file=now))


def rot_unseen(home: Path, path: Path, offset: int, bit: int) -> None:
    """Turn one bit of a file over, and see to it that the node of ``home`` cannot tell by its times."""
    flip(path, offset, bit)
    catalog = Catalog.open(Home(home, home))
    try:
        as_if_unseen(catalog, path)
    finally:
        catalog.close()
