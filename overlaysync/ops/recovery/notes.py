"""Small notes beside the objects of a vault directory, in JSON; who writes them holds its lock."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from overlaysync.store.files import replace_file, translate

_LIMIT = 64 << 20
_T = TypeVar("_T")


def load(root: Path, name: str, kind: type[_T]) -> _T:
    """Return what was noted; an empty ``kind`` where nothing was, or it cannot be read."""
    try:
        with open(root / name, "rb") as file:
            return msgspec.json.decode(file.read(_LIMIT), type=kind)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return kind()


def save(root: Path, name: str, noted: object) -> None:
    """Note something instead of what was noted before.

    Raises:
        OverlaysyncError: it cannot be written.
    """
    try:
        replace_file(root / name, msgspec.json.encode(noted))
    except OSError as error:
        raise translate(error, f"Cannot write to the vault {root}", directory=str(root)) from error
