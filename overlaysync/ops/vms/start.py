"""The line that starts a VM: made of names alone, after a restore as well, and quoted for a shell.

It is printed for people, and never run here. ``MEMORY_MIB`` and ``TAP_NUMBER`` are theirs to fill in.
"""

from __future__ import annotations

import html
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from overlaysync.formats.recognition import ending_of
from overlaysync.ops.vms.vm import PERMALL

_CODE = "/usr/share/OVMF/OVMF_CODE_4M.fd"
"""Where Debian has the firmware that goes with the variables of 528 KiB."""


class File(Protocol):
    """A disk of a VM."""

    @property
    def file(self) -> str:
        """Its name in a state."""
        ...


class RoleFile(File, Protocol):
    """A companion of a VM."""

    @property
    def role(self) -> str:
        """What it is."""
        ...


class Startable(Protocol):
    """A VM that was found, or one in a state."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def disks(self) -> Sequence[File]:
        """Its disks."""
        ...

    @property
    def companions(self) -> Sequence[RoleFile]:
        """Its companions."""
        ...


def start_line(vm: Startable, directory: str = "", *, moved: bool = False) -> str:
    """Return the line that starts a VM whose files lie in ``directory`` under their names in a state.

    Args:
        vm: a :class:`overlaysync.ops.vms.vm.Vm`, or a VM of a state.
        directory: where its files are; "" for the current directory.
        moved: its definition may say that they are elsewhere, as after a restore on another machine.
    """
    disks = [disk.file for disk in vm.disks]
    files = {role: _of_role(vm.companions, role) for role in ("uefi", "tpm", "seed", "definition")}
    line = " && ".join(shlex.join(words) for words in _commands(vm.name, disks, files))
    if moved and directory and line.startswith("virsh "):
        line = f"{_named_here(disks, files, directory)} && {line}"
    return f"cd {shlex.quote(_plain(directory))} && {line}" if directory else line


def _commands(name: str, disks: list[str], files: dict[str, list[str]]) -> Iterator[list[str]]:
    """Yield the commands, which run one after the other."""
    for file in files["definition"]:
        if file.endswith((".yaml", ".yml")):
            yield ["lab-startup.py", _plain(file)]
            return
        if file.endswith(".xml"):
            yield ["virsh", "define", _plain(file)]
            yield ["virsh", "start", name]
            return
        if file.endswith(".conf"):
            yield ["quickemu", "--vm", _plain(file)]
            return
    if disks and _is_inetdoc(disks[0], files):
        yield ["ovs-startup.sh", _plain(disks[0]), "MEMORY_MIB", "TAP_NUMBER"]
        return
    tpm = [os.path.dirname(_plain(file)) or "." for file in files["tpm"][:1]]
    for folder in tpm:
        socket = f"type=unixio,path={folder}/swtpm-sock"
        yield ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={folder}", "--ctrl", socket, "--daemon"]
    yield [*_qemu(name, disks, files), *(word for folder in tpm for word in _tpm(folder))]


def _named_here(disks: list[str], files: dict[str, list[str]], directory: str) -> str:
    """Return the command that makes a domain's XML name the files beside it, where a restore puts them."""
    there = re.sub(r"([\\&#])", r"\\\1", _in_xml(os.path.join(directory, "")))
    names = "|".join(re.escape(_in_xml(name)) for name in (*disks, *files["seed"]))
    changes = [rf"s#file='[^']*/({names})'#file='{there}\1'#"]
    if files["uefi"]:
        changes.append(rf"s#(<nvram[^>]*>)[^<]*/#\1{there}#")
    words = (f"-e {_quoted(change)}" for change in changes)
    return f"sed -E -i {' '.join(words)} {shlex.quote(_plain(files['definition'][0]))}"


def _quoted(word: str) -> str:
    """Return a word in double quotes where a shell changes nothing in these: easier to read."""
    return shlex.quote(word) if re.search(r'["$`!]|\\[\\\n]', word) else f'"{word}"'


def _in_xml(text: str) -> str:
    """Return text as libvirt writes it into an attribute."""
    return html.escape(text, quote=False).replace("'", "&apos;")


def _is_inetdoc(disk: str, files: dict[str, list[str]]) -> bool:
    """Whether the companions have the names that ``ovs-startup.sh`` looks for."""
    return f"{disk}_OVMF_VARS.fd" in files["uefi"] or f"{disk}_TPM/{PERMALL}" in files["tpm"]


def _qemu(name: str, disks: list[str], files: dict[str, list[str]]) -> Iterator[str]:
    yield from ("qemu-system-x86_64", "-name", name, "-machine", "q35,accel=kvm:tcg", "-m", "2048")
    for file in files["uefi"][:1]:
        format = "qcow2" if file.endswith(".qcow2") else "raw"
        yield from ("-drive", f"if=pflash,format=raw,readonly=on,file={_CODE}")
        yield from ("-drive", f"if=pflash,format={format},file={_value(file)}")
    for file in disks:
        # An .img can be of any format: QEMU looks, and guards against a raw one that changes its own.
        format = ending_of(file).removeprefix(".")
        known = f"format={format}," if format and format != "img" else ""
        yield from ("-drive", f"{known}if=virtio,file={_value(file)}")
    for file in files["seed"]:
        media = "media=cdrom," if file.endswith(".iso") else "if=virtio,"
        yield from ("-drive", f"format=raw,readonly=on,{media}file={_value(file)}")


def _tpm(folder: str) -> tuple[str, ...]:
    chardev = f"socket,id=chrtpm,path={folder}/swtpm-sock"
    tpmdev = "emulator,id=tpm0,chardev=chrtpm"
    return ("-chardev", chardev, "-tpmdev", tpmdev, "-device", "tpm-tis,tpmdev=tpm0")


def _of_role(companions: Iterable[RoleFile], role: str) -> list[str]:
    return [one.file for one in companions if one.role == role]


def _value(file: str) -> str:
    """Return a file as the value of a QEMU option, in which a comma is doubled."""
    return _plain(file).replace(",", ",,")


def _plain(file: str) -> str:
    """Return a path that no program takes for an option."""
    return f"./{file}" if file.startswith("-") else file
