"""quickemu: a ``.conf`` beside the directory of its VM.

quickemu's shell sources the file. Here it is text: lines of the form ``KEY="literal"`` are read, and nothing
else counts. What a value holds that a shell would expand is no literal.

Source: the script quickemu (configure_bios, configure_storage, vm_boot).
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass, field

from overlaysync.errors import UsageError
from overlaysync.formats.recognition import IMAGE_ENDINGS, ending_of
from overlaysync.model.names import name_from, printable
from overlaysync.ops.vms.leftovers import why_left
from overlaysync.ops.vms.place import Place, is_image_name, is_seed, sort_out
from overlaysync.ops.vms.vm import Missed, Part, Vm

_LITERAL = re.compile(
    r"""\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(?:"([^"$`\\]*)"|'([^']*)'|([A-Za-z0-9_./:@%+,-]*))\s*(?:\#.*)?"""
)
_SETS = re.compile(r"\s*(?:export\s+|declare\s+|local\s+|readonly\s+)*([A-Za-z_][A-Za-z0-9_]*)\+?=")
_EMPTY = re.compile(r"\s*(?:\#.*)?")
_ARRAY = re.compile(r"""\s*[A-Za-z_][A-Za-z0-9_]*=\([^()$`;&|<>]*\)\s*(?:\#.*)?""")
_VARS = ("OVMF_VARS.fd", "OVMF_VARS_4M.fd", "OVMF_VARS-1024x768.fd", "OVMF_VARS-1920x1080.fd")


@dataclass(frozen=True, slots=True)
class Conf:
    """What a ``.conf`` says in plain text.

    Attributes:
        values: by key.
        shell: keys that are set by more than a literal.
        odd: number of the first line that is no assignment; 0 for none.
    """

    values: dict[str, str] = field(default_factory=dict)
    shell: frozenset[str] = frozenset()
    odd: int = 0

    @property
    def is_vm(self) -> bool:
        """Whether it is quickemu's: other programs have files of this ending, too."""
        return "disk_img" in self.values or "disk_img" in self.shell


def read_conf(text: bytes) -> Conf:
    """Return what a ``.conf`` says; any bytes can be read."""
    values: dict[str, str] = {}
    shell: set[str] = set()
    odd = 0
    for number, line in enumerate(text.decode(errors="replace").split("\n"), 1):
        literal, sets = _LITERAL.fullmatch(line), _SETS.match(line)
        if literal:
            values[literal[1]] = literal[2] or literal[3] or literal[4] or ""
            shell.discard(literal[1])
            continue
        if sets:
            values.pop(sets[1], None)
            shell.add(sets[1])
        if not (_EMPTY.fullmatch(line) or _ARRAY.fullmatch(line)):
            odd = odd or number
    return Conf(values, frozenset(shell), odd)


def vm_of_conf(place: Place, name: str, conf: Conf) -> Vm:
    """Return the VM of a ``.conf`` in a directory.

    Raises:
        UsageError: its disk is not named as a plain path inside that directory.
    """
    disk = os.path.normpath(conf.values.get("disk_img", ""))
    warnings = []
    if os.path.isabs(disk) and disk.startswith(place.path + os.sep):
        disk = os.path.relpath(disk, place.path)
        warnings.append(
            f"{name} names its disk by an absolute path: where the VM is restored into another directory, "
            f'write disk_img="{printable(disk)}" into it'
        )
    if "disk_img" in conf.shell or disk == "." or disk.startswith(("/", "../")) or "\0" in disk:
        raise _no_disk(place.join(name), conf, disk)
    folder, stem = os.path.dirname(disk), name.removesuffix(".conf")
    found: list[Part | Missed | None] = []
    parts = [Part(place.join(disk), disk, "disk", f"{name} names it as disk_img")]
    # A directory that is called like the file is this VM's alone, with what lies in it.
    inside = list(place.inside(folder)) if folder and folder == stem else []
    for file, kind in inside:
        below = os.path.join(folder, file)
        if kind == "file" and ending_of(file) in IMAGE_ENDINGS and is_image_name(file) and below != disk:
            parts.append(Part(place.join(below), below, "disk", f"it lies in the directory of {name}'s VM"))
    for file in (*_VARS, f"{stem}-vars.fd"):
        below = os.path.join(folder, file)
        found.append(place.companion(below, "uefi", "quickemu keeps the UEFI variables under this name"))
    if folder:
        found += [one for one in place.tpm(folder, "quickemu keeps the TPM here") if isinstance(one, Part)]
    for file, kind in inside:
        below = os.path.join(folder, file)
        if is_seed(file):
            found.append(place.companion(below, "seed", "named like a cloud-init seed"))
        elif reason := why_left(file, kind):
            found.append(Missed(place.join(below), reason))
    found.append(place.companion(name, "definition", "quickemu's description of the VM"))
    for key in ("iso", "fixed_iso", "floppy"):
        if conf.values.get(key):
            path = os.path.join(place.path, conf.values[key])
            found.append(Missed(path, f"{name} names it as {key}; images of CDs and floppies do not travel"))
    companions, left_out = sort_out(found)
    if conf.odd:
        warnings.append(
            f"{name} has shell commands in line {conf.odd}, which were not run: what they set is not known"
        )
    return Vm(
        name_from(stem),
        place.path,
        tuple(parts),
        companions,
        left_out,
        "quickemu",
        tuple(warnings),
    )


def _no_disk(path: str, conf: Conf, disk: str) -> UsageError:
    if "disk_img" in conf.shell:
        why = "disk_img is set by shell code, which is not run"
    elif "disk_img" not in conf.values:
        why = 'it has no line disk_img="…"'
    else:
        why = f"disk_img, '{printable(disk)}', does not lie in its directory"
    toml = shlex.quote(os.path.join(os.path.dirname(path), "vm.toml"))
    return UsageError(
        f"Cannot tell which disk {path} means", why=why, hint=f"name the image itself, or write {toml}"
    )
