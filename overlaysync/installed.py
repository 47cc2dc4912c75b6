"""How the program that runs was installed: what starts it again, and what adds an optional part to it.

A hint that fits another kind of installation would be worse than none: pip cannot change a single file, and
what it puts beside pipx's environment is never seen.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import sys
import tomllib
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

from overlaysync import __version__

NAME = "overlaysync"
PACKAGED = Path("/opt/overlaysync")
"""The environment of the Debian package."""
_TREE = Path(__file__).resolve().parents[1]


def python_words() -> list[str]:
    """Return the words that start this Python again, as shut off from its surroundings as it is now.

    It never looks into the current directory first: anybody may have put a package there.
    """
    return [sys.executable, "-I" if sys.flags.isolated else "-P"]


def program_words() -> list[str]:
    """Return the words that start this program again, in any directory."""
    return [*python_words(), "-m", NAME]


def adding(extra: str) -> str:
    """Return the command that adds an optional part to this installation.

    Args:
        extra: its name in ``pyproject.toml``.
    """
    prefix = Path(sys.prefix)
    wanted = [shlex.quote(part) for part in parts_of(extra)]
    if (prefix / "PEX-INFO").exists():
        return f"rm -r {shlex.quote(os.path.realpath(prefix))}"  # it contains all, and unpacks itself again
    if prefix == PACKAGED:
        return f"sudo apt install --reinstall ./{NAME}_{__version__}_debian12_amd64.deb"  # so does this
    if (prefix / "pipx_metadata.json").exists():
        return f"pipx inject {NAME} {' '.join(wanted)}"
    if (receipt := prefix / "uv-receipt.toml").exists():
        return shlex.join(["uv", "tool", "install", *_told_uv(receipt, extra)])
    python = shlex.quote(sys.executable)
    if importlib.util.find_spec("pip") is None:
        return f"uv pip install --python {python} {' '.join(wanted)}"
    return f"{python} -m pip install {' '.join(wanted)}"


@cache
def parts_of(extra: str) -> tuple[str, ...]:
    """Return what an extra consists of, as pip is told; for a tree that was not installed, the tree."""
    declared: list[str] = []
    with suppress(PackageNotFoundError):
        declared = requires(NAME) or []
    marks = (f"extra == '{extra}'", f'extra == "{extra}"')
    found = [part.partition(";") for part in declared]
    return tuple(part.strip() for part, _, mark in found if mark.strip() in marks) or (f"{_TREE}[{extra}]",)


def _told_uv(receipt: Path, extra: str) -> list[str]:
    """Return what uv was told when it installed this, and the extra: it forgets what it is not told again."""
    told: list[dict[str, Any]] = []
    with suppress(OSError, ValueError, KeyError, TypeError):
        told = list(tomllib.loads(receipt.read_text())["tool"]["requirements"])
    own = next((part for part in told if part.get("name") == NAME), {})
    place = next(filter(None, map(own.get, ("path", "directory", "editable", "url"))), NAME)
    extras = ",".join(sorted({*own.get("extras", ()), extra}))
    beside = [f"{part['name']}{part.get('specifier', '')}" for part in told if part.get("name", NAME) != NAME]
    return [*(word for part in beside for word in ("--with", part)), f"{place}[{extras}]"]
