"""The wheel and the source distribution, made by hatchling."""

from __future__ import annotations

import sys
from pathlib import Path

from releases.source import Source, run


def build(source: Source, target: Path) -> list[Path]:
    """Return the wheel and the sdist; hatchling takes the time of the commit for every file in them."""
    words = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-t", "sdist", "-d", target]
    run(words, cwd=source.root, env=source.environment)
    return [next(target.glob("*.whl")), next(target.glob("*.tar.gz"))]
