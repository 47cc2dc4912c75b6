"""The JSON documents of the commands for states, vaults and archives."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, UnsetType

from overlaysync.cli.documents_parts import Document, Error, Refusal


class SavedDisk(Document, frozen=True, kw_only=True):
    """A disk of a VM in a state."""

    file: str
    manifest: str


class SavedCompanion(Document, frozen=True, kw_only=True):
    """A small file of a VM in a state."""

    file: str
    role: str
    size: int


class FileWhy(Document, frozen=True, kw_only=True):
    """A file that was left out, and why."""

    file: str
    why: str


class PathWhyNot(Document, frozen=True, kw_only=True):
    """A path that was left out, and why."""

    path: str
    why: str


class SavedVm(Document, frozen=True, kw_only=True):
    """A VM in a state."""

    name: str
    at: str
    consistency: str
    disks: list[SavedDisk]
    companions: list[SavedCompanion]
    left_out: list[FileWhy]


class OtherSide(Document, frozen=True, kw_only=True):
    """The other side of a fork of a VM."""

    vm: str
    state: int
    id: str


class SaveDocument(Document, frozen=True, kw_only=True):
    """Of save; ``skew_s`` lies between the first VM that was captured while it ran and the last."""

    team: str
    state: int
    id: str
    saved: str
    note: str
    vms: list[SavedVm]
    left_out: list[PathWhyNot]
    beside: list[OtherSide]
    read: int
    stored: int
    skew_s: float | None


class StateRow(Document, frozen=True, kw_only=True):
    """A state of a team."""

    team: str
    state: int
    id: str
    saved: str
    by: str
    note: str
    follows: list[str]
    fork: bool
    vms: list[SavedVm]
    held_by: list[str]


class RestoredDisk(Document, frozen=True, kw_only=True):
    """A disk, and its masters that are not here."""

    path: str
    missing_masters: list[str]


class PlannedVm(Document, frozen=True, kw_only=True):
    """A VM that would be restored."""

    vm: str
    state: int
    id: str
    at: str
    saved: str
    directory: str
    disks: list[RestoredDisk]
    pull: int


class RestoredVm(PlannedVm, frozen=True, kw_only=True):
    """A VM that was restored."""

    companions: list[str]
    left_out: list[str]
    start: str
    resumed: int
    warnings: list[str]


class RestoreDocument(Document, frozen=True, kw_only=True):
    """Of restore."""

    restored: list[RestoredVm] | UnsetType = UNSET
    plan: list[PlannedVm] | UnsetType = UNSET
    failed: list[Refusal] | UnsetType = UNSET


class KeptLimits(Document, frozen=True, kw_only=True):
    """How what a team saves is kept; ``live_s`` is 0 where running VMs are not saved by themselves."""

    copies: int
    budget: int
    live_s: float


class Keeps(Document, frozen=True, kw_only=True):
    """What this machine keeps; ``others`` in bytes."""

    teams: dict[str, KeptLimits]
    others: int


class KeepDocument(Document, frozen=True, kw_only=True):
    """Of keep."""

    keeps: Keeps
    taken: int | UnsetType = UNSET
    node: str | UnsetType = UNSET
    port: int | UnsetType = UNSET
    interfaces: str | UnsetType = UNSET


class StateHolder(Document, frozen=True, kw_only=True):
    """A machine or an archive that has what a VM needs."""

    label: str
    here: bool
    proven_at: str | None
    problem: str | None


class VmStatus(Document, frozen=True, kw_only=True):
    """How safe a VM is."""

    name: str
    states: list[int]
    at: str
    fork: bool
    changed: bool | None
    copies: int
    lost_with: str | None
    holders: list[StateHolder]


class RecordedDrill(Document, frozen=True, kw_only=True):
    """A drill, by its record."""

    started: str
    by: str
    verdict: str
    lost: list[str]
    rto_s: float | None
    rpo_s: float | None
    booted: str


class DrillResult(Document, frozen=True, kw_only=True):
    """A drill of one team; ``report`` and ``page`` are paths."""

    team: str
    verdict: str
    why: list[str]
    exit_code: int
    rto_s: float | None
    rpo_s: float | None
    report: str
    page: str


class DrillDocument(Document, frozen=True, kw_only=True):
    """Of drill."""

    drills: list[DrillResult]


class TeamStatus(Document, frozen=True, kw_only=True):
    """How safe the VMs of a team are."""

    team: str
    wanted: int
    needed: int
    machines: int
    never_saved: list[str]
    last_drill: RecordedDrill | None
    last_drill_passed: RecordedDrill | None
    vms: list[VmStatus]


class StatusDocument(Document, frozen=True, kw_only=True):
    """Of status."""

    teams: list[TeamStatus]
    error: Error | UnsetType = UNSET


class Region(Document, frozen=True, kw_only=True):
    """Bytes of a disk that changed."""

    offset: int
    length: int


class DiskDiff(Document, frozen=True, kw_only=True):
    """What changed in a disk."""

    file: str
    what: str
    size: int
    regions: list[Region]
    more_regions: int


class CompanionDiff(Document, frozen=True, kw_only=True):
    """What became of a small file."""

    file: str
    what: str


class VmDiff(Document, frozen=True, kw_only=True):
    """What changed in a VM."""

    name: str
    what: str
    disks: list[DiskDiff]
    companions: list[CompanionDiff]
    old: int | None
    new: int | None


class DiffDocument(Document, frozen=True, kw_only=True):
    """Of diff."""

    team: str
    old: int
    new: int
    vms: list[VmDiff]


class ForgottenState(Document, frozen=True, kw_only=True):
    """A state that was forgotten."""

    team: str
    state: int
    id: str
    saved: str


class DroppedList(Document, frozen=True, kw_only=True):
    """What a machine saved for another team, and was dropped."""

    space: str
    node: str
    size: int


class ForgetDocument(Document, frozen=True, kw_only=True):
    """Of forget."""

    forgotten: list[ForgottenState] | UnsetType = UNSET
    dropped: list[DroppedList] | UnsetType = UNSET


class DamagedObject(Document, frozen=True, kw_only=True):
    """An object that is missing or damaged."""

    name: str
    why: str


class VaultDocument(Document, frozen=True, kw_only=True):
    """Of vault check."""

    objects: int
    read: int
    damaged: list[DamagedObject]
    states: list[str]


class ArchiveCheckedDocument(VaultDocument, frozen=True, kw_only=True):
    """Of archive check."""

    archive: str


class CleanedDocument(Document, frozen=True, kw_only=True):
    """Of vault gc."""

    removed: list[str]
    freed: int
    waiting: int


class ArchiveRow(Document, frozen=True, kw_only=True):
    """An archive."""

    name: str
    url: str


class ArchiveAddedDocument(ArchiveRow, frozen=True, kw_only=True):
    """Of archive add."""

    new: bool
    lacks: list[str]


class ArchivesDocument(Document, frozen=True, kw_only=True):
    """Of archive ls."""

    archives: list[ArchiveRow]


class PushedImageDocument(Document, frozen=True, kw_only=True):
    """Of archive push, for an image."""

    archive: str
    name: str
    team: str
    version: int
    id: str
    stored: int
    left_out: list[str]


class PushedDocument(Document, frozen=True, kw_only=True):
    """Of archive push, for the states of a team."""

    archive: str
    team: str
    states: int
    stored: int


STATE_DOCUMENTS: dict[str, tuple[type[Any], ...]] = {
    "archive add": (ArchiveAddedDocument,),
    "archive check": (ArchiveCheckedDocument,),
    "archive ls": (ArchivesDocument,),
    "archive push": (PushedDocument, PushedImageDocument),
    "archive rm": (ArchiveRow,),
    "diff": (DiffDocument,),
    "drill": (DrillDocument,),
    "forget": (ForgetDocument,),
    "keep": (KeepDocument,),
    "restore": (RestoreDocument,),
    "save": (SaveDocument,),
    "status": (StatusDocument,),
    "vault check": (VaultDocument,),
    "vault gc": (CleanedDocument,),
}
