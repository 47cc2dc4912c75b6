"""States: what VMs were at one moment, signed by the node that saved them.

A state names its disks by their manifests and its companions by their digests; the bytes of both are items
of packs. It is canonical JSON, signed, and sealed as a whole. Exact bytes: docs/vault-format.md, "States".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import msgspec

from overlaysync.errors import DecodeError
from overlaysync.model.names import is_name
from overlaysync.units import CHUNK, ceil_div
from overlaysync.vault.limits import MAX_COMPANION, MAX_FILES, MAX_TEXT, is_inner_path
from overlaysync.vault.objects import MAX_COUNTER, Kind, hash_of
from overlaysync.vault.signed import SignedForm, Signer, Verify
from overlaysync.vault.spaces import Space

STATE_MAGIC = b"OSVS"
STATE_CONTEXT = b"overlaysync v1 state\0"
MAX_VMS = 256
COMPANION_PART = CHUNK
"""Bytes of a companion that one item holds."""
MAX_FOLLOWS = 64
MAX_SEEN = 1024
MAX_PAST = 1024
"""Nodes that saved a VM before."""
MAX_NUMBER = (1 << 31) - 1

_HASH_DIGITS = 64
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_LABEL_LIMIT = 160


Role: TypeAlias = Literal["uefi", "tpm", "seed", "definition"]
"""What a companion is."""


Consistency: TypeAlias = Literal["off", "crash", "fs"]
"""How a VM was left: ``off``: powered off; ``crash``: as by a power failure; ``fs``: likewise, after its file
systems had written all and were frozen."""


class Disk(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, gc=False):
    """One disk of a VM.

    Attributes:
        file: the name of its file; parts are separated by ``/`` where it lies in a directory of the VM.
        manifest: id of the manifest that describes it, in hexadecimal: a disk, or a layer on a master.
        below: ids of the manifests of what it stands on, the nearest first.
    """

    file: str
    manifest: str
    below: tuple[str, ...] = ()


class Companion(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, gc=False):
    """A small file that a VM needs beside its disks.

    Attributes:
        file: its name; parts are separated by ``/`` where it lies in a directory of the VM.
        role: what it is.
        size: its bytes.
        parts: digests of its chunks of 64 KiB, in hexadecimal.
    """

    file: str
    role: Role
    size: int
    parts: tuple[str, ...] = ()


class LeftOut(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, gc=False):
    """A file of a VM that was not saved, and why."""

    file: str
    why: str


class Past(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What of one node's work on a VM is in the past of a saved one.

    Attributes:
        node: public key of that node, in hexadecimal.
        counter: of its last state that is; all that it saved of this VM before is so too.
    """

    node: str
    counter: int


class SavedVm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, gc=False):
    """One VM as it was.

    Attributes:
        name: its name, unique in the team.
        at: the moment that its disks show, ISO 8601 UTC.
        consistency: what can be relied on.
        past: what it was made from, or takes the place of, by node. It says so without the states in
            between, which may be forgotten.
        disks, companions, left_out: its files.
    """

    name: str
    at: str
    consistency: Consistency = "off"
    past: tuple[Past, ...] = ()
    disks: tuple[Disk, ...]
    companions: tuple[Companion, ...] = ()
    left_out: tuple[LeftOut, ...] = ()


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, gc=False):
    """What is signed.

    Attributes:
        v: version of this form, 1.
        team: whose it is; "" for the public.
        number: 1 + the highest of those that it follows.
        follows: hashes that name the states it follows, in hexadecimal.
        seen: (node, counter): public keys of the nodes of which it follows every state that their head of
            this counter, or an older one, was the first to list. It says what follows what when some of the
            states between have been forgotten.
        counter: of the first head of its node that lists it: who has that one or a later one has this.
        saved: when it was made, ISO 8601 UTC.
        by: label of the node; for people only.
        note: what the user says of it, one line.
        vms: the VMs, by name.
        indexes: hashes that name the indexes which together say where all its items are.
        packs: hashes that name the packs that hold them, in this space.
        public_indexes, public_packs: likewise, of the public space.
    """

    v: Literal[1] = 1
    team: str
    number: int
    follows: tuple[str, ...] = ()
    seen: tuple[tuple[str, int], ...] = ()
    counter: int
    saved: str
    by: str = ""
    note: str = ""
    vms: tuple[SavedVm, ...]
    indexes: tuple[str, ...] = ()
    packs: tuple[str, ...] = ()
    public_indexes: tuple[str, ...] = ()
    public_packs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SignedState:
    """A state whose signature has been verified.

    Attributes:
        id: the hash that names the object.
        node: public key of the node that saved it.
        state: what it says.
        size: its stored bytes.
    """

    id: bytes
    node: bytes
    state: State
    size: int


def _check(state: State) -> None:
    """Refuse a state with a field out of bounds.

    Raises:
        DecodeError: so it is.
    """
    names = [vm.name for vm in state.vms]
    nodes = [node for node, _ in state.seen]
    hashes = (*state.follows, *state.indexes, *state.packs, *state.public_indexes, *state.public_packs)
    checks = {
        "number": 1 <= state.number <= MAX_NUMBER and (state.number > 1) == bool(state.follows),
        "follows": len(state.follows) <= MAX_FOLLOWS and len(set(state.follows)) == len(state.follows),
        "seen": len(state.seen) <= MAX_SEEN
        and nodes == sorted(set(nodes))
        and _are_hashes(nodes)
        and all(1 <= counter <= MAX_COUNTER for _, counter in state.seen),
        "counter": 1 <= state.counter <= MAX_COUNTER,
        "saved": bool(_TIME.fullmatch(state.saved)),
        "by": len(state.by) <= _LABEL_LIMIT,
        "note": len(state.note) <= MAX_TEXT,
        "vms": 0 < len(names) <= MAX_VMS and names == sorted(set(names)),
        "hashes": _are_hashes(hashes),
    }
    wrong = next((field for field, good in checks.items() if not good), "")
    wrong = wrong or next((problem for vm in state.vms if (problem := _problem(vm))), "")
    if wrong:
        raise DecodeError(f"a state is wrong: {wrong}")


def _problem(vm: SavedVm) -> str:
    """Return the first field of a VM that is out of bounds; "" when there is none."""
    files = [*(disk.file for disk in vm.disks), *(companion.file for companion in vm.companions)]
    ids = [id for disk in vm.disks for id in (disk.manifest, *disk.below)]
    checks = {
        "name": is_name(vm.name),
        "at": bool(_TIME.fullmatch(vm.at)),
        "past": len(vm.past) <= MAX_PAST and _is_past(vm.past),
        "disks": 0 < len(vm.disks) <= MAX_FILES
        and all(is_inner_path(disk.file) and len(disk.below) <= MAX_FILES for disk in vm.disks),
        "companions": len(vm.companions) <= MAX_FILES and all(map(_is_companion, vm.companions)),
        "left_out": len(vm.left_out) <= MAX_FILES
        and all(len(one.file) <= MAX_TEXT and len(one.why) <= MAX_TEXT for one in vm.left_out),
        "files": len({file.casefold() for file in files}) == len(files),
        "ids": _are_hashes(ids),
    }
    return next((f"{field} of a VM" for field, good in checks.items() if not good), "")


def _are_hashes(texts: Sequence[str]) -> bool:
    """Whether each is a hash in hexadecimal; looked at together, since a state can name hundreds."""
    digits = "".join(texts)
    try:
        return set(map(len, texts)) <= {_HASH_DIGITS} and bytes.fromhex(digits).hex() == digits
    except ValueError:
        return False


def _is_past(past: tuple[Past, ...]) -> bool:
    nodes = [one.node for one in past]
    return (
        nodes == sorted(set(nodes))
        and _are_hashes(nodes)
        and all(1 <= one.counter <= MAX_COUNTER for one in past)
    )


def _is_companion(companion: Companion) -> bool:
    parts = ceil_div(companion.size, COMPANION_PART)
    return (
        is_inner_path(companion.file)
        and 0 <= companion.size <= MAX_COMPANION
        and len(companion.parts) == parts
        and _are_hashes(companion.parts)
    )


_FORM = SignedForm(State, Kind.STATE, STATE_MAGIC, STATE_CONTEXT, _check, "a state")


def encode_state(state: State, signer: Signer, space: Space) -> tuple[bytes, SignedState]:
    """Return the object of a state, and the state as others will read it.

    Raises:
        ValueError: it is not for this space.
        DecodeError: a field is out of bounds.
    """
    data = _FORM.encode(state, signer, space)
    return data, SignedState(hash_of(data), signer.public, state, len(data))


def decode_state(data: bytes, space: Space, verify: Verify) -> SignedState:
    """Return the state in an object; its signature is verified before it is parsed.

    Raises:
        DecodeError: it is not for this space, damaged, not signed by who it says, or says what cannot be.
    """
    node, state = _FORM.decode(data, space, verify)
    return SignedState(hash_of(data), node, state, len(data))
