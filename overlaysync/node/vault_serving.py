"""What this node serves of its vault: all of it, to everybody; see :mod:`overlaysync.net.vault_wire`."""

from __future__ import annotations

import os
import re
import stat
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from overlaysync.net.vault_wire import MAX_SPACES, OpenObject, VaultOffer
from overlaysync.ops.recovery.placement import Kept
from overlaysync.units import GIB
from overlaysync.vault.directory import DirectoryObjects
from overlaysync.vault.objects import Kind, Stored, head_prefix, parse_name

_TAG = re.compile(r"[0-9a-f]{32}")
_PROVEN = GIB
"""Bytes that are read for one asker's proofs ..."""
_PROVEN_S = 3600.0
"""... in so many seconds."""
_ASKERS = 1024
_MANY = 64
"""More heads than this in one space are not listed anew ..."""
_MOST_DRILLS = 200
"""Records of drills that are listed of one space."""
_LISTED_S = 2.0
"""... for so many seconds: who keeps for others can be given any number of them."""


class ServedVault:
    """A :class:`~overlaysync.net.vault_wire.VaultProvider` of the vault at ``root``.

    Args:
        root: the directory, which need not exist yet.
        kept: what this node keeps at the moment.
        clock: seconds that never go back.
    """

    def __init__(self, root: Path, kept: Callable[[], Kept], clock: Callable[[], float]) -> None:
        self._objects = DirectoryObjects(root)
        self._kept = kept
        self._clock = clock
        self._proven: dict[str, tuple[float, int]] = {}
        self._long: dict[str, tuple[float, list[Stored]]] = {}
        self._lock = threading.Lock()

    def offer(self) -> VaultOffer:
        spaces: list[str] = []
        with suppress(OSError):
            spaces = [name for name in sorted(os.listdir(self._objects.root)) if _TAG.fullmatch(name)]
        kept = self._kept()
        return VaultOffer(tuple(spaces[:MAX_SPACES]), kept.tags[:MAX_SPACES], kept.others > 0)

    def heads(self, tag: str) -> Sequence[Stored]:
        at, known = self._long.get(tag, (0.0, []))
        if known and self._clock() - at < _LISTED_S:
            return known
        newest: dict[bytes, Stored] = {}
        for stored in self._objects.list(head_prefix(tag)):
            named = parse_name(stored.name)
            if named is not None:
                newest[named.hash] = stored  # they come in order of their counters
        found = list(newest.values())
        if len(found) > _MANY:
            self._long[tag] = self._clock(), found
        return found

    def drills(self, tag: str) -> Sequence[Stored]:
        return list(islice(self._objects.list(f"{tag}/{Kind.DRILL}/"), _MOST_DRILLS))

    def open(self, name: str) -> OpenObject | None:
        if parse_name(name) is None:
            return None
        try:
            fd = os.open(
                self._objects.root / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            )
        except OSError:
            return None
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            return None
        return OpenObject(fd, status.st_size)

    def may_prove(self, asker: str, size: int) -> bool:
        with self._lock:
            return self._may_prove(asker, size)

    def _may_prove(self, asker: str, size: int) -> bool:
        now = self._clock()
        since, proven = self._proven.get(asker, (now, 0))
        if now - since > _PROVEN_S:
            since, proven = now, 0
        if asker not in self._proven and len(self._proven) >= _ASKERS:
            self._proven = {one: row for one, row in self._proven.items() if now - row[0] <= _PROVEN_S}
            if len(self._proven) >= _ASKERS:
                return False
        if proven + size > _PROVEN:
            return False
        self._proven[asker] = since, proven + size
        return True
