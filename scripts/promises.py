"""Write the tables of docs/how-it-is-tested.md from the markers on the tests.

    promises.py          write them
    promises.py --check  fail when they are out of date, when a marker is wrong, or when a promise has no test

The markers are read from the source, and nothing is imported:

    @pytest.mark.holds("R4")                         the test, or by ``pytestmark`` its file, holds promise R4
    @pytest.mark.red_without("R4", "free space is not checked first")
                                                     the test was seen to fail when the program was changed so

The promises, with their ids, are in tests/promises.toml.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "how-it-is-tested.md"
PROMISES = ROOT / "tests" / "promises.toml"

ARGUMENTS = {"holds": 1, "red_without": 2}


class Mark(NamedTuple):
    """One marker.

    Attributes:
        kind: "holds" or "red_without".
        test: where it stands, "tests/ops/test_verify.py::test_it" or only the file.
        words: its arguments: the id of a promise, and what was changed. Empty if they are not plain strings.
    """

    kind: str
    test: str
    words: tuple[str, ...]


def marks_of(path: Path) -> Iterator[Mark]:
    """Yield the markers in one file, from top to bottom; those out of place have no words."""
    source = path.read_text(encoding="utf-8")
    if not any(f"mark.{kind}" in source for kind in ARGUMENTS):
        return
    file = path.relative_to(ROOT).as_posix()
    tree = ast.parse(source)
    read: set[ast.AST] = set()
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id="pytestmark")], value=value):
                test, places = file, [value]
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) if name.startswith("test"):
                test, places = f"{file}::{name}", node.decorator_list
            case _:
                continue
        for place in places:
            for call, kind, words in calls_in(place):
                read.add(call)
                yield Mark(kind, test, words)
    for call, kind, _ in calls_in(tree):
        if call not in read:
            yield Mark(kind, f"{file}, line {call.lineno}", ())


def calls_in(tree: ast.AST) -> Iterator[tuple[ast.Call, str, tuple[str, ...]]]:
    """Yield each ``….mark.holds(…)`` and ``….mark.red_without(…)`` in an expression or module."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Attribute(attr="mark"), attr=kind), args=args):
                if kind in ARGUMENTS:
                    plain = [arg.value for arg in args if isinstance(arg, ast.Constant)]
                    words = tuple(word for word in plain if isinstance(word, str))
                    right = len(words) == len(args) == ARGUMENTS[kind] and not node.keywords
                    yield node, kind, words if right else ()


def problems(marks: Iterable[Mark], promises: dict[str, str]) -> Iterator[str]:
    """Yield what is wrong with the markers, as sentences."""
    held = set()
    for kind, test, words in marks:
        if not words:
            yield f"{test}: {kind} is misplaced, or does not have {ARGUMENTS[kind]} plain string(s)"
        elif words[0] not in promises:
            yield f"{test}: {kind} names {words[0]}, which is not in tests/{PROMISES.name}"
        elif kind == "holds":
            held.add(words[0])
    yield from (f"tests/{PROMISES.name}: no test holds {one}" for one in promises if one not in held)


def tables(marks: list[Mark], promises: dict[str, str]) -> dict[str, str]:
    """Return the two tables by the names of their sections."""
    held: dict[str, list[str]] = {one: [] for one in promises}
    red: dict[str, dict[str, list[str]]] = {one: {} for one in promises}
    for kind, test, words in marks:
        if words and words[0] in promises:
            one = words[0]
            tests = held[one] if kind == "holds" else red[one].setdefault(words[1], [])
            tests.append(f"`{test}`")
    first = [
        f"| {one} | {text} | {', '.join(held[one])} | {len(red[one]) or '—'} |"
        for one, text in promises.items()
    ]
    second = [
        f"| {one} | {change} | {', '.join(tests)} |" for one in promises for change, tests in red[one].items()
    ]
    return {
        "promises": "\n".join(["| id | promise | tests | changes |", "|---|---|---|---|", *first]),
        "changes": "\n".join(["| id | the change | tests that failed |", "|---|---|---|", *second]),
    }


def rewritten(page: str, sections: dict[str, str]) -> str:
    """Return the page with its sections replaced."""
    for name, text in sections.items():
        begin = f"<!-- {name}: written by scripts/promises.py, do not edit -->"
        end = f"<!-- end of {name} -->"
        try:
            before, rest = page.split(begin)
            _, after = rest.split(end)
        except ValueError:
            sys.exit(f"{PAGE.name}: the section '{name}' is not between its two marks")
        page = f"{before}{begin}\n\n{text}\n\n{end}{after}"
    return page


def main() -> None:
    if sys.argv[1:] not in ([], ["--check"]):
        sys.exit(f"usage: {sys.argv[0]} [--check]")
    promises = tomllib.loads(PROMISES.read_text(encoding="utf-8"))
    marks = [mark for path in sorted((ROOT / "tests").rglob("*.py")) for mark in marks_of(path)]
    page = PAGE.read_text(encoding="utf-8")
    new = rewritten(page, tables(marks, promises))
    found = list(problems(marks, promises))
    if not sys.argv[1:]:
        PAGE.write_text(new, encoding="utf-8")
    elif new != page:
        found.append(
            f"{PAGE.name} is not what the markers say; to write it: .venv/bin/python scripts/promises.py"
        )
    print(*found, sep="\n", end="\n" if found else "")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
