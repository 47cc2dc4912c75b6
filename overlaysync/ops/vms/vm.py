"""What a VM consists of: its disks, its companions, and what of it is left out."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace

from overlaysync.errors import UsageError
from overlaysync.formats.recognition import IMAGE_ENDINGS
from overlaysync.model.companions import CAPS
from overlaysync.model.names import MAX_NAME, is_name, name_from, printable
from overlaysync.units import format_size
from overlaysync.vault.limits import MAX_FILES, MAX_TEXT, is_inner_path

PERMALL = "tpm2-00.permall"
"""The state of a TPM, as swtpm keeps it; the other files beside it are made anew."""


@dataclass(frozen=True, slots=True)
class Part:
    """A file of a VM.

    Attributes:
        path: its real path.
        file: its name in a state; parts are separated by ``/`` where it lies in a directory of the VM.
        role: ``disk``, ``uefi``, ``tpm``, ``seed`` or ``definition``.
        why: why it belongs to the VM, for people.
    """

    path: str
    file: str
    role: str
    why: str


@dataclass(frozen=True, slots=True)
class Missed:
    """A file that is not carried, and why."""

    path: str
    why: str


@dataclass(frozen=True, slots=True)
class Vm:
    """A VM.

    Attributes:
        name: obeys the rule of names.
        directory: real path of the directory that its files, or its definition, lie in.
        disks, companions: what is carried.
        left_out: what belongs to it and is not carried.
        convention: ``vm.toml``, ``inetdoc``, ``libvirt``, ``quickemu``, ``folder`` or ``image``.
        warnings: what to know before it is restored or started, a sentence each.
    """

    name: str
    directory: str
    disks: tuple[Part, ...]
    companions: tuple[Part, ...] = ()
    left_out: tuple[Missed, ...] = ()
    convention: str = "image"
    warnings: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[Part, ...]:
        """Everything that is carried."""
        return (*self.disks, *self.companions)


@dataclass(frozen=True, slots=True)
class Survey:
    """What was found.

    Attributes:
        vms: in order of name.
        masters: real paths of images that VMs stand on, or that are read-only: no VMs of their own.
        left_out: files that belong to no one VM and are not carried.
    """

    vms: tuple[Vm, ...]
    masters: tuple[str, ...] = ()
    left_out: tuple[Missed, ...] = ()


def over_cap(role: str, size: int) -> str:
    """Return why a companion of that size is left out; "" when it is not."""
    cap = CAPS[role]
    return f"it has {format_size(size)}, and at most {format_size(cap)} are saved" if size > cap else ""


def finished(vm: Vm) -> Vm:
    """Return the VM as a state can name it: no two files alike, every name a name, no list too long.

    Raises:
        UsageError: it has more files than a state holds.
    """
    for parts, what in ((vm.disks, "disks"), (vm.companions, "companions")):
        if len(parts) > MAX_FILES:
            raise UsageError(
                f"VM '{vm.name}' has {len(parts)} {what}",
                why=f"a state holds {MAX_FILES} of them",
                hint=f"say in {shlex.quote(os.path.join(vm.directory, 'vm.toml'))} which files belong to it",
            )
    named = list(_named(vm.parts))
    renamed = tuple(
        f"In a state, {shlex.quote(old.path)} is called '{new.file}'"
        for old, new in zip(vm.parts, named, strict=True)
        if old.file != new.file
    )
    count = len(vm.disks)
    return replace(
        vm,
        disks=tuple(named[:count]),
        companions=tuple(named[count:]),
        left_out=_bounded(vm.left_out, vm.directory),
        warnings=tuple(dict.fromkeys((*vm.warnings, *renamed))),
    )


def _named(parts: tuple[Part, ...]) -> Iterator[Part]:
    """Yield the parts with names that obey the rule, different even where case does not count."""
    taken: set[str] = set()
    for part in parts:
        names = [*map(file_name, part.file.split("/"))]
        wish = "/".join(names)
        file = wish = wish if is_inner_path(wish) else names[-1]  # it lies too deep
        number = 1
        while file.casefold() in taken:
            number += 1
            file = _numbered(wish, number)
        taken.add(file.casefold())
        yield replace(part, file=file)


def file_name(name: str) -> str:
    """Return the nearest name to a file's; the ending of an image stays."""
    if is_name(name):
        return name
    stem, ending = os.path.splitext(name)
    if ending.lower() not in IMAGE_ENDINGS:
        return name_from(name)
    return name_from(stem)[: MAX_NAME - len(ending)] + ending


def _numbered(file: str, number: int) -> str:
    folder, _, name = file.rpartition("/")
    stem, ending = os.path.splitext(name)
    tail = f"-{number}{ending}"
    if len(tail) > MAX_NAME // 2:
        stem, tail = name, f"-{number}"
    return "/".join(filter(None, (folder, stem[: MAX_NAME - len(tail)] + tail)))


def _bounded(missed: tuple[Missed, ...], directory: str) -> tuple[Missed, ...]:
    once = tuple(dict.fromkeys(Missed(one.path, printable(one.why, MAX_TEXT - 1)) for one in missed))
    if len(once) <= MAX_FILES:
        return once
    rest = len(once) - MAX_FILES + 1
    return (*once[: MAX_FILES - 1], Missed(directory, f"{rest} more files here are left out"))
