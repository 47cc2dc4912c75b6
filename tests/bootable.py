"""A master that boots into the guest of :mod:`tests.guest` by itself, with a BIOS or with UEFI, as users' do.

One FAT file system without a partition table: a BIOS finds syslinux in its first sector, and UEFI finds
``EFI/BOOT/BOOTX64.EFI``, which is systemd's stub joined with the kernel and the initramfs. Behind it is room
for data: what a VM has there it prints on its serial port when it boots, after ``DATA``.
"""

from __future__ import annotations

import gzip
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from overlaysync.units import KIB, MIB
from tests import guest
from tests.guest import DIES_WITH_US, Serial, kernel

DATA_AT = 40 * MIB
SIZE = DATA_AT + MIB

_STUB = Path("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")
_LINE = "console=ttyS0 quiet"
_SYSLINUX = f"DEFAULT one\nPROMPT 0\nLABEL one\nKERNEL vmlinuz\nINITRD initrd\nAPPEND {_LINE}\n"
_ADDRESSES = {".osrel": 0x20000, ".cmdline": 0x30000, ".linux": 0x2000000, ".initrd": 0x4000000}
"""Where systemd's documentation puts the sections of a unified kernel image."""
_READY = 'echo "READY'
_SECTOR = f'dd if=/dev/vda bs=512 skip=$(({DATA_AT // 512} + %d)) count=1 2>/err | tr -d "\\\\000"'
_SHOW = f'echo "DATA $({_SECTOR % 0})"\n'
_RUN = f'eval "$({_SECTOR % 1})"\n'


def make_bootable(path: Path, *, uefi: bool = False, agent: bool = False) -> Path:
    """Make a raw master at ``path`` that prints ``DATA`` and ``READY``, and then takes orders.

    On request it has the guest agent, which begins on the order ``agent``.
    """
    path = path.absolute()
    work = path.parent / f".{path.name}.parts"
    work.mkdir()
    (work / "initrd").write_bytes(_initramfs(agent))
    (work / "cmdline").write_text(_LINE)
    (work / "osrel").write_text("ID=test\nNAME=test\nVERSION_ID=1\n")
    (work / "syslinux.cfg").write_text(_SYSLINUX)
    with path.open("wb") as file:
        file.truncate(SIZE)
    _run(work, "mkfs.vfat", "-n", "BOOT", path, DATA_AT // KIB)
    if uefi:
        _join(work, {".osrel": "osrel", ".cmdline": "cmdline", ".linux": str(kernel()), ".initrd": "initrd"})
        _run(work, "mmd", "-i", path, "::EFI", "::EFI/BOOT")
        _run(work, "mcopy", "-i", path, "joined.efi", "::EFI/BOOT/BOOTX64.EFI")
    else:
        _run(work, "syslinux", "--install", path)
        _run(work, "mcopy", "-i", path, kernel(), "::vmlinuz")
        _run(work, "mcopy", "-i", path, "initrd", "syslinux.cfg", "::")
    shutil.rmtree(work)
    path.chmod(0o444)
    return path


def make_vm(path: Path, master: Path) -> Path:
    """Make a qcow2 overlay on a master beside it."""
    words = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", master.name, str(path)]
    subprocess.run(words, check=True)
    return path


def write_data(path: Path, text: str, *, runs: str = "") -> None:
    """Write what a VM shows when it boots, and a line of shell that it runs then."""
    data = path.parent / f".{path.name}.data"
    data.write_bytes(text.encode().ljust(512, b"\0") + runs.encode().ljust(512, b"\0"))
    order = f"write -q -s {data} {DATA_AT} 1024"
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", order, str(path)], check=True)
    data.unlink()


def shown_by(disks: Mapping[str, Sequence[Path]]) -> dict[str, str]:
    """What VMs show when they boot from their disks, all at once; what they write is thrown away."""
    shown = {}
    with ExitStack() as stack:
        ports = {name: stack.enter_context(_booting(paths)) for name, paths in disks.items()}
        for name, port in ports.items():
            shown[name] = port.until("DATA").removeprefix("DATA").strip()
            port.until("READY")
    return shown


@contextmanager
def _booting(disks: Sequence[Path]) -> Iterator[Serial]:
    """The serial port of a VM that boots from its first disk."""
    words = ["qemu-system-x86_64", "-machine", "q35,accel=tcg", "-m", "192", "-nodefaults", "-snapshot"]
    for disk in disks:
        words += ["-drive", f"file={disk},if=virtio,format=qcow2"]
    with TemporaryDirectory() as place:
        words += ["-display", "none", "-serial", f"unix:{place}/serial,server=on,wait=off"]
        with subprocess.Popen([*DIES_WITH_US, *words]) as process:
            try:
                port = Serial(Path(place) / "serial")
                yield port
                port.close()
            finally:
                process.kill()


@cache
def _initramfs(agent: bool) -> bytes:
    modules = Path("/lib/modules") / kernel().name.removeprefix("vmlinuz-")
    drivers = guest._with_dependencies(modules)
    init = guest._INIT.replace(_READY, _SHOW + _RUN + _READY)
    files = {"init": init.encode(), "bin/busybox": Path("/bin/busybox").read_bytes()}
    if agent:
        files |= guest.agent_files()
    files |= {f"lib/{driver.name}": driver.read_bytes() for driver in drivers}
    files["lib/order"] = "\n".join(driver.name for driver in drivers).encode()
    return gzip.compress(guest._cpio(files, ("proc", "sys", "dev", "mnt")), 1)


def _join(work: Path, sections: Mapping[str, str]) -> None:
    words = ["objcopy"]
    for name, file in sections.items():
        words += ["--add-section", f"{name}={file}", "--change-section-vma", f"{name}={_ADDRESSES[name]:#x}"]
    _run(work, *words, _STUB, "joined.efi")


def _run(work: Path, *words: object) -> None:
    subprocess.run(list(map(str, words)), check=True, cwd=work, stdout=subprocess.DEVNULL)
