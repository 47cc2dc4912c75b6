"""Directories of VMs for tests: images made by QEMU, and the files that lie beside them."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from overlaysync.ops.vms.find import find_vms
from overlaysync.ops.vms.vm import PERMALL, Vm
from overlaysync.units import MIB
from tests.images import create

OVMF_VARS = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")


def variables() -> bytes:
    """UEFI variables: Debian's where the package ovmf is installed, else the head of a firmware volume."""
    if OVMF_VARS.exists():
        return OVMF_VARS.read_bytes()
    return bytes(40) + b"_FVH" + bytes(131072 - 44)


def disk(path: Path, backing: Path | None = None) -> Path:
    """A writable image, or an overlay."""
    return create(path, None if backing else MIB, backing=backing)


def master(path: Path) -> Path:
    """An image that nobody may write to."""
    create(path, MIB).chmod(0o444)
    return path


def tpm(directory: Path) -> Path:
    """The state of a TPM, and what swtpm has beside it."""
    directory.mkdir(parents=True)
    (directory / PERMALL).write_bytes(b"state of a TPM")
    (directory / "tpm2-00.volatilestate").write_bytes(b"v")
    (directory / ".lock").touch()
    return directory / PERMALL


def listen(path: Path) -> None:
    """A socket in the file system, as a monitor of QEMU; its path may be too long for the kernel."""
    before = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(path.name)
    finally:
        os.chdir(before)


def only(*paths: Path) -> Vm:
    """The one VM of these paths."""
    (vm,) = find_vms([str(path) for path in paths])
    return vm


def names(vms: list[Vm]) -> list[str]:
    return [vm.name for vm in vms]


def files(vm: Vm) -> dict[str, str]:
    """Role of each file that is carried."""
    return {part.file: part.role for part in vm.parts}


def left(vm: Vm) -> dict[str, str]:
    """Why each file is left out."""
    return {os.path.relpath(missed.path, vm.directory): missed.why for missed in vm.left_out}
