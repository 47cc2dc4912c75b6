"""Compare two moments of a team: of each VM what has changed, in bytes, guest regions and companions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from overlaysync.errors import NotFoundError
from overlaysync.model.digest import equal_rows
from overlaysync.model.pages import LoadPage, PageList
from overlaysync.ops.library import Library
from overlaysync.ops.recovery.filling import take_manifest, take_pages
from overlaysync.ops.recovery.vaults import TeamVault
from overlaysync.trust.envelope import Manifest
from overlaysync.units import PAGE_UNITS
from overlaysync.vault.contents import Contents
from overlaysync.vault.state import Disk, SavedVm

_NAMED = 64
"""Regions that are listed."""


@dataclass(frozen=True, slots=True)
class Region:
    """Consecutive guest bytes that differ."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class DiskChange:
    """What became of a disk.

    Attributes:
        file: its name.
        what: "added", "removed", "same", "changed", or "on another master".
        size: bytes that differ.
        regions: where, the first of them.
        more: how many regions are not among them.
    """

    file: str
    what: str
    size: int = 0
    regions: tuple[Region, ...] = ()
    more: int = 0


@dataclass(frozen=True, slots=True)
class VmChange:
    """What became of a VM.

    Attributes:
        name: of the VM.
        what: "added", "removed", "same" or "changed".
        disks: of each disk.
        companions: (file, "added", "removed" or "changed") of those that are not the same.
    """

    name: str
    what: str
    disks: tuple[DiskChange, ...] = ()
    companions: tuple[tuple[str, str], ...] = ()


def compare(
    library: Library, vault: TeamVault, before: Mapping[str, SavedVm], after: Mapping[str, SavedVm]
) -> list[VmChange]:
    """Return what became of each VM from one moment to another, by name.

    Args:
        library: loads pages.
        vault: has the descriptions of the disks.
        before, after: the VMs as they were then, by name.

    Raises:
        NotFoundError: the vault does not have the description of a disk.
    """
    changes = []
    for name in sorted({*before, *after}):
        if name not in after:
            changes.append(VmChange(name, "removed"))
        elif name not in before:
            changes.append(VmChange(name, "added"))
        else:
            changes.append(_compare_vm(library, vault, before[name], after[name]))
    return changes


def _compare_vm(library: Library, vault: TeamVault, old: SavedVm, new: SavedVm) -> VmChange:
    before = {disk.file: disk for disk in old.disks}
    after = {disk.file: disk for disk in new.disks}
    disks = [
        _compare_disk(library, vault, file, before.get(file), after.get(file))
        for file in sorted({*before, *after})
    ]
    companions = tuple(
        _named(
            {one.file: one.parts for one in old.companions}, {one.file: one.parts for one in new.companions}
        )
    )
    same = not companions and all(disk.what == "same" for disk in disks)
    return VmChange(new.name, "same" if same else "changed", tuple(disks), companions)


def _named(old: Mapping[str, object], new: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for file in sorted({*old, *new}):
        if file not in new:
            yield file, "removed"
        elif file not in old:
            yield file, "added"
        elif old[file] != new[file]:
            yield file, "changed"


def _compare_disk(
    library: Library, vault: TeamVault, file: str, old: Disk | None, new: Disk | None
) -> DiskChange:
    if old is None or new is None:
        return DiskChange(file, "added" if old is None else "removed")
    if old.manifest == new.manifest:
        return DiskChange(file, "same")
    before, after = (_manifest(vault, disk) for disk in (old, new))
    if before.header.content_id == after.header.content_id:
        return DiskChange(file, "same")
    if before.header.parent != after.header.parent or before.header.unit != after.header.unit:
        return DiskChange(file, "on another master")
    pages = [take_pages(library, _contents(vault, one), one) for one in (before, after)]
    return _changed(file, pages[0], pages[1], library.load_page)


def _manifest(vault: TeamVault, disk: Disk) -> Manifest:
    for contents in (vault.contents, vault.public):
        manifest = take_manifest(contents, bytes.fromhex(disk.manifest))
        if manifest is not None:
            return manifest
    raise NotFoundError(
        f"The vault does not have the description of {disk.file}", hint="overlaysync vault check"
    )


def _contents(vault: TeamVault, manifest: Manifest) -> Contents:
    return vault.contents if manifest.header.team else vault.public


def _changed(file: str, old: PageList, new: PageList, load: LoadPage) -> DiskChange:
    """Return which units of two lists with one unit differ, in what the guest sees there."""
    regions: list[Region] = []
    count = size = 0
    last = -1
    for index in sorted({*old.indices, *new.indices}):
        if old.page(index) == new.page(index):
            continue
        ours, theirs = old.load(index, load), new.load(index, load)
        length = min(len(ours), len(theirs))
        differ = np.ones(max(len(ours), len(theirs)), dtype=np.bool_)
        differ[:length] = ~equal_rows(ours[:length], theirs[:length])
        for row in np.flatnonzero(differ).tolist():
            unit = index * PAGE_UNITS + row
            bytes_there = max(new.unit_length(unit), old.unit_length(unit))
            size += bytes_there
            if unit == last + 1 and regions and count <= _NAMED:
                regions[-1] = Region(regions[-1].offset, regions[-1].length + bytes_there)
            elif unit != last + 1 or not count:
                count += 1
                if count <= _NAMED:
                    regions.append(Region(unit * new.unit, bytes_there))
            last = unit
    return DiskChange(file, "changed", size, tuple(regions), count - len(regions))
