"""Origins: which state the disks here were restored from, as a small note beside the vault.

Disks show what they were made from, unless a state changed nothing but companions. Then only this note does.
It also keeps the states themselves from being cleaned away: what they say of the past, the next state of the
VM says too. What is lost of the note costs no more than a question: a fork is said where there is none.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from overlaysync.ops.recovery import notes

_NOTES = ".restored.json"
_MOST = 4096


def note_origin(root: Path, paths: Iterable[str], state: bytes) -> None:
    """Note that the disks at these paths were restored from a state; the lock of the vault is held.

    Raises:
        OverlaysyncError: it cannot be written.
    """
    known = notes.load(root, _NOTES, dict[str, str])
    kept = {path: id for path, id in known.items() if os.path.lexists(path)}
    kept |= dict.fromkeys(map(os.path.realpath, paths), state.hex())
    notes.save(root, _NOTES, dict(list(kept.items())[-_MOST:]))


def origins_of(root: Path, paths: Iterable[str] | None = None) -> set[bytes]:
    """Return the ids of the states that the disks at these real paths, or any, were restored from."""
    known = notes.load(root, _NOTES, dict[str, str])
    found = set()
    for path in known if paths is None else paths:
        try:
            found.add(bytes.fromhex(known.get(path, "")))
        except ValueError:
            continue
    return found - {b""}
