"""Makes a vault with many states: ``python -m benchmarks.many_states HOME STATES``.

States, indexes and heads are the program's own, signed and sealed. Packs are files of the right size without
contents: nothing that is measured reads one. Four nodes save in turn; each state adds its part of the packs,
and needs those of the states before it that are not too old, since disks change bit by bit.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from overlaysync.ops.recovery.vaults import TeamVault
from overlaysync.trust.keys import NodeKey
from overlaysync.trust.team_files import load_teams
from overlaysync.units import CHUNK, KIB, MIB
from overlaysync.vault.directory import DirectoryObjects
from overlaysync.vault.index import PackIndex, encode_index
from overlaysync.vault.objects import Kind, hash_of, object_name
from overlaysync.vault.pack import HEAD, Place
from overlaysync.vault.state import Companion, Disk, SavedVm, SignedState, State, encode_state

PACKS_PER_STATE = 6.4
"""1,000 states take 100 GiB."""
_NEEDED = 50
"""States whose packs a state needs."""
_NODES = 4
_UNNEEDED = 20
"""One pack in so many belongs to no state: a save was killed."""
_RECORDS, _ITEMS = 32, 8
_VMS = ("db", "mail", "web")


@dataclass(slots=True)
class _Maker:
    """Makes one vault."""

    vault: TeamVault
    keys: list[NodeKey]
    states: list[SignedState] = field(default_factory=list)
    packs: list[list[str]] = field(default_factory=list)
    indexes: list[str] = field(default_factory=list)

    def state(self, number: int) -> None:
        """Make one state, what it needs, and nothing that is not needed by it."""
        first, end = (int(at * PACKS_PER_STATE) for at in (number - 1, number))
        described = [self._pack() for _ in range(first, end)]
        self.packs.append([pack.name.hex() for pack in described])
        data = encode_index(described, self.vault.space)
        self.indexes.append(self._put(Kind.INDEX, data).hex())
        saved = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=6 * number)
        at = saved.strftime("%Y-%m-%dT%H:%M:%SZ")
        state = State(
            team=self.vault.team.name,
            number=number,
            follows=tuple(one.id.hex() for one in self.states[-1:]),
            counter=1,
            saved=at,
            by=f"host{number % _NODES}",
            note=f"state {number}",
            vms=tuple(_vm(name, at) for name in _VMS),
            indexes=tuple(sorted(self.indexes[-_NEEDED:])),
            packs=tuple(sorted(pack for packs in self.packs[-_NEEDED:] for pack in packs)),
        )
        data, signed = encode_state(state, self.keys[number % _NODES], self.vault.space)
        self._put(Kind.STATE, data)
        self.states.append(signed)
        if not number % _UNNEEDED:
            self._pack()

    def heads(self) -> None:
        """Make the head of each node."""
        for key in self.keys:
            own = [one for one in self.states if one.node == key.public]
            self.vault.put_head(own, key, made=own[-1].state.saved, before=None)

    def _pack(self) -> PackIndex:
        """Make a pack's file, and return what an index says of it."""
        name, stored = os.urandom(32), (16 * MIB - HEAD.size) // _RECORDS
        places = [Place(at, HEAD.size + at * stored, stored, _ITEMS * 64 * KIB * 4) for at in range(_RECORDS)]
        size, items = HEAD.size + _RECORDS * stored, _RECORDS * _ITEMS
        path = self._path(Kind.PACK, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.truncate(size)
        keys = np.frombuffer(os.urandom(32 * items), dtype=np.uint8).reshape(items, 32)
        return PackIndex(name, size, places, [_ITEMS] * _RECORDS, keys, np.full(items, CHUNK, np.uint32))

    def _put(self, kind: Kind, data: bytes) -> bytes:
        """Write an object, without waiting for the disk."""
        hash = hash_of(data)
        path = self._path(kind, hash)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return hash

    def _path(self, kind: Kind, hash: bytes) -> Path:
        objects = self.vault.objects
        assert isinstance(objects, DirectoryObjects)
        return objects.root / object_name(self.vault.space.tag, kind, hash)


def _vm(name: str, at: str) -> SavedVm:
    part = os.urandom(32).hex()
    return SavedVm(
        name=name,
        at=at,
        disks=(Disk(file=f"{name}.qcow2", manifest=os.urandom(32).hex(), below=(part,)),),
        companions=(
            Companion(file=f"{name}.yaml", role="definition", size=900, parts=(os.urandom(32).hex(),)),
        ),
    )


def make(home: Path, count: int) -> None:
    """Fill the vault of a node that is in one team."""
    (team,) = load_teams(home / "teams").values()
    keys = [NodeKey(Ed25519PrivateKey.generate()) for _ in range(_NODES)]
    maker = _Maker(TeamVault(DirectoryObjects(home / "vault"), team), keys)
    for number in range(1, count + 1):
        maker.state(number)
    maker.heads()
    assert all(later.state.number == earlier.state.number + 1 for earlier, later in pairwise(maker.states))


if __name__ == "__main__":
    make(Path(sys.argv[1]), int(sys.argv[2]))
