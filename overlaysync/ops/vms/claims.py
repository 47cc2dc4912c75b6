"""Claims: which VM a file belongs to, when several conventions speak of it.

Rules:
    1. What is said more explicitly comes first (:class:`Rank`): a VM loses the files that such a one has, and
       is none any more when it has lost all its disks.
    2. Of two that say it equally explicitly neither is believed. A definition may describe several VMs.
    3. No two VMs have one name.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from dataclasses import replace
from enum import IntEnum

from overlaysync.errors import AmbiguousError
from overlaysync.model.names import name_from, printable
from overlaysync.ops.vms.explicit import NAME
from overlaysync.ops.vms.place import FileId, id_of, stem_of
from overlaysync.ops.vms.vm import Part, Vm


class Rank(IntEnum):
    """How explicitly it is said that files are a VM; the lowest counts."""

    TOML = 0
    NAMED = 1
    FOUND = 2
    IMAGE = 3
    IMPLIED = 4


class Claims:
    """The VMs so far, and their files. They come in the order of their ranks."""

    def __init__(self) -> None:
        self.vms: list[Vm] = []
        self._taken: dict[FileId, tuple[Rank, str, str]] = {}

    def __contains__(self, file: object) -> bool:
        return file in self._taken

    def add(self, vm: Vm, rank: Rank) -> None:
        """Add a VM, with those of its files that no more explicit one has.

        Raises:
            AmbiguousError: one that is as explicit has one of them.
        """
        disks = tuple(self._free(vm, vm.disks, rank))
        if not disks:
            return
        companions = tuple(self._free(vm, vm.companions, rank))
        for part in (*disks, *companions):
            if (id := _id(part)) is not None and part.role != "definition":
                self._taken[id] = (rank, vm.name, part.path)
        self.vms.append(replace(vm, disks=disks, companions=companions))

    def check_names(self) -> None:
        """Refuse two VMs of one name.

        Raises:
            AmbiguousError: there are two.
        """
        by_name: dict[str, list[Vm]] = {}
        for vm in self.vms:
            by_name.setdefault(vm.name, []).append(vm)
        for name, alike in by_name.items():
            if len(alike) > 1:
                raise AmbiguousError(
                    f"{len(alike)} VMs would be called '{name}'",
                    candidates=tuple(vm.disks[0].path for vm in alike),
                    hint=_tell_apart(alike[-1].disks[0].path),
                )

    def _free(self, vm: Vm, parts: tuple[Part, ...], rank: Rank) -> Iterator[Part]:
        seen: set[FileId] = set()
        for part in parts:
            id = _id(part)
            if id is None or part.role == "definition":
                yield part
            elif id in self._taken:
                other_rank, other, path = self._taken[id]
                if other_rank == rank:
                    raise _claimed(part, vm.name, other, path)
            elif id not in seen:
                seen.add(id)
                yield part


def _id(part: Part) -> FileId | None:
    try:
        return id_of(os.lstat(part.path))
    except OSError:
        return None


def _claimed(part: Part, one: str, other: str, path: str) -> AmbiguousError:
    return AmbiguousError(
        f"{part.path} belongs to two VMs, '{other}' and '{one}'",
        candidates=tuple(dict.fromkeys((path, part.path))),
        hint=_tell_apart(part.path),
    )


def _tell_apart(path: str) -> str:
    toml = os.path.join(os.path.dirname(path), NAME)
    if os.path.lexists(toml):
        toml = os.path.join(os.path.dirname(path), f"{name_from(stem_of(os.path.basename(path)))}.{NAME}")
    # What JSON escapes in a string is escaped in the same way in TOML.
    lines = ('name = "NAME"', f"disks = [{json.dumps(printable(os.path.basename(path)))}]")
    said = " ".join(map(shlex.quote, lines))
    return f"say whose files they are: printf '%s\\n' {said} > {shlex.quote(toml)}"
