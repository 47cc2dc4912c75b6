"""What a release is built from: an export of one commit, and the time of that commit."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import tarfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


class ReleaseError(Exception):
    """The release cannot be built; the message says why."""


@dataclass(frozen=True, slots=True)
class Source:
    """An exported tree.

    Attributes:
        root: the tree.
        version: of the program.
        epoch: seconds since 1970 that files in the release carry.
    """

    root: Path
    version: str
    epoch: int

    @property
    def maintainer(self) -> str:
        """Return who makes the package, as Debian's tools are told."""
        name = os.environ.get("DEBFULLNAME", "The authors of overlaysync")
        return f"{name} <{os.environ.get('DEBEMAIL', 'overlaysync@packages.invalid')}>"

    @property
    def environment(self) -> dict[str, str]:
        """What makes tools build the same twice."""
        fixed = {
            "SOURCE_DATE_EPOCH": str(self.epoch),
            "PYTHONHASHSEED": "0",
            "LC_ALL": "C.UTF-8",
            "TZ": "UTC",
        }
        return os.environ | fixed


def run(words: Sequence[str | Path], **settings: object) -> str:
    """Run a tool, and return what it printed.

    Raises:
        ReleaseError: it failed, or is not installed.
    """
    try:
        done = subprocess.run(
            [str(word) for word in words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            **settings,  # type: ignore[call-overload]
        )
    except FileNotFoundError:
        raise ReleaseError(f"{words[0]} is not installed") from None
    if done.returncode:
        end = "\n".join(done.stdout.splitlines()[-15:])
        raise ReleaseError(f"{words[0]} ended with {done.returncode}:\n{end}")
    return str(done.stdout)


def check_clean(root: Path) -> None:
    """Refuse a tree with changes that no commit has.

    Raises:
        ReleaseError: there are some.
    """
    changed = run(["git", "-C", root, "status", "--porcelain"]).splitlines()
    if changed:
        shown = ", ".join(line[3:] for line in changed[:5])
        raise ReleaseError(f"the working tree has changes: {shown}. Commit them, or build with --dirty")


def is_version_said_once(root: Path) -> str:
    """Return the version, which two files say.

    Raises:
        ReleaseError: they do not say the same.
    """
    declared = str(tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"])
    module = (root / "overlaysync" / "__init__.py").read_text()
    found = re.search(r'^__version__ = "(.+)"$', module, re.MULTILINE)
    if found is None or found[1] != declared:
        raise ReleaseError(f"pyproject.toml says {declared}, and overlaysync/__init__.py another version")
    return declared


def export(root: Path, target: Path, *, dirty: bool) -> Source:
    """Return a copy of the tree: of the commit, or of the files in it as they are now."""
    target.mkdir(parents=True)
    if dirty:
        names = run(["git", "-C", root, "ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        for name in filter(None, names.split("\0")):
            if (root / name).is_file():
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(root / name, target / name)
    else:
        made = subprocess.run(["git", "-C", root, "archive", "HEAD"], stdout=subprocess.PIPE, check=True)
        with tarfile.open(fileobj=io.BytesIO(made.stdout)) as archive:
            archive.extractall(target, filter="data")
    epoch = int(run(["git", "-C", root, "log", "-1", "--format=%ct"]))
    return Source(target, is_version_said_once(target), epoch)
