"""VMs: which files belong to which guest."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Part:
    """A file of a VM."""

    path: str
    file: str
    role: str
    why: str


@dataclass(frozen=True, slots=True)
class Missed:
    """A file that is left out."""

    path: str
    why: str


@dataclass(frozen=True, slots=True)
class Vm:
    """A VM."""

    name: str
    directory: str
    disks: tuple[Part, ...]
    companions: tuple[Part, ...]
    left_out: tuple[Missed, ...]
    convention: str
    warnings: tuple[str, ...] = ()


def find_vms(paths: Sequence[str]) -> list[Vm]:
    """Return the VMs of these images."""
    found = []
    for path in paths:
        real = os.path.realpath(path)
        name = os.path.splitext(os.path.basename(real))[0]
        found.append(
            Vm(
                name,
                os.path.dirname(real),
                (Part(real, os.path.basename(real), "disk", ""),),
                (),
                (),
                "image",
            )
        )
    return found
