"""What show prints of VMs: which files belong to each and why, and what is left out."""

from __future__ import annotations

import os
from typing import Any

from overlaysync.cli.output import Output
from overlaysync.cli.tables import Table
from overlaysync.ops.vms.find import survey
from overlaysync.ops.vms.start import start_line
from overlaysync.ops.vms.vm import Vm

_DEFINITIONS = (".yaml", ".yml", ".xml", ".conf", ".toml")


def is_of_vms(path: str) -> bool:
    """Whether a path stands for VMs: a directory, or a definition."""
    return os.path.isdir(path) or path.lower().endswith(_DEFINITIONS)


def show_vms(output: Output, path: str) -> None:
    """Print the VMs that a path stands for."""

    found = survey([path])
    parts = [part for vm in found.vms for part in _parts(vm)]
    parts += [f"master  {path}" for path in found.masters]
    parts += [f"left out  {one.path}  {one.why}" for one in found.left_out]
    output.result(
        {
            "vms": [_fields(vm) for vm in found.vms],
            "masters": list(found.masters),
            "left_out": [{"path": one.path, "why": one.why} for one in found.left_out],
        },
        *parts,
    )


def _parts(vm: Vm) -> list[str | Table]:
    rows = [(part.role, part.file, part.why) for part in vm.parts]
    rows += [("left out", os.path.basename(one.path), one.why) for one in vm.left_out]
    return [
        f"{vm.name}  ({vm.convention}, in {vm.directory})",
        Table(rows, indent=2),
        *(f"  note: {warning}" for warning in vm.warnings),
        f"  starts with: {start_line(vm, vm.directory)}",
    ]


def _fields(vm: Vm) -> dict[str, Any]:
    return {
        "name": vm.name,
        "convention": vm.convention,
        "directory": vm.directory,
        "disks": [{"path": one.path, "why": one.why} for one in vm.disks],
        "companions": [
            {"path": one.path, "file": one.file, "role": one.role, "why": one.why} for one in vm.companions
        ],
        "left_out": [{"path": one.path, "why": one.why} for one in vm.left_out],
        "warnings": list(vm.warnings),
        "start": start_line(vm, vm.directory),
    }
