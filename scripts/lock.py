"""Writes scripts/requirements-test.txt: what the test environment consists of, pinned by hash.

Asks the package index that pip is set up for, once for each Python and processor that the project supports,
what pip would install there under scripts/constraints.txt, and notes the hashes of it. Run it after a change
of constraints.txt or of the dependencies in pyproject.toml: ``.venv/bin/python scripts/lock.py``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "scripts" / "requirements-test.txt"
PYTHONS = ("3.11",)
MACHINES = ("x86_64", "aarch64")
GLIBCS = (5, 12, 17, 24, 26, 27, 28, 31, 34, 35)
"""What wheels for Linux are made for: minor versions of glibc 2."""
BUILD = ("hatchling", "editables")
"""Build the project itself, which is installed without its dependencies."""

HEAD = """\
# What the test environment consists of, pinned by hash: written by scripts/lock.py, read by scripts/venv.sh.
# Wheels for CPython 3.11 on Linux with glibc, x86_64 and aarch64.
"""


def wanted() -> list[str]:
    """What the project itself asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["test"], *BUILD]


def installed(python: str, machine: str, place: str) -> list[dict[str, Any]]:
    """What pip would install there."""
    requirements, report = Path(place, "wanted.txt"), Path(place, "report.json")
    requirements.write_text("".join(f"{line}\n" for line in wanted()))
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in GLIBCS]
    platforms += [f"manylinux2014_{machine}", f"manylinux1_{machine}", f"linux_{machine}"]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--dry-run"]
    command += ["--ignore-installed", "--only-binary", ":all:", "--report", str(report)]
    command += ["--target", str(Path(place, "nowhere")), "--implementation", "cp", "--python-version", python]
    command += [word for platform in platforms for word in ("--platform", platform)]
    command += ["-c", str(ROOT / "scripts" / "constraints.txt"), "-r", str(requirements)]
    subprocess.run(command, check=True, stdout=sys.stderr)
    found: list[dict[str, Any]] = json.loads(report.read_text())["install"]
    return found


def main() -> None:
    hashes: dict[str, set[str]] = defaultdict(set)
    pythons: dict[str, set[str]] = defaultdict(set)
    with tempfile.TemporaryDirectory() as place:
        for python in PYTHONS:
            for machine in MACHINES:
                for item in installed(python, machine, place):
                    pin = f"{item['metadata']['name'].lower()}=={item['metadata']['version']}"
                    hashes[pin].add(item["download_info"]["archive_info"]["hashes"]["sha256"])
                    pythons[pin].add(python)
    lines = [HEAD]
    for pin in sorted(hashes):
        marker = ""
        if pythons[pin] != set(PYTHONS):
            versions = " or ".join(f"python_version == '{python}'" for python in sorted(pythons[pin]))
            marker = f" ; {versions}"
        lines.append(
            " \\\n    ".join([pin + marker, *(f"--hash=sha256:{one}" for one in sorted(hashes[pin]))])
        )
    TARGET.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
