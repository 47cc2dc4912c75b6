"""The QEMU command of a drill: a VM that is cut off from everything but what a probe needs.

It writes to overlays and copies in its own directory, in which it runs: every file of its own is named by
us, so that no name of a state is ever part of an option. Left out: starting it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from overlaysync.units import GIB, MIB

VARS, TPM_DIRECTORY, TPM_SOCKET = "vars.fd", "tpm", "tpm.sock"
TPM_STATE = f"{TPM_DIRECTORY}/tpm2-00.permall"

_TCG_BUFFER_MIB = 128
"""Translated code; QEMU's own default can be a gigabyte."""
_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
MOST_WRITTEN = 8 * GIB
"""Bytes that a file of a guest may grow to, where there is room for all of them."""
_OVERHEAD = 3 * GIB
"""Address space of QEMU itself beside the guest's memory."""

_FIRMWARE = {
    4 * MIB: ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/edk2/x64/OVMF_CODE.4m.fd"),
    2 * MIB: ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_CODE.fd"),
}
"""Where distributions have the firmware, by the size of code and variables together."""
_VARIABLES = {540672: 4 * MIB, 131072: 2 * MIB}
"""Bytes of the variables, and those of code and variables together."""


@dataclass(frozen=True, slots=True)
class Seed:
    """A disk that configures the guest; it is only read."""

    file: str
    is_cdrom: bool


@dataclass(frozen=True, slots=True)
class Machine:
    """A VM to boot.

    Attributes:
        name: of the VM.
        disks: its overlays, by file name.
        firmware: UEFI code that goes with its variables; "" for a BIOS.
        seeds: disks that configure it.
        tpm: whether it has a TPM.
        memory_mib, processors: what it gets.
        kvm: whether the processor runs it; else it is emulated.
        ports: ports of the guest that this machine must reach; none for no network at all.
        most_written: bytes that each of its files may grow to: a guest must not fill the disk.
    """

    name: str
    disks: tuple[str, ...]
    firmware: str = ""
    variables_format: str = "raw"
    seeds: tuple[Seed, ...] = ()
    tpm: bool = False
    memory_mib: int = 2048
    processors: int = 1
    kvm: bool = False
    ports: tuple[int, ...] = ()
    most_written: int = MOST_WRITTEN

    @property
    def address_space(self) -> int:
        """Bytes that QEMU may map."""
        return self.memory_mib * MIB + _OVERHEAD


@dataclass(frozen=True, slots=True)
class Channels:
    """Descriptors of sockets that QEMU inherits: its monitor, the serial port, the guest agent's port."""

    monitor: int
    serial: int
    agent: int


def firmware_for(size: int) -> tuple[str, ...]:
    """Return where the UEFI code may be that goes with variables of ``size`` bytes."""
    return _FIRMWARE.get(_VARIABLES.get(size, 0), ())


def qemu_command(machine: Machine, channels: Channels) -> list[str]:
    """Return the command that starts a VM, stopped at power-on."""
    return [
        "qemu-system-x86_64",
        *("-name", f"drill-{machine.name}"),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-S"),
        *("-machine", "q35", *_accelerator(machine)),
        *("-m", f"{machine.memory_mib}M", "-smp", str(machine.processors)),
        *("-sandbox", _SANDBOX),
        *("-display", "none", "-vga", "std"),
        *("-device", "virtio-rng-pci", "-device", "pvpanic"),
        *_channels(channels),
        *_drives(machine),
        *_tpm(machine),
        *_network(machine),
    ]


def swtpm_command() -> list[str]:
    """Return the command that starts the TPM on its copied state; it ends with QEMU."""
    return [
        *("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={TPM_DIRECTORY}"),
        *("--ctrl", f"type=unixio,path={TPM_SOCKET}", "--terminate"),
    ]


def isolation_of(machine: Machine) -> str:
    """Return in one sentence what the guest could reach."""
    if not machine.ports:
        return f"{machine.name} had no network card."
    ports = ", ".join(map(str, machine.ports))
    return (
        f"{machine.name} had a network of its own without a way out; this machine alone could reach its "
        f"ports {ports}."
    )


def _accelerator(machine: Machine) -> tuple[str, ...]:
    if machine.kvm:
        return ("-accel", "kvm", "-cpu", "host")
    return ("-accel", f"tcg,tb-size={_TCG_BUFFER_MIB}", "-cpu", "max")


def _channels(channels: Channels) -> Iterator[str]:
    yield from (
        "-chardev",
        f"socket,id=monitor,fd={channels.monitor}",
        "-mon",
        "chardev=monitor,mode=control",
    )
    yield from ("-chardev", f"socket,id=serial,fd={channels.serial}", "-serial", "chardev:serial")
    yield from ("-device", "virtio-serial", "-chardev", f"socket,id=agent,fd={channels.agent}")
    yield from ("-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0")


def _drives(machine: Machine) -> Iterator[str]:
    if machine.firmware:
        yield from ("-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={machine.firmware}")
        yield from ("-drive", f"if=pflash,unit=1,format={machine.variables_format},file={VARS}")
    for file in machine.disks:
        yield from ("-drive", f"if=virtio,format=qcow2,cache=unsafe,discard=unmap,file={file}")
    for seed in machine.seeds:
        bus = "media=cdrom" if seed.is_cdrom else "if=virtio"
        yield from ("-drive", f"{bus},format=raw,readonly=on,file={seed.file}")


def _tpm(machine: Machine) -> Iterator[str]:
    if machine.tpm:
        yield from ("-chardev", f"socket,id=tpm,path={TPM_SOCKET}")
        yield from ("-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-tis,tpmdev=tpm0")


def _network(machine: Machine) -> Iterator[str]:
    if not machine.ports:
        yield from ("-nic", "none")
        return
    # Port 0: the kernel chooses a free one, and the monitor tells which.
    forwards = ",".join(f"hostfwd=tcp:127.0.0.1:0-:{port}" for port in machine.ports)
    yield from ("-netdev", f"user,id=net,restrict=on,{forwards}", "-device", "virtio-net-pci,netdev=net")
