"""The checksums of a release, and their signature by the maintainer's SSH key."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from releases.source import ReleaseError, run

NAMESPACE = "overlaysync-release"
"""What a signature is for, so that one made for something else does not fit."""


def digest(file: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write(files: Sequence[Path], target: Path, key: str | None) -> list[Path]:
    """Return the file of checksums, and its signature if there is a key.

    Raises:
        ReleaseError: the key cannot be used.
    """
    sums = target / "SHA256SUMS"
    sums.write_text("".join(f"{digest(file)}  {file.name}\n" for file in files))
    signature = target / "SHA256SUMS.sig"
    signature.unlink(missing_ok=True)  # one of other checksums
    if key is None:
        return [sums]
    path = Path(os.path.expanduser(key))
    if not path.is_file():
        raise ReleaseError(f"there is no key {path}")
    run(["ssh-keygen", "-Y", "sign", "-f", path, "-n", NAMESPACE, sums])
    return [sums, signature]
