"""The layout of the inetdoc.net labs: files named like the disk or the VM, and ``lab.yaml``.

``ovs-startup.sh`` calls companions ``<file>_OVMF_VARS.fd`` and ``<file>_TPM/``; ``lab-startup.py`` calls them
``<vm>_OVMF_VARS.fd``, ``<vm>_TPM/`` and ``<vm>-seed.img``, and lists VMs in ``lab.yaml``: ``kvm.vms[]`` with
``vm_name``, ``force_copy`` and ``devices.storage[].dev_name``.

The YAML reader makes plain text of every scalar and no objects; aliases are shared and never copied, and its
merge keys (``<<``) are followed here, within bounds.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from overlaysync.errors import UsageError
from overlaysync.formats.recognition import IMAGE_ENDINGS, ending_of
from overlaysync.model.names import name_from, printable
from overlaysync.ops.vms.place import Place, sort_out, stem_of
from overlaysync.ops.vms.vm import Missed, Part, Vm

LABS = ("lab.yaml", "lab.yml")
"""What a lab is called in a directory; one of another name is to be named."""

MAX_LAB = 256 * 1024
"""Bytes of YAML that are read; ours. The reader is slow, and labs have a few KiB."""

_TRUE = ("true", "yes", "on", "y")
_MERGES, _MERGED = 3, 8
"""Levels of merge keys that are followed, and mappings that one merges; ours."""


@dataclass(frozen=True, slots=True)
class LabVm:
    """What a lab says of a VM.

    Attributes:
        name: ``vm_name``.
        ending: of its disk, which is its master's; "" when the lab does not tell.
        data: names of its further disks.
        force_copy: whether its start replaces its disk by a copy of the master.
    """

    name: str
    ending: str = ""
    data: tuple[str, ...] = ()
    force_copy: bool = False


def read_lab(text: bytes, path: str) -> tuple[LabVm, ...] | None:
    """Return the VMs of a lab; None when it lists none.

    Raises:
        UsageError: it is no YAML, or names what cannot be a file beside it.
    """
    if len(text) > MAX_LAB:
        raise _wrong(path, f"it has {len(text)} bytes, and at most {MAX_LAB} are read")
    try:
        document = yaml.load(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _wrong(path, printable(" ".join(str(error).split()))) from None
    listed = _get(_get(document, "kvm"), "vms")
    if not isinstance(listed, list):
        return None
    found = [_lab_vm(entry, path) for entry in listed if isinstance(_get(entry, "vm_name"), str)]
    return tuple(found) or None


def vms_of_lab(place: Place, name: str, lab: tuple[LabVm, ...]) -> Iterator[Vm | Missed]:
    """Yield the VMs of a lab that have a disk beside it, and why others have none."""
    definition = place.companion(name, "definition", f"it lists the VMs of this directory as {name}")
    for one in lab:
        names = [f"{one.name}{ending}" for ending in ([one.ending] if one.ending else IMAGE_ENDINGS)]
        disk = next((file for file in names if file in place.entries), "")
        if place.entries.get(disk) == "file":
            yield _vm_of_lab(place, name, one, disk, definition)
        elif disk:
            yield Missed(place.join(disk), f"{name} lists this VM, but its disk is a {place.entries[disk]}")
        else:
            yield Missed(place.join(names[0]), f"{name} lists this VM, which has no disk here yet")


def _vm_of_lab(place: Place, name: str, one: LabVm, disk: str, definition: Part | Missed | None) -> Vm:
    parts = [Part(place.join(disk), disk, "disk", f"{name} lists a VM of this name")]
    missed: list[Part | Missed | None] = []
    for file in one.data:
        kind = place.entries.get(file)
        if kind == "file":
            parts.append(Part(place.join(file), file, "disk", f"{name} lists it as a further disk of the VM"))
        else:
            reason = f"it is a {kind}" if kind else "it is not there"
            missed.append(Missed(place.join(file), f"{name} lists it as a further disk, but {reason}"))
    found = [*missed, *companions_by_name(place, [disk], one.name), definition]
    companions, left_out = sort_out(found)
    warning = (
        f"{name} says 'force_copy: true' for {printable(one.name)}: the next start with lab-startup.py "
        "overwrites its disk with a copy of the master; set it to false before you start a restored VM"
    )
    return Vm(
        name_from(one.name),
        place.path,
        tuple(parts),
        companions,
        left_out,
        "inetdoc",
        (warning,) if one.force_copy else (),
    )


def companions_by_name(place: Place, disks: list[str], vm: str = "") -> list[Part | Missed | None]:
    """Return the companions that are named like one of the disks, or like the VM."""
    found: list[Part | Missed | None] = []
    stems = dict.fromkeys([*disks, *([vm] if vm else []), *map(stem_of, disks)])
    for stem in stems:
        like = "the disk" if stem in disks else "the VM"
        variables = f"{stem}_OVMF_VARS.fd"
        found.append(place.companion(variables, "uefi", f"named like {like}, with _OVMF_VARS.fd"))
        if f"{stem}_TPM" in place.entries:
            found += place.tpm(f"{stem}_TPM", f"in the directory named like {like}, with _TPM")
        for ending in ("img", "iso"):
            seed = f"{stem}-seed.{ending}"
            found.append(place.companion(seed, "seed", f"named like {like}, with -seed.{ending}"))
    return found


def _lab_vm(entry: object, path: str) -> LabVm:
    name, storage = str(_get(entry, "vm_name")), _get(_get(entry, "devices"), "storage")
    data = [_get(device, "dev_name") for device in storage] if isinstance(storage, list) else []
    files = tuple(dict.fromkeys(file for file in data if isinstance(file, str) and file))
    for file in (name, *files):
        if file in (".", "..") or "/" in file or "\0" in file:
            raise _wrong(path, f"'{printable(file)}' cannot be a file beside it")
    return LabVm(
        name,
        ending_of(str(_get(entry, "master_image"))),
        files,
        str(_get(entry, "force_copy")).lower() in _TRUE,
    )


def _get(node: object, key: str, depth: int = _MERGES) -> object:
    """Return what a mapping holds under ``key``, itself or by its merge keys; None where it holds nothing."""
    if not isinstance(node, dict):
        return None
    if key in node:
        return node[key]
    merged = node.get("<<")
    for other in merged[:_MERGED] if isinstance(merged, list) else [merged]:
        found = _get(other, key, depth - 1) if depth else None
        if found is not None:
            return found
    return None


def _wrong(path: str, why: str) -> UsageError:
    return UsageError(
        f"Cannot read {path} as a lab",
        why=why,
        hint=f"correct it, or name the images themselves: ls {shlex.quote(os.path.dirname(path) or '.')}",
    )
