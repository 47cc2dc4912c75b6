"""Running VMs in a ``save``: finds the QEMU of each, has it captured, and makes the copies frozen disks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import sleep

from overlaysync.formats.detect import open_image
from overlaysync.formats.image import MAGIC, Format
from overlaysync.formats.locks import in_use_for_writing
from overlaysync.formats.recognition import always
from overlaysync.live.capture import capture
from overlaysync.live.processes import Identity, writers_of
from overlaysync.live.running import Running
from overlaysync.live.targets import Source, disk_source, file_source
from overlaysync.live.ways import Machine, machines_of
from overlaysync.node.node import Node, now
from overlaysync.node.observer import Observer
from overlaysync.ops.dates import utc
from overlaysync.ops.recovery.freezing import FrozenDisk
from overlaysync.ops.recovery.running import RunningDisk, captured_disk, examine_running
from overlaysync.ops.vms.reading import read_companion
from overlaysync.ops.vms.vm import Vm
from overlaysync.vault.state import Consistency

_LOOK_S = 0.5


@dataclass(frozen=True, slots=True)
class Means:
    """How VMs that run may be captured.

    Attributes:
        sockets: of QMP monitors that the user has named.
        pause: whether a VM that has only a monitor for people may be stopped while its disks are copied.
    """

    sockets: tuple[str, ...] = ()
    pause: bool = False


QMP = Means()
"""Through the QMP monitors that are found."""


@dataclass(frozen=True, slots=True)
class Taken:
    """When a VM was as its copies show.

    Attributes:
        at: ISO 8601 UTC.
        consistency: see :class:`~overlaysync.vault.state.SavedVm`.
    """

    at: str
    consistency: Consistency


@dataclass(slots=True)
class Captured:
    """What was captured of running VMs.

    Attributes:
        disks: by path; those of VMs that are powered off are not among them.
        taken: by name of the VM.
        companions: contents, by path.
        machines: how many QEMUs were captured.
        skew_s: between the first of them and the last.
    """

    disks: dict[str, FrozenDisk] = field(default_factory=dict)
    taken: dict[str, Taken] = field(default_factory=dict)
    companions: dict[str, bytes] = field(default_factory=dict)
    machines: int = 0
    skew_s: float = 0.0


def wait_until_off(vms: Sequence[Vm], observer: Observer) -> None:
    """Wait until no program such as QEMU writes to a disk of these VMs."""
    told: set[str] = set()
    while running := running_disks(vms):
        names = {vm.name for vm in vms if any(disk.path in running for disk in vm.disks)}
        if names != told:
            told = names
            observer.note(f"  waiting until the VM is shut down: {', '.join(sorted(names))}")
        sleep(_LOOK_S)


@contextmanager
def captured(
    node: Node, vms: Sequence[Vm], scratch: Path, observer: Observer, means: Means
) -> Iterator[Captured]:
    """Yield what running VMs are at one moment; the copies are gone when the block ends.

    Args:
        node: opens the images.
        vms: those that are powered off are left alone.
        scratch: a directory for the copies.
        observer: is told what happens.
        means: how VMs that run may be captured.

    Raises:
        InUseError: a VM runs and cannot be captured.
        NoSpaceError: there is no room for the copies.
    """
    found = Captured()
    running = running_disks(vms)
    if not running:
        yield found
        return
    machines = list(machines_of(running))
    known = {
        path: examine_running(node.library, path, now=now(), progress=observer.advance) for path in running
    }
    jobs = [_job(known, machine, vms, found, means) for machine in machines]
    observer.begin("capturing", sum(source.room for job in jobs for source in job.sources))
    try:
        copies = capture(jobs, scratch, observer.advance)
    finally:
        observer.end()
    try:
        found.skew_s = copies.skew_s
        for path, copy in copies.files.items():
            if path in running:
                found.disks[path] = captured_disk(
                    node.library, known[path], copy.file, copy.format, observer.advance
                )
            else:
                found.companions[path] = os.pread(copy.file, os.fstat(copy.file).st_size, 0)
        found.machines = len(machines)
        for machine, moment in zip(machines, copies.moments, strict=True):
            at = utc(moment.at)
            for vm in _vms_of(machine, vms):
                found.taken[vm.name] = Taken(at, "fs" if moment.frozen else "crash")
        yield found
    finally:
        for copy in copies.files.values():
            os.close(copy.file)


def running_disks(vms: Iterable[Vm]) -> dict[str, Identity]:
    """Return the disks that a program such as QEMU writes to, by path.

    QEMU may have been told to take no locks: what a VM has open for writing counts as well.
    """
    found: dict[str, Identity] = {}
    seen: dict[str, Identity] = {}
    for path in dict.fromkeys(disk.path for vm in vms for disk in vm.disks):
        try:
            file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:  # whoever opens it next says why
            continue
        try:
            status = os.fstat(file)
            seen[path] = status.st_dev, status.st_ino
            if in_use_for_writing(file):
                found[path] = seen[path]
        finally:
            os.close(file)
    for process in writers_of(set(seen.values()) - set(found.values())):
        if process.is_vm:
            found |= {path: identity for path, identity in seen.items() if identity in process.files}
    return found


def _vms_of(machine: Machine, vms: Iterable[Vm]) -> list[Vm]:
    """Return the VMs of which a QEMU runs a disk."""
    return [vm for vm in vms if any(disk.path in machine.paths for disk in vm.disks)]


def _writes(machine: Machine, path: str) -> bool:
    """Whether a QEMU has a companion open for writing."""
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(file)
        seen = machine.process is not None and (status.st_dev, status.st_ino) in machine.process.files
        return seen or in_use_for_writing(file)
    finally:
        os.close(file)


def _job(
    known: Mapping[str, RunningDisk],
    machine: Machine,
    vms: Sequence[Vm],
    found: Captured,
    means: Means,
) -> Running:
    sources = [disk_source(known[path]) for path in machine.paths]
    companions = [part.path for vm in _vms_of(machine, vms) for part in vm.companions]
    written = [path for path in companions if _writes(machine, path)]
    sources += map(_companion_source, written)
    return Running(
        name=", ".join(vm.name for vm in _vms_of(machine, vms)),
        sources=tuple(sources),
        connect=partial(machine.monitor, means.sockets),
        process=machine.process,
        agent=machine.agent,
        human=machine.human if means.pause else (),
        at_once=partial(_read, [path for path in companions if path not in written], found),
    )


def _companion_source(path: str) -> Source:
    """Return the source that is a companion which QEMU writes to, such as UEFI variables."""
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    format = Format.QCOW2 if os.pread(file, 4, 0) == MAGIC[Format.QCOW2] else Format.RAW
    with open_image(path, format, always, file=file) as image:
        return file_source(image)


def _read(paths: Iterable[str], found: Captured) -> None:
    """Read the companions that no job copies."""
    for path in paths:
        found.companions[path] = read_companion(path)
