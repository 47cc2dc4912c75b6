"""VMs that nothing describes: names alone say which images and files belong together.

Rules:
    1. In a directory of one VM, its companions may have any name that tells what they are
       (``OVMF_VARS.fd``, ``tpm/tpm2-00.permall``, ``seed.iso``). It is called like its disk; or like the
       directory, where all disks have names that say nothing (``hda.qcow2`` and ``hdb.qcow2``).
    2. Elsewhere each image is a VM of its own, with the companions that are named like it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from overlaysync.formats.recognition import is_generic
from overlaysync.model.names import name_from
from overlaysync.ops.vms.inetdoc import companions_by_name
from overlaysync.ops.vms.place import Place, is_seed, is_vars, sort_out, stem_of
from overlaysync.ops.vms.vm import PERMALL, Missed, Part, Vm


def vms_of_images(place: Place, files: Sequence[str], *, alone: bool) -> Iterator[Vm]:
    """Yield the VMs of some images of a directory.

    Args:
        place: the directory.
        files: names of the images.
        alone: whether no other VM has a disk in the directory.
    """
    if alone and files and all(is_generic(stem_of(file)) for file in files):
        yield _vm(place, list(files), os.path.basename(place.path), loose=True)
        return
    for file in files:
        yield _vm(place, [file], stem_of(file), loose=alone and len(files) == 1)


def _vm(place: Place, files: list[str], name: str, *, loose: bool) -> Vm:
    named = companions_by_name(place, files)
    nearby = list(_loose(place)) if loose else []
    companions, left_out = sort_out([*named, *nearby])
    generic = is_generic(stem_of(files[0])) and loose
    why = "it lies in the directory of the VM" if generic else "the VM is called like it"
    if any(isinstance(one, Part) for one in named):
        convention = "inetdoc"
    else:
        convention = "folder" if companions or generic else "image"
    disks = tuple(Part(place.join(file), file, "disk", why) for file in files)
    return Vm(name_from(name), place.path, disks, companions, left_out, convention)


def _loose(place: Place) -> Iterator[Part | Missed | None]:
    """Yield the companions in the directory of one VM."""
    for name, kind in place.entries.items():
        if kind == "directory":
            if any(file == PERMALL for file, _ in place.inside(name)):
                yield from place.tpm(name, f"the only VM of the directory, and {name} holds a TPM")
        elif name == PERMALL:
            yield place.companion(name, "tpm", "the only VM of the directory, and this is a TPM's state")
        elif is_vars(name):
            yield place.companion(name, "uefi", "the only VM of the directory, and named like UEFI variables")
        elif is_seed(name):
            yield place.companion(name, "seed", "the only VM of the directory, and named like a seed")
