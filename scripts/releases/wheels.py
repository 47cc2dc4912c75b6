"""The wheels of what a release contains, for one Python, checked against the hashes of the lock file."""

from __future__ import annotations

import sys
from pathlib import Path

from releases import single_file
from releases.source import Source, run


def download(source: Source, target: Path, *, minor: int) -> Path:
    """Return a directory with the wheels for Python 3.``minor``."""
    words: list[str | Path] = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    words += ["--require-hashes", "--only-binary", ":all:", "--disable-pip-version-check"]
    words += [
        "--python-version",
        f"3.{minor}",
        "--implementation",
        "cp",
        "--abi",
        f"cp3{minor}",
        "--abi",
        "abi3",
    ]
    words += ["--abi", "none"]
    for name in single_file.platforms():
        words += ["--platform", name]
    words += ["-r", source.root / "scripts" / "requirements-run.txt", "-d", target]
    run(words, env=source.environment)
    return target
