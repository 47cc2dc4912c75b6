"""Writes the counts of a test run into docs/how-it-is-tested.md, and checks that page.

    counts.py DIRECTORY  puts a table of the JSON files in DIRECTORY (see tests/counts.py) between the markers
    counts.py --check    fails when the section is damaged, or when the page names a test that does not exist

Nothing else writes there, and nothing is added up that was not counted in one run.
"""

from __future__ import annotations

import ast
import json
import platform
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "how-it-is-tested.md"
BEGIN = "<!-- counts: written by scripts/test, do not edit -->"
END = "<!-- end of counts -->"
NOT_RUN = "Not run yet: `OVERLAYSYNC_COUNTS=DIR scripts/test` writes this section."

TITLES = {
    "tests": "tests",
    "points": "faults at system calls",
    "kills": "kills under load",
    "full": "full disks",
    "rot": "flipped bits",
    "machine": "commands in any order",
    "at-once": "commands at once",
    "fuzz": "damaged inputs (fuzzing)",
    "generated": "generated images, against QEMU",
    "coverage": "coverage",
}
"""Beginning of a file's name → what its counts are called; in the order of the table."""

_LEFT_OUT = {"test", "seed"}
_TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def numbers(counts: dict[str, Any]) -> Iterator[tuple[str, int | float]]:
    """The numbers in ``counts``, those of tables in it as well."""
    for name, value in counts.items():
        if isinstance(value, dict):
            yield from numbers(value)
        elif name not in _LEFT_OUT and isinstance(value, int | float):
            yield name.replace("_", " "), value


def table(directory: Path) -> str:
    """The section for the files in ``directory``."""
    totals: dict[str, Counter[str]] = defaultdict(Counter)
    for path in sorted(directory.glob("*.json")):
        group = next((prefix for prefix in TITLES if path.stem.startswith(prefix)), path.stem)
        for name, value in numbers(json.loads(path.read_text())):
            totals[group][name] += value  # type: ignore[assignment] # some are fractions
    if not totals:
        return NOT_RUN
    order = [*TITLES, *sorted(totals)]
    rows = [
        f"| {TITLES.get(group, group)} | "
        + ", ".join(f"{value:,} {name}" for name, value in sorted(totals[group].items(), key=lambda x: -x[1]))
        + " |"
        for group in dict.fromkeys(order)
        if group in totals
    ]
    commit = git("describe", "--always", "--dirty", "--exclude", "*")
    head = f"The full run of {datetime.now(UTC):%Y-%m-%d} at {commit}, on {platform.machine()}, Python "
    return "\n".join([f"{head}{platform.python_version()}:", "", "| what | counted |", "|---|---|", *rows])


def git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "an unknown commit"


def section(text: str) -> tuple[str, str, str]:
    """The page before, between and after the markers."""
    before, found, rest = text.partition(f"{BEGIN}\n")
    inside, ended, after = rest.partition(f"\n{END}")
    if not found or not ended or BEGIN in rest or END in after:
        sys.exit(f"{PAGE.name}: its section of counts is not between its two markers")
    return before, inside.strip(), after


def problems(text: str) -> Iterator[str]:
    """What is wrong with the page."""
    inside = section(text)[1]
    if inside != NOT_RUN and "| what | counted |" not in inside:
        yield "the section of counts was edited"
    for path, name in _TEST.findall(text):
        if not (ROOT / path).is_file():
            yield f"there is no {path}"
        elif name and name not in tests_in(ROOT / path):
            yield f"there is no {path}::{name}"


@cache
def tests_in(path: Path) -> set[str]:
    """Names of the functions in a file, and of assignments such as ``TestStudent = Machine.TestCase``."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    functions = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    return functions | {node.id for node in nodes if isinstance(node, ast.Name)}


def main() -> None:
    text = PAGE.read_text()
    if sys.argv[1:] == ["--check"]:
        found = sorted(set(problems(text)))
        for problem in found:
            print(f"{PAGE.name}: {problem}")
        sys.exit(1 if found else 0)
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit(f"usage: {sys.argv[0]} DIRECTORY | --check")
    before, _, after = section(text)
    PAGE.write_text(f"{before}{BEGIN}\n\n{table(Path(sys.argv[1]))}\n\n{END}{after}")


if __name__ == "__main__":
    main()
