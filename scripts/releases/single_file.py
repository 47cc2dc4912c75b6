"""The single file: the program and its parts for several Pythons, in one file that runs by itself (PEX).

The wheels are chosen for described platforms, so the same file comes out wherever it is built. It needs a C
library from 2018 or later (glibc 2.28) on x86-64.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from packaging import tags

from releases.source import Source, run

MINORS = (11, 12, 13, 14)
"""The Pythons it runs on: 3.11 to 3.14."""
_MACHINE = "x86_64"
_NEWEST_GLIBC, _OLDEST_GLIBC = 28, 17


def build(source: Source, target: Path) -> list[Path]:
    """Return the single file."""
    scratch = source.root.parent / "single-file"
    code = scratch / "code"
    shutil.copytree(source.root / "overlaysync", code / "overlaysync")
    shutil.copy(source.root / "LICENSE", code / "overlaysync" / "LICENSE")
    done = target / f"overlaysync-{source.version}-{_MACHINE}.pex"
    words: list[str | Path] = [sys.executable, "-m", "pex", "--pex-root", scratch / "root", "--no-build"]
    words += ["-r", source.root / "scripts" / "requirements-run.txt", "-D", code]
    for minor in MINORS:
        described = scratch / f"cp3{minor}.json"
        described.write_text(json.dumps(platform(minor)))
        words += ["--complete-platform", described]
    words += ["--entry-point", "overlaysync.cli.main:run", "--venv", "prepend", "--no-compile"]
    words += ["--python-shebang", "/usr/bin/env python3", "--output-file", done]
    run(words, cwd=scratch, env=source.environment)
    return [done]


def platform(minor: int) -> dict[str, object]:
    """Return what PEX has to know of a Python 3.``minor`` to choose wheels for it."""
    abi, names = f"cp3{minor}", list(platforms())
    fitting = (
        *tags.cpython_tags((3, minor), [abi], names),
        *tags.compatible_tags((3, minor), abi, names),
    )
    return {
        "compatible_tags": list(map(str, fitting)),
        "marker_environment": {
            "implementation_name": "cpython",
            "implementation_version": f"3.{minor}.0",
            "os_name": "posix",
            "platform_machine": _MACHINE,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": f"3.{minor}.0",
            "python_version": f"3.{minor}",
            "sys_platform": "linux",
        },
    }


def platforms() -> Iterator[str]:
    """Yield the platforms that wheels name, the best first."""
    for glibc in range(_NEWEST_GLIBC, _OLDEST_GLIBC - 1, -1):
        yield f"manylinux_2_{glibc}_{_MACHINE}"
    yield f"manylinux2014_{_MACHINE}"
    yield f"linux_{_MACHINE}"
