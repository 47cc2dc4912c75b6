"""The Debian package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from releases.source import ReleaseError, Source


def build(source: Source, target: Path) -> list[Path]:
    """Return the package."""
    raise ReleaseError(f"no package of {source.version} in {target} yet")


def try_out(files: Sequence[Path]) -> None:
    """Install it."""
    raise ReleaseError(f"cannot try {files}")
