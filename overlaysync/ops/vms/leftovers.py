"""What lies beside the files of a VM and never travels: sockets, logs, firmware code, ISO images."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator

from overlaysync.formats.recognition import ending_of
from overlaysync.ops.vms.place import Place, is_seed, is_vars, stem_of
from overlaysync.ops.vms.vm import Missed, Vm

_BY_KIND = {
    "socket": "it is a socket, which is created again at the next start",
    "FIFO": "it is a FIFO, which is created again at the next start",
    "device": "it is a device, not a file",
}
_BY_NAME = (
    (
        re.compile(r".*(?:OVMF|AAVMF|EFI|edk2).*code.*|.*_CODE(?:[._-].*)?\.fd", re.I),
        "it is firmware code, which every machine has",
    ),
    (re.compile(r".*\.pid", re.I), "it holds the number of a process"),
    (re.compile(r".*\.(?:log|out|err)(?:\.\d+)?", re.I), "it is a log"),
    (re.compile(r".*\.iso", re.I), "it is an ISO image, not a disk"),
    (re.compile(r".*\.(?:lock|lck)", re.I), "it is a lock, which a running program holds"),
    (re.compile(r".*\.(?:sock|socket|qmp|monitor|mon|ports)", re.I), "it leads to a running VM"),
    (re.compile(r".*volatilestate.*", re.I), "it is what a running TPM keeps until it ends"),
)
_LINK = "it is a link, and links are not followed"
_UNKNOWN = "it is named like the VM, but is not a known kind of companion; a vm.toml can name it"
_WHOSE = "it could belong to several VMs here; say whose it is in a vm.toml"


def why_left(name: str, kind: str) -> str:
    """Return why a file never travels; "" when its name and kind do not tell."""
    if kind == "directory":
        return ""
    named = next((reason for pattern, reason in _BY_NAME if pattern.fullmatch(name)), "")
    return _BY_KIND.get(kind, "") or named or (_LINK if kind == "link" else "")


def leftovers(
    place: Place, vms: Iterable[Vm], known: Iterable[str], *, whole: bool
) -> Iterator[tuple[Vm | None, Missed]]:
    """Yield what lies in a directory and is not carried, with the VM that it belongs to.

    Args:
        place: the directory.
        vms: those that have a file in it.
        known: paths that are spoken of already.
        whole: whether all VMs of the directory are meant; else only what is named like one of them counts.
    """
    here, spoken = list(vms), set(known)
    for name, kind in place.entries.items():
        if place.join(name) in spoken or kind == "directory":
            continue
        vm = _named_like(place, name, here)
        reason = why_left(name, kind)
        companion = is_vars(name) or is_seed(name)
        if reason == _LINK and not (vm or companion or ending_of(name)):
            continue
        if not reason and companion:
            reason = _WHOSE
        elif not reason and vm:
            reason = _UNKNOWN
        if reason:
            owner = vm or (here[0] if len(here) == 1 else None)
            if vm or whole:
                yield owner, Missed(place.join(name), reason)


def _named_like(place: Place, name: str, vms: Iterable[Vm]) -> Vm | None:
    """Return the VM whose name, or whose disk's, a file's name begins with; the longest counts."""
    best: tuple[int, Vm | None] = (0, None)
    for vm in vms:
        disks = [os.path.basename(part.path) for part in vm.disks if os.path.dirname(part.path) == place.path]
        for begin in (vm.name, *disks, *map(stem_of, disks)):
            rest = name[len(begin) :]
            if name.startswith(begin) and not rest[:1].isalnum() and len(begin) > best[0]:
                best = (len(begin), vm)
    return best[1]
