"""``vm.toml``: what the user says a VM consists of. It comes before every convention.

::

    name = "web"
    disks = ["web.qcow2", "web-data.qcow2"]
    uefi = "web_VARS.fd"  # optional, as the rest
    tpm = "tpm"  # a directory with tpm2-00.permall in it, or that file
    seed = "seed.iso"
    definition = "web.xml"

Paths are relative to the file, and stay inside its directory. ``vm.toml`` itself is carried as a definition.
Several VMs of one directory have a file each: ``vm.toml``, ``NAME.vm.toml``.
"""

from __future__ import annotations

import os
import tomllib
from typing import Any

from overlaysync.errors import NotFoundError, UsageError
from overlaysync.model.names import check_name, printable
from overlaysync.ops.vms.place import Place, sort_out
from overlaysync.ops.vms.vm import PERMALL, Missed, Part, Vm

NAME = "vm.toml"
_COMPANIONS = ("uefi", "tpm", "seed", "definition")
_KEYS = ("name", "disks", *_COMPANIONS)


def is_toml(name: str) -> bool:
    """Whether a file of a directory is named as the description of a VM."""
    return name == NAME or name.endswith(f".{NAME}")


def vm_of_toml(place: Place, name: str, text: bytes) -> Vm:
    """Return the VM that a ``vm.toml`` describes.

    Raises:
        UsageError: it is no TOML, lacks something, or says what cannot be.
        NotFoundError: a file that it names is not there.
    """
    path = place.join(name)
    said = _parse(text, path)
    disks = [
        Part(place.join(file), file, "disk", f"{name} names it")
        for file in (_inner(entry, "disks", path) for entry in said["disks"])
    ]
    for part in disks:
        if not os.path.lexists(part.path):
            raise _missing(path, part.path)
    definition = place.companion(name, "definition", "it says what the VM consists of")
    found: list[Part | Missed | None] = [definition]
    for role in _COMPANIONS:
        if role not in said:
            continue
        file = _inner(said[role], role, path)
        is_tpm = role == "tpm" and os.path.basename(file) != PERMALL
        why = f"{name} names it"
        one = place.tpm(file, why) if is_tpm else [place.companion(file, role, why)]
        target = place.join(os.path.join(file, PERMALL) if is_tpm else file)
        if all(item is None or item.path != target for item in one):
            raise _missing(path, target)
        found += one
    companions, left_out = sort_out(found)
    return Vm(check_name(said["name"], "VM's name"), place.path, tuple(disks), companions, left_out, NAME)


def _parse(text: bytes, path: str) -> dict[str, Any]:
    try:
        said = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise _wrong(path, printable(str(error))) from None
    unknown = next((key for key in said if key not in _KEYS), None)
    if unknown is not None:
        raise _wrong(path, f"'{printable(unknown)}' is none of {', '.join(_KEYS)}")
    disks = said.get("disks")
    if not isinstance(said.get("name"), str):
        raise _wrong(path, 'it has no line name = "…"')
    if not isinstance(disks, list) or not disks:
        raise _wrong(path, 'it has no line disks = ["…"]')
    return said


def _inner(value: object, key: str, path: str) -> str:
    """Return a path below the directory of the file."""
    if not isinstance(value, str) or not value.strip("/.") or "\0" in value:
        raise _wrong(path, f"{key} is to name a file beside it")
    inner = os.path.normpath(value)
    if inner.startswith(("/", "../")) or ".." in value.split("/"):
        raise _wrong(path, f"'{printable(value)}' lies outside its directory")
    return inner


def _missing(path: str, file: str) -> NotFoundError:
    return NotFoundError(
        f"There is no file {file}", why=f"{path} names it", hint=f"put it there, or remove it from {path}"
    )


def _wrong(path: str, why: str) -> UsageError:
    example = 'name = "web" and disks = ["web.qcow2"]'
    return UsageError(f"Cannot read {path}", why=why, hint=f"correct it; it needs at least: {example}")
