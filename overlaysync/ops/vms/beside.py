"""The companions that lie beside an image and are named like it: what is shared and fetched with it.

Only names count here, so that it takes a few looks for each image of a large directory. What a definition of
several VMs says, such as ``lab.yaml``, is for states: see :mod:`overlaysync.ops.vms.find`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from blake3 import blake3

from overlaysync.errors import OverlaysyncError
from overlaysync.formats.folders import Folder
from overlaysync.model.companions import ENDINGS, SECRET, CompanionFile, Role
from overlaysync.ops.vms.place import Place, stem_of
from overlaysync.ops.vms.reading import read_companion
from overlaysync.ops.vms.vm import PERMALL, Part
from overlaysync.units import MIB

_STEP = MIB
"""Bytes read at a time."""


@dataclass(frozen=True, slots=True)
class Beside:
    """A companion beside an image.

    Attributes:
        path: its real path.
        role: what it is.
        ending: how its name ends.
    """

    path: str
    role: Role
    ending: str

    def read(self) -> bytes:
        """Return what it holds.

        Raises:
            OverlaysyncError: it cannot be read, or is too large.
        """
        return read_companion(self.path)


def companions_beside(image: str) -> list[Beside]:
    """Return the companions of the image at a real path, by role; none of a master, which no VM runs on."""
    try:
        status = os.lstat(image)
        if not stat.S_ISREG(status.st_mode) or not status.st_mode & 0o222:
            return []
        folder = Folder.open(os.path.dirname(image))
    except OSError:
        return []
    try:
        place = Place(folder)
        found: dict[str, Beside] = {}
        for role, ending, below in _candidates(os.path.basename(image)):
            if role not in found and os.path.lexists(place.join(below)):
                part = place.companion(below, role, "")
                if isinstance(part, Part):
                    found[role] = Beside(part.path, cast(Role, role), ending)
    finally:
        folder.close()
    return [found[role] for role in sorted(found)]


def _candidates(file: str) -> Iterator[tuple[str, str, str]]:
    """(role, ending, path from the directory) of what may lie beside an image of that name."""
    for stem in dict.fromkeys((file, stem_of(file))):
        yield "uefi", "fd", f"{stem}_OVMF_VARS.fd"
        yield "tpm", "permall", os.path.join(f"{stem}_TPM", PERMALL)
        for ending in ENDINGS["seed"]:
            yield "seed", ending, f"{stem}-seed.{ending}"
    for ending in ENDINGS["definition"]:
        yield "definition", ending, f"{stem_of(file)}.{ending}"


def describe(image: str, *, public: bool) -> tuple[CompanionFile, ...]:
    """Return the companions of an image as its manifest describes them.

    Args:
        image: its real path.
        public: whether it is for everybody: what holds keys and passwords is left out then.
    """
    described = []
    for one in companions_beside(image):
        if public and one.role in SECRET:
            continue
        try:
            data = one.read()
        except OverlaysyncError:
            continue  # not a plain file any more
        digest = blake3(data).hexdigest()
        described.append(CompanionFile(role=one.role, ending=one.ending, size=len(data), digest=digest))
    return tuple(described)


def open_beside(image: str, wanted: CompanionFile) -> int | None:
    """Open a companion of an image that is as a manifest describes it; None where it is another by now."""
    for one in companions_beside(image):
        if one.role != wanted.role:
            continue
        try:
            fd = os.open(one.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        hasher, offset = blake3(), 0
        while offset <= wanted.size and (part := os.pread(fd, _STEP, offset)):
            hasher.update(part)
            offset += len(part)
        if offset == wanted.size and hasher.hexdigest() == wanted.digest:
            return fd
        os.close(fd)
    return None


def marks_beside(image: str) -> tuple[tuple[str, int, int], ...]:
    """Return what changes when a companion of an image does: path, size and time of each."""
    marks = []
    for one in companions_beside(image):
        try:
            status = os.stat(one.path)
        except OSError:
            continue
        marks.append((one.path, status.st_size, status.st_mtime_ns))
    return tuple(marks)
