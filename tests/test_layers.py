"""Holds the table of layers: who may import whom, and what the lower levels must not touch.

Reads the source with ``ast`` and imports nothing: imports inside functions and under TYPE_CHECKING count too.
Leaves out what no source shows: names computed at run time.

Rules:
    1. A module imports only from lower levels; inside its own package it is free.
    2. Packages of one level do not import each other (formats, store, swarm, trust, vault).
       ``units`` may use ``errors``, both level 0: a size that cannot be read is an error of the one tree.
       ``discovery`` may use ``net``, both level 4, for addresses and faults; ``net`` knows no discovery.
       ``archive`` and ``live``, level 4 as well, know neither: libraries of their own speak to object stores
       and to QEMU.
    3. Below level 4 nothing is ``async``, imports a network or event loop module, or reads a clock.
    4. ``overlaysync/__init__.py`` and ``__main__.py`` stand outside the table.
    5. No modules, and no packages (``ops`` and ``ops.vms`` are two), import each other in a circle.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = "overlaysync"
TREE = Path(__file__).resolve().parent.parent

LEVELS = {
    "errors": 0,
    "installed": 0,
    "units": 0,
    "model": 1,
    "formats": 2,
    "store": 2,
    "swarm": 2,
    "trust": 2,
    "vault": 2,
    "ops": 3,
    "archive": 4,
    "live": 4,
    "net": 4,
    "discovery": 4,
    "node": 5,
    "cli": 7,
    "web": 6,
}
FIRST_IMPURE_LEVEL = 4

SAME_LEVEL_ALLOWED = {("units", "errors"), ("discovery", "net")}

IMPURE_MODULES = (
    "aiohttp",
    "anyio",
    "asyncio",
    "ftplib",
    "http.client",
    "http.server",
    "select",
    "selectors",
    "smtplib",
    "socket",
    "socketserver",
    "trio",
    "urllib.request",
    "zeroconf",
)

CLOCKS = {
    *(f"time.{name}{suffix}" for name in ("time", "monotonic", "perf_counter") for suffix in ("", "_ns")),
    *(f"time.{name}{suffix}" for name in ("process_time", "thread_time") for suffix in ("", "_ns")),
    *("time.clock_gettime", "time.clock_gettime_ns"),
    *("datetime.datetime.now", "datetime.datetime.utcnow", "datetime.datetime.today", "datetime.date.today"),
}
# These read the clock only when called with fewer arguments than this.
CLOCKS_BY_DEFAULT = {
    "time.gmtime": 1,
    "time.localtime": 1,
    "time.ctime": 1,
    "time.asctime": 1,
    "time.strftime": 2,
}


tree_of = cache(ast.parse)
"""The syntax tree of a text; several tests go through those of the whole package."""


def violations(module: str, source: str, *, is_package: bool = False) -> list[str]:
    """Every breach of the rules in one module, as sentences.

    Args:
        module: dotted name, "overlaysync.formats.qed".
        source: its text.
        is_package: whether the source is that package's ``__init__.py``.
    """
    part = part_of(module)
    if part in (None, "__main__"):
        return []
    tree = tree_of(source)
    if part not in LEVELS:
        return [f"{module} belongs to no level: '{part}' is not in the table of layers."]
    found = []
    for line, imported in imports_in(module, source, is_package=is_package):
        reason = why_not(part, imported)
        if reason:
            found.append(f"{module}, line {line}, imports {imported}: {reason}")
    if LEVELS[part] < FIRST_IMPURE_LEVEL:
        rule = f"{part} is level {LEVELS[part]}, and nothing below level {FIRST_IMPURE_LEVEL}"
        found += [
            f"{module}, line {line}, has an 'async def': {rule} is async." for line in coroutines_of(tree)
        ]
        found += [
            f"{module}, line {line}, reads the clock with {clock}: {rule} does. Take the time as an argument."
            for line, clock in clocks_of(tree)
        ]
    return found


def part_of(module: str) -> str | None:
    """The name right below the root: a key of LEVELS, if all is well. None for the root itself."""
    names = module.split(".")
    return names[1] if len(names) > 1 else None


def why_not(part: str, imported: str) -> str | None:
    """The reason why a module of ``part`` must not import this name; None if it may."""
    level = LEVELS[part]
    if imported.split(".", maxsplit=1)[0] != ROOT:
        if level >= FIRST_IMPURE_LEVEL or not is_within(imported, IMPURE_MODULES):
            return None
        return (
            f"{part} is level {level}, and nothing below level {FIRST_IMPURE_LEVEL}"
            " opens a socket or runs an event loop."
        )
    target = part_of(imported)
    if target in (part, "__version__") or (part, target) in SAME_LEVEL_ALLOWED:
        return None
    if target is None:
        return "that names no part of the package. Import the part that is meant."
    if target not in LEVELS:
        return f"'{target}' is not in the table of layers."
    if LEVELS[target] < level:
        return None
    if LEVELS[target] == level:
        return (
            f"{part} and {target} are siblings of level {level} and do not know each other."
            " Move what both need to a lower level, or join them in a higher one."
        )
    return (
        f"{part} is level {level} and {target} is level {LEVELS[target]};"
        " a module imports only from lower levels."
    )


def is_within(name: str, modules: tuple[str, ...]) -> bool:
    return any(name == module or name.startswith(module + ".") for module in modules)


@cache
def imports_in(module: str, source: str, *, is_package: bool) -> list[tuple[int, str]]:
    """Line and absolute dotted name of everything imported, wherever in a module of that text."""
    return list(imports_of(tree_of(source), module, is_package=is_package))


def imports_of(tree: ast.Module, module: str, *, is_package: bool) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of everything imported, wherever in the module."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                for alias in names:
                    yield node.lineno, alias.name
            case ast.ImportFrom(module=name, names=names, level=dots):
                base = absolute(name, dots, module, is_package=is_package)
                for alias in names:
                    yield node.lineno, base if alias.name == "*" else f"{base}.{alias.name}"
            case ast.Call(func=func, args=[ast.Constant(value=str(name)), *_]) if is_import_call(func):
                yield node.lineno, name


def absolute(name: str | None, dots: int, module: str, *, is_package: bool) -> str:
    if dots == 0:
        return name or ""
    names = module.split(".")
    names = names[: len(names) - dots + (1 if is_package else 0)]
    return ".".join([*names, *([name] if name else [])])


def is_import_call(func: ast.expr) -> bool:
    match func:
        case ast.Name(id="__import__" | "import_module") | ast.Attribute(attr="import_module"):
            return True
    return False


def coroutines_of(tree: ast.Module) -> Iterator[int]:
    return (node.lineno for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef))


def clocks_of(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and name of every mention of a clock, called or handed on."""
    names = names_of(tree)
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module="time", names=[ast.alias(name="*")]):
                yield node.lineno, "time.*"
            case ast.Call(func=func, args=args):
                name = dotted(func, names)
                if len(args) < CLOCKS_BY_DEFAULT.get(name, 0):
                    yield node.lineno, name
            case ast.Attribute() | ast.Name():
                name = dotted(node, names)
                if name in CLOCKS:
                    yield node.lineno, name


def names_of(tree: ast.Module) -> dict[str, str]:
    """What each imported name stands for: {"dt": "datetime.datetime"}."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=aliases):
                names |= {a.asname: a.name for a in aliases if a.asname}
                names |= {a.name.split(".")[0]: a.name.split(".")[0] for a in aliases if not a.asname}
            case ast.ImportFrom(module=str(module), names=aliases, level=0):
                names |= {a.asname or a.name: f"{module}.{a.name}" for a in aliases}
    return names


def dotted(node: ast.expr, names: dict[str, str]) -> str:
    """The full name that an expression refers to, through the imports; empty if it is none."""
    match node:
        case ast.Name(id=name):
            return names.get(name, "")
        case ast.Attribute(value=value, attr=attr):
            base = dotted(value, names)
            return f"{base}.{attr}" if base else ""
    return ""


def modules_below(package: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(package.rglob("*.py")):
        names = path.relative_to(package.parent).with_suffix("").parts
        yield ".".join(names[:-1] if names[-1] == "__init__" else names), path


def circle_in(graph: Mapping[str, set[str]]) -> list[str]:
    """Names of which each imports the next, the first one again at the end; none when there is no circle."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


def graph_of(sources: Mapping[str, str], *, packages: bool) -> dict[str, set[str]]:
    """What each module imports of the others; or each package, of which a module is a part, of others."""

    def name_of(module: str) -> str:
        return module.rpartition(".")[0] if packages else module

    graph: dict[str, set[str]] = {}
    for module, source in sources.items():
        for _, imported in imports_in(module, source, is_package=False):
            target = imported if imported in sources else imported.rpartition(".")[0]
            if target in sources and name_of(target) != name_of(module):
                graph.setdefault(name_of(module), set()).add(name_of(target))
    return graph


@pytest.mark.parametrize("packages", [False, True], ids=["modules", "packages"])
def test_nothing_is_imported_in_a_circle(packages: bool) -> None:
    texts = {module: path.read_text(encoding="utf-8") for module, path in modules_below(TREE / ROOT)}
    sources = {module: text for module, text in texts.items() if part_of(module) not in (None, "__main__")}
    circle = circle_in(graph_of(sources, packages=packages))
    assert not circle, f"imported in a circle: {' → '.join(circle)}. Move what two of them need to a third."


def test_a_circle_is_found() -> None:
    sources = {
        "overlaysync.ops.offer": "def f():\n    from overlaysync.ops.vms.place import Place",
        "overlaysync.ops.vms.place": "from overlaysync.ops.folders import Folder",
        "overlaysync.ops.folders": "from overlaysync.ops import again",
        "overlaysync.ops.again": "",
    }
    assert circle_in(graph_of(sources, packages=False)) == []
    circle = circle_in(graph_of(sources, packages=True))
    assert len(circle) == 3 and set(circle) == {"overlaysync.ops", "overlaysync.ops.vms"}
    sources["overlaysync.ops.again"] = "from .offer import Offer"
    circle = circle_in(graph_of(sources, packages=False))
    assert len(circle) == 5 and circle[0] == circle[-1]


def test_every_module_keeps_to_its_level() -> None:
    checked = list(modules_below(TREE / ROOT))
    assert checked, f"no module found below {TREE / ROOT}"
    found = [
        sentence
        for module, path in checked
        for sentence in violations(
            module, path.read_text(encoding="utf-8"), is_package=path.name == "__init__.py"
        )
    ]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("module", "source", "said"),
    [
        ("overlaysync.model.page", "from overlaysync.net import wire", "model is level 1 and net is level 4"),
        ("overlaysync.formats.qed", "import overlaysync.store.catalog", "formats and store are siblings"),
        (
            "overlaysync.trust.keys",
            "from overlaysync import swarm",
            "trust and swarm are siblings of level 2",
        ),
        ("overlaysync.swarm.plan", "from ..formats.qed import read", "overlaysync.formats.qed.read"),
        ("overlaysync.store.catalog", "from .. import ops", "ops is level 3"),
        ("overlaysync.ops.publish", "def f():\n    from overlaysync.node import Node", "line 2"),
        (
            "overlaysync.ops.publish",
            "import importlib\nimportlib.import_module('overlaysync.cli')",
            "cli is level 7",
        ),
        ("overlaysync.archive.bucket", "from ..net import rate", "archive and net are siblings of level 4"),
        ("overlaysync.web.page", "from overlaysync.cli.main import run", "web is level 6 and cli is level 7"),
        ("overlaysync.errors", "from overlaysync.units import size", "errors and units are siblings"),
        ("overlaysync.node", "import overlaysync.cli", "node is level 5 and cli is level 7"),
        ("overlaysync.ops.new", "import overlaysync", "names no part"),
        ("overlaysync.ops.new", "from overlaysync.helpers import x", "'helpers' is not in the table"),
        ("overlaysync.helpers", "", "belongs to no level"),
        ("overlaysync.ops.new", "async def f(): ...", "is async"),
        ("overlaysync.model.page", "class A:\n    async def f(self): ...", "line 2"),
        ("overlaysync.store.lock", "import socket", "opens a socket"),
        ("overlaysync.swarm.plan", "from asyncio import sleep", "event loop"),
        ("overlaysync.ops.new", "from aiohttp.web import Request", "imports aiohttp.web.Request"),
        ("overlaysync.ops.new", "from urllib import request", "imports urllib.request"),
        (
            "overlaysync.swarm.plan",
            "import time\nnow = time.monotonic()",
            "line 2, reads the clock with time.mono",
        ),
        ("overlaysync.swarm.plan", "import time as t\ndef f(clock=t.time): ...", "time.time"),
        ("overlaysync.swarm.plan", "from time import perf_counter_ns as now\nnow()", "time.perf_counter_ns"),
        ("overlaysync.store.catalog", "from datetime import datetime as d\nd.now()", "datetime.datetime.now"),
        ("overlaysync.store.catalog", "import datetime\ndatetime.date.today()", "datetime.date.today"),
        ("overlaysync.store.catalog", "import time\ntime.gmtime()", "time.gmtime"),
        ("overlaysync.store.catalog", "from time import *", "time.*"),
    ],
)
def test_a_breach_is_named_with_its_reason(module: str, source: str, said: str) -> None:
    (sentence,) = violations(module, source)
    assert module in sentence
    assert said in sentence


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "overlaysync.model.page",
            "from overlaysync.errors import FormatError\nfrom overlaysync import units",
        ),
        ("overlaysync.units", "from overlaysync.errors import UsageError"),
        (
            "overlaysync.formats.qed",
            "from . import chain\nfrom .chain import open_chain\nfrom ..model import page",
        ),
        ("overlaysync.formats.qed", "from overlaysync.formats.chain import open_chain"),
        (
            "overlaysync.ops.publish",
            "from overlaysync.store.catalog import Catalog\nfrom ..swarm import plan",
        ),
        ("overlaysync.archive.pace", "import time\nfrom ..vault import objects\ntime.monotonic()"),
        ("overlaysync.net.server", "import asyncio, socket, time\nasync def f(): return time.monotonic()"),
        ("overlaysync.node", "from overlaysync import __version__, net, ops"),
        ("overlaysync.cli.main", "def f():\n    from overlaysync.node import Node"),
        ("overlaysync.__main__", "from overlaysync.cli.main import run\nrun()"),
        ("overlaysync", "from overlaysync.cli import main"),
        ("overlaysync.store.catalog", "import time\ntime.gmtime(0)\ntime.strftime('%Y', time.gmtime(1))"),
        ("overlaysync.store.catalog", "from datetime import UTC, datetime\ndatetime.fromtimestamp(0, UTC)"),
        ("overlaysync.swarm.plan", "def f(now: float, time: float): return time.monotonic + now"),
        ("overlaysync.ops.new", "from urllib.parse import quote\nfrom http import HTTPStatus"),
    ],
)
def test_what_is_allowed_passes(module: str, source: str) -> None:
    assert violations(module, source) == []


def test_a_package_resolves_its_relative_imports_from_itself() -> None:
    assert violations("overlaysync.formats", "from . import qed", is_package=True) == []
    (sentence,) = violations("overlaysync.formats", "from ..store import catalog", is_package=True)
    assert "overlaysync.store.catalog" in sentence
