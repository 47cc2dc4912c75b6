"""A clean Debian 12 in a directory, made by debootstrap once and copied for each use. Needs root."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from releases.source import ReleaseError, Source, run

SUITE = "bookworm"
PYTHON_MINOR = 11
"""Its Python is 3.11."""
_PACKAGES = "python3,python3-venv"


@dataclass(frozen=True, slots=True)
class Chroot:
    """A Debian below ``root``."""

    root: Path

    def run(self, words: Sequence[str], source: Source | None = None) -> str:
        """Run a command inside, and return what it printed.

        Raises:
            ReleaseError: it failed.
        """
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8"}
        if source is not None:
            environment |= {"SOURCE_DATE_EPOCH": str(source.epoch), "PYTHONHASHSEED": "0"}
        return run(["chroot", self.root, *words], env=environment)


@contextmanager
def new(root: Path, *, python: bool = True) -> Iterator[Chroot]:
    """Yield a Debian with or without a Python, and remove it afterwards.

    Raises:
        ReleaseError: this user is not root, or debootstrap is missing or fails.
    """
    if os.geteuid() != 0:
        raise ReleaseError("the .deb is made in a chroot, which needs root; leave it out with --only KIND")
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    base = _base(_PACKAGES if python else "ca-certificates")
    run(["cp", "-a", "--reflink=auto", base, root])
    made = Chroot(root)
    try:
        run(["mount", "-t", "proc", "proc", root / "proc"])
        yield made
    finally:
        run(["umount", "-l", root / "proc"])
        shutil.rmtree(root, ignore_errors=True)


def _base(packages: str) -> Path:
    """Return a fresh Debian that is never changed, made at the first use."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "overlaysync-release"
    place = cache / f"{SUITE}-{packages.replace(',', '-')}"
    if not (place / "etc" / "debian_version").exists() or (cache / f"{place.name}.log").exists():
        cache.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(place, ignore_errors=True)
        log = cache / f"{place.name}.log"  # is there while it is not whole
        log.touch()
        words = ["debootstrap", "--variant=minbase", f"--include={packages}", SUITE, place]
        run(words)
        log.unlink()
    return place
