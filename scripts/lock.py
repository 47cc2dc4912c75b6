"""Writes scripts/requirements-test.txt and -swift.txt: what the test environments consist of, pinned by hash.

Takes what is installed (made under scripts/constraints.txt), follows what the packages ask for on each
supported Python, and notes the hashes that the package index lists for their wheels; pip's own client asks
it. What the object store for the tests consists of is all that constraints-swift.txt lists.
Run it in a whole test environment, after a change of constraints.txt or of the dependencies in
pyproject.toml: ``.venv/bin/python scripts/lock.py``.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.tags import Tag
from packaging.utils import canonicalize_name, parse_wheel_filename
from pip._internal.commands import create_command
from pip._internal.index.collector import LinkCollector, parse_links
from pip._internal.models.link import Link

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "scripts"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
MACHINES = ("x86_64", "aarch64")
BUILD = ("hatchling", "editables", "packaging", "pathspec", "pluggy", "tomlkit", "trove-classifiers")
"""Build the project itself, which is installed without its dependencies; they may not be installed yet."""

HEAD = """\
# What the {what} consists of, pinned by hash: written by scripts/lock.py, read by scripts/{reader}.
# Wheels for CPython 3.11 to 3.14 on Linux with glibc, x86_64 and aarch64.
"""
_ABI3 = re.compile(r"cp3(\d+)")


def pinned(file: str) -> dict[str, str]:
    """Name → version of a file of constraints."""
    lines = (SCRIPTS / file).read_text().splitlines()
    pins = [line.partition("==") for line in lines if "==" in line and not line.startswith("#")]
    return {canonicalize_name(name): version.strip() for name, _, version in pins}


def wanted() -> list[Requirement]:
    """What the project itself asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = [*project["dependencies"], *project["optional-dependencies"]["test"], *BUILD]
    return [Requirement(text) for text in texts]


def needed(python: str) -> set[str]:
    """The packages of the environment on that Python."""
    environment = default_environment() | {"python_version": python, "python_full_version": f"{python}.0"}
    found: set[str] = set()
    todo = [(requirement, "") for requirement in wanted()]
    while todo:
        requirement, extra = todo.pop()
        if requirement.marker and not requirement.marker.evaluate({**environment, "extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        new = name not in found
        found.add(name)
        own = [Requirement(text) for text in requires(name)]
        todo += [(other, one) for one in requirement.extras for other in own if other.marker]
        todo += [(other, "") for other in own if new]
    return found


def requires(name: str) -> list[str]:
    """What an installed package asks for."""
    try:
        return metadata.distribution(name).requires or []
    except metadata.PackageNotFoundError:
        if name not in BUILD:
            raise
        return []


def fits(tags: frozenset[Tag]) -> bool:
    """Whether a wheel is for one of the Pythons and machines, on Linux with glibc."""
    return any(_fits_python(tag) and _fits_machine(tag) for tag in tags)


def _fits_python(tag: Tag) -> bool:
    if tag.interpreter in ("py3", "py2.py3"):
        return True
    oldest = _ABI3.fullmatch(tag.interpreter)
    if tag.abi == "abi3":
        return oldest is not None and int(oldest[1]) <= 14
    return tag.interpreter == tag.abi and tag.interpreter in {
        f"cp{python.replace('.', '')}" for python in PYTHONS
    }


def _fits_machine(tag: Tag) -> bool:
    linux = tag.platform.startswith(("manylinux", "linux"))
    return tag.platform == "any" or (linux and tag.platform.endswith(MACHINES))


def wheels(collector: LinkCollector, indexes: list[str], name: str, version: str) -> Iterator[Link]:
    """The wheels of that version that fit, as the index lists them."""
    for index in indexes:
        if index.startswith("file:"):
            continue
        answer = collector.fetch_response(Link(f"{index.rstrip('/')}/{name}/"))
        for link in parse_links(answer) if answer else ():
            if not link.is_wheel or f"-{version}-" not in link.filename:
                continue
            if fits(parse_wheel_filename(link.filename)[3]) and link.hash_name == "sha256":
                yield link


def main() -> None:
    pins, pythons = pinned("constraints.txt"), defaultdict(set)
    for python in PYTHONS:
        for name in needed(python):
            pythons[name].add(python)
    write("test", "venv.sh", {name: pins[name] for name in pythons}, pythons)
    write("swift", "swift", pinned("constraints-swift.txt"), {})


def write(what: str, reader: str, pins: dict[str, str], pythons: dict[str, set[str]]) -> None:
    """Write the file of one environment; a package that is not in ``pythons`` is for all of them."""
    lines = [HEAD.format(what=f"{what} environment", reader=reader)]
    command = create_command("download")
    options, _ = command.parse_args([])
    with command.main_context():
        finder = command._build_package_finder(options, command.get_default_session(options))  # type: ignore[attr-defined]
        for name in sorted(pins):
            links = wheels(finder._link_collector, finder.index_urls, name, pins[name])
            hashes = sorted({f"--hash=sha256:{link.hash}" for link in links})
            if not hashes:
                sys.exit(f"{name}=={pins[name]}: the index lists no wheel of it")
            marker = "" if pythons.get(name, set(PYTHONS)) == set(PYTHONS) else _marker(pythons[name])
            lines.append(" \\\n    ".join([f"{name}=={pins[name]}{marker}", *hashes]))
    (SCRIPTS / f"requirements-{what}.txt").write_text("\n".join(lines) + "\n")


def _marker(pythons: set[str]) -> str:
    return " ; " + " or ".join(f'python_version == "{python}"' for python in sorted(pythons))


if __name__ == "__main__":
    main()
