"""libvirt: the XML of a domain, as ``virsh dumpxml --inactive`` prints it.

The XML may name any file of the machine, and may have come from elsewhere. So what it names is taken only if
it is what it is said to be: a disk has to be an image, UEFI variables begin like a firmware volume or qcow2,
a seed is a small file system; the path of a TPM's state follows from the UUID. Entities are refused.

Source: libvirt docs/formatdomain; qemu_conf.c and qemu_tpm.c for the default directories.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from overlaysync.errors import UsageError
from overlaysync.formats.folders import Folder
from overlaysync.formats.image import MAGIC, Format
from overlaysync.formats.recognition import has_disk_signature
from overlaysync.model.companions import CAPS
from overlaysync.model.names import name_from, printable
from overlaysync.ops.vms.place import Place, sort_out
from overlaysync.ops.vms.vm import PERMALL, Missed, Part, Vm

SYSTEM = "/var/lib/libvirt"
"""Where the system's libvirt keeps what belongs to its VMs."""

MAX_DISKS = 256
"""Devices of a domain that are looked at; ours."""

_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_VOLUME_MAGIC, _VOLUME_AT = b"_FVH", 40
"""How a firmware volume is known (UEFI Platform Initialization 1.7, vol. 3, EFI_FIRMWARE_VOLUME_HEADER)."""


@dataclass(frozen=True, slots=True)
class Device:
    """A disk, CD-ROM or floppy of a domain; ``path`` is "" where it is no file."""

    device: str
    kind: str
    path: str
    target: str

    @property
    def is_disk(self) -> bool:
        """Whether it is a disk, and no drive for CDs or floppies."""
        return self.device not in ("cdrom", "floppy")


@dataclass(frozen=True, slots=True)
class Domain:
    """What the XML says of a VM.

    Attributes:
        name, uuid: its own; the UUID is "" where there is none.
        devices: its disks, CD-ROMs and floppies.
        nvram: path of its UEFI variables; "" when it does not say.
        uefi: whether it has any.
        tpm: whether it has a TPM that is a program.
        tpm_path: directory of the TPM's state; "" when it does not say.
        secret: whether it holds a password of its console.
        masters: whether it names what its disks stand on, as it does while the domain runs.
    """

    name: str
    uuid: str
    devices: tuple[Device, ...]
    nvram: str = ""
    uefi: bool = False
    tpm: bool = False
    tpm_path: str = ""
    secret: bool = False
    masters: bool = False


def read_domain(text: bytes, path: str) -> Domain:
    """Return what the XML of a domain says.

    Raises:
        UsageError: it is no XML, has entities, or describes no domain.
    """
    try:
        root = fromstring(text, forbid_dtd=True)
    except DefusedXmlException:
        raise _wrong(path, "it declares a document type or entities, which no domain needs") from None
    except (ParseError, ValueError, LookupError, RecursionError) as error:
        raise _wrong(path, printable(str(error))) from None
    name = (root.findtext("name") or "").strip()
    if root.tag != "domain" or not name:
        raise _wrong(path, "it does not describe a domain with a name")
    uuid = (root.findtext("uuid") or "").strip()
    backend = root.find("devices/tpm/backend")
    return Domain(
        name,
        uuid.lower() if _UUID.fullmatch(uuid) else "",
        tuple(_device(disk) for disk in root.findall("devices/disk")[:MAX_DISKS]),
        (root.findtext("os/nvram") or "").strip() or _source(root.find("os/nvram/source")),
        root.find("os/nvram") is not None or _get(root.find("os"), "firmware") == "efi",
        backend is not None and _get(backend, "type") == "emulator",
        _source(backend.find("source")) if backend is not None else "",
        any(graphics.get("passwd") for graphics in root.findall("devices/graphics")),
        root.find("devices/disk/backingStore/source") is not None,
    )


def vm_of_domain(place: Place, name: str, domain: Domain) -> Vm:
    """Return the VM that the XML file ``name`` of a directory describes.

    Raises:
        UsageError: it has no disk that is a file.
    """
    with ExitStack() as opened:
        finder = _Finder(place, opened)
        disks, found = [], [place.companion(name, "definition", "libvirt's description of the VM")]
        for device in domain.devices:
            if device.is_disk and device.path:
                path = finder.place_of(device.path)
                why = f"{name} names it as disk {device.target}"
                disks.append(Part(path, os.path.basename(path), "disk", why))
            elif not device.is_disk:
                found.append(finder.removable(device, name))
        found += [*finder.variables(domain, name), *finder.tpm(domain, name)]
    if not disks:
        raise UsageError(
            f"The VM of {place.join(name)} has no disk that is a file",
            why="only disks in files are saved",
            hint="name the images themselves; what virsh knows: virsh domblklist " + shlex.quote(domain.name),
        )
    companions, left_out = sort_out(found)
    return Vm(
        name_from(domain.name),
        place.path,
        tuple(disks),
        companions,
        left_out,
        "libvirt",
        tuple(_warnings(domain, name)),
    )


def _warnings(domain: Domain, name: str) -> Iterator[str]:
    if domain.secret:
        yield f"{name} holds the password of the console; to write it without one: virsh dumpxml --inactive"
    if domain.masters:
        yield (
            f"{name} names the masters of its disks, which a restore may put elsewhere; to write it again: "
            f"virsh dumpxml --inactive {shlex.quote(domain.name)}"
        )
    for device in domain.devices:
        if device.is_disk and not device.path:
            yield f"Disk {device.target} of {domain.name} is not a file ({device.kind}), and is not saved"
    if name_from(domain.name) != domain.name:
        yield f"libvirt calls the VM {shlex.quote(printable(domain.name))}"


class _Finder:
    """Finds the files that the XML names, wherever they are."""

    def __init__(self, place: Place, opened: ExitStack) -> None:
        self._place = place
        self._opened = opened

    def place_of(self, path: str) -> str:
        """Return where a file is: where the XML says, or beside the XML if it is only there."""
        beside = self._place.join(os.path.basename(path))
        if not os.path.isabs(path):
            path = self._place.join(path)
        return beside if not os.path.lexists(path) and os.path.lexists(beside) else os.path.normpath(path)

    def taken(
        self, path: str, role: str, why: str, file: str, looks: Callable[[int], bool] | None = None
    ) -> Part | Missed | None:
        """Return a companion at any path, if it looks like one."""
        try:
            folder = Folder.open(os.path.dirname(path))
        except OSError as error:
            gone = isinstance(error, FileNotFoundError)
            return None if gone else Missed(path, (error.strerror or "it cannot be opened").lower())
        self._opened.callback(folder.close)
        inner = Place(folder, self._place.trusted)
        found = inner.companion(os.path.basename(path), role, why, file)
        if isinstance(found, Part) and looks is not None and not _looks(inner, found, looks):
            return Missed(path, "it does not begin like the format that it is said to have")
        return found

    def removable(self, device: Device, name: str) -> Missed | Part | None:
        """Return the seed in a CD-ROM drive, or why what is in a drive is left out."""
        if not device.path:
            return None
        path = self.place_of(device.path)
        try:
            small = os.stat(path, follow_symlinks=False).st_size <= CAPS["seed"]
        except OSError:
            return None
        if device.device == "cdrom" and small:
            why = f"{name} has it in CD-ROM drive {device.target}, and it is small"
            return self.taken(path, "seed", why, os.path.basename(path), has_disk_signature)
        return Missed(
            path, f"{name} has it in drive {device.target}; images of CDs and floppies do not travel"
        )

    def variables(self, domain: Domain, name: str) -> Iterator[Part | Missed]:
        """Yield the UEFI variables."""
        if not domain.uefi:
            return
        if domain.nvram:
            paths, why = [self.place_of(domain.nvram)], f"{name} names it as nvram"
        else:
            own, file = _config(), os.path.basename(f"{domain.name}_VARS.fd")
            paths = [os.path.join(root, "qemu", "nvram", file) for root in (SYSTEM, own)]
            why = "libvirt keeps the UEFI variables here"
        found = [self.taken(path, "uefi", why, os.path.basename(path), _is_variables) for path in paths]
        yield _best(found) or Missed(paths[0], f"{name} has UEFI variables, which are not there")

    def tpm(self, domain: Domain, name: str) -> Iterator[Part | Missed]:
        """Yield the state of the TPM, under its UUID."""
        if not domain.tpm:
            return
        if not domain.uuid:
            yield Missed(self._place.join(name), "it has a TPM, but no UUID that says where its state is")
            return
        roots = (f"{SYSTEM}/swtpm", os.path.join(_config(), "qemu", "swtpm"), self._place.path)
        file = f"{domain.uuid}/tpm2/{PERMALL}"
        paths = [os.path.join(root, file) for root in roots]
        if os.path.isabs(domain.tpm_path):
            paths.insert(0, os.path.join(domain.tpm_path, PERMALL))
        why = f"the state of the TPM of {domain.name}, under its UUID"
        found = [self.taken(path, "tpm", why, file) for path in paths]
        yield _best(found) or Missed(paths[0], f"{name} has a TPM, whose state is not there")


def _best(found: list[Part | Missed | None]) -> Part | Missed | None:
    """Return the first that can be carried, else the first that is there at all."""
    parts = [one for one in found if isinstance(one, Part)]
    return next(iter((*parts, *(one for one in found if one))), None)


def _looks(place: Place, part: Part, looks: Callable[[int], bool]) -> bool:
    fd = place.find(os.path.basename(part.path)).open()
    try:
        return looks(fd)
    finally:
        os.close(fd)


def _is_variables(fd: int) -> bool:
    return (
        os.pread(fd, len(_VOLUME_MAGIC), _VOLUME_AT) == _VOLUME_MAGIC
        or os.pread(fd, 4, 0) == MAGIC[Format.QCOW2]
    )


def _device(disk: Element) -> Device:
    source, target = disk.find("source"), disk.find("target")
    kind = disk.get("type", "file")
    path = _get(source, "file") if kind == "file" else ""
    return Device(disk.get("device", "disk"), printable(kind), path, printable(_get(target, "dev")) or "?")


def _source(element: Element | None) -> str:
    return _get(element, "file") or _get(element, "path")


def _get(element: Element | None, key: str) -> str:
    value = "" if element is None else element.get(key, "")
    return "" if "\0" in value else value


def _config() -> str:
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return os.path.join(home, "libvirt")


def _wrong(path: str, why: str) -> UsageError:
    return UsageError(
        f"Cannot read {path} as the XML of a libvirt domain",
        why=why,
        hint=f"write it again: virsh dumpxml --inactive NAME > {shlex.quote(path)}",
    )
