"""Companions of a published image: the small files that its VM needs beside it, described in its manifest.

A receiver names them itself, after the file that the image has there: no name of another machine is followed.
Source: docs/manifest-format.md, "Companions".
"""

from __future__ import annotations

import os
import re
from typing import Literal, TypeAlias

import msgspec

from overlaysync.units import MIB

Role: TypeAlias = Literal["uefi", "tpm", "seed", "definition"]

CAPS: dict[str, int] = {"uefi": 64 * MIB, "tpm": MIB, "seed": 16 * MIB, "definition": MIB}
"""The most bytes of a companion, by its role; ours. UEFI variables of Arm machines have 64 MiB."""
ENDINGS: dict[str, tuple[str, ...]] = {
    "uefi": ("fd",),
    "tpm": ("permall",),
    "seed": ("img", "iso"),
    "definition": ("conf", "xml"),
}
"""What the file of each role may be called, as the end of its name."""
SECRET: frozenset[str] = frozenset(("tpm", "seed"))
"""Roles of files that hold keys and passwords: they are for a team, never for everybody."""

_DIGEST = re.compile(r"[0-9a-f]{64}")


class CompanionFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A companion, as a manifest describes it.

    Attributes:
        role: what it is; a manifest has at most one of each.
        ending: how the name of its file ends.
        size: its bytes.
        digest: their BLAKE3, in hexadecimal.
    """

    role: Role
    ending: str
    size: int
    digest: str


def are_companions(companions: tuple[CompanionFile, ...]) -> bool:
    """Whether they are in order, one of each role at most, and each within its bounds."""
    roles = [one.role for one in companions]
    return roles == sorted(set(roles)) and all(
        one.ending in ENDINGS[one.role]
        and 0 <= one.size <= CAPS[one.role]
        and bool(_DIGEST.fullmatch(one.digest))
        for one in companions
    )


def companion_path(role: str, ending: str, image: str) -> str:
    """Return where a companion of the image at that path lies, as the scripts of inetdoc have it."""
    stem, found = os.path.splitext(image)
    stem = stem if found else image
    return {
        "uefi": f"{image}_OVMF_VARS.{ending}",
        "tpm": os.path.join(f"{image}_TPM", f"tpm2-00.{ending}"),
        "seed": f"{stem}-seed.{ending}",
        "definition": f"{stem}.{ending}",
    }[role]
