"""The table, on the terminal and in docs/benchmarks.md; there only what is between the marks is replaced."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks.bench import Bench, Line
from benchmarks.measure import CannotMeasureError, say
from benchmarks.row import Row


@dataclass(frozen=True, slots=True)
class Marks:
    """Lines of the document; what is between them is measured, the rest is written by hand."""

    begin: str
    end: str


_ROWS = Marks("<!-- measured: scripts/bench replaces everything from here ... -->", "<!-- ... to here -->")


@dataclass(frozen=True, slots=True)
class Result:
    """A row and its lines; or why there are none."""

    row: Row
    lines: list[Line]
    problem: str = ""


def measure(row: Row, bench: Bench) -> Result:
    """Measure a row, or say why it cannot be measured."""
    say(f"== {row.number}. {row.title}")
    try:
        return Result(row, row.measure(bench))
    except CannotMeasureError as error:
        reason = str(error).replace(str(bench.scratch), "...")
        say(f"   not measured: {reason}")
        return Result(row, [], reason)


def machine_facts(bench: Bench) -> list[tuple[str, str]]:
    """When, where and of what code was measured."""
    return [
        ("date", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"),
        ("commit", _commit(bench.root)),
        ("machine", f"{os.cpu_count()} × {_processor()}, {_memory_gib()} GiB, {_file_system(bench.scratch)}"),
        ("kernel", f"{platform.system()} {platform.release()}"),
        ("Python", f"{platform.python_version()}, blake3 {version('blake3')}, aiohttp {version('aiohttp')}"),
    ]


def facts(bench: Bench) -> list[tuple[str, str]]:
    """The same, and with what."""
    return [
        *machine_facts(bench),
        (
            "others",
            ", ".join(
                filter(None, (_first_line("qemu-img", "--version"), _first_line("rsync", "--version")))
            ),
        ),
        ("image", bench.filled or "none"),
        ("runs", f"{bench.runs} of each side, in turns"),
    ]


def show(results: list[Result], about: list[tuple[str, str]]) -> None:
    """Print the table."""
    print("\n".join(f"{name:8} {value}" for name, value in about) + "\n")
    table = [("", "ours", "against", "theirs", "ratio", "reach", "")]
    for result in results:
        table.append((f"{result.row.number}. {result.row.title}", "", "", "", "", "", ""))
        if result.problem:
            table.append((f"   not measured: {result.problem}", "", "", "", "", "", ""))
        table += [(f"   {cells[0]}", *cells[1:]) for cells in map(_cells, result.lines)]
    widths = [max(len(cells[column]) for cells in table if any(cells[1:])) for column in range(7)]
    for cells in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())


def write(path: Path, results: list[Result], about: list[tuple[str, str]], marks: Marks = _ROWS) -> None:
    """Replace what is measured in the document at ``path``."""
    text = path.read_text()
    measured = "\n".join([marks.begin, "", *_document(results, about), "", marks.end])
    text, count = re.subn(
        re.escape(marks.begin) + ".*?" + re.escape(marks.end),
        lambda _: measured,
        text,
        count=1,
        flags=re.DOTALL,
    )
    if not count:
        raise SystemExit(f"{path} has no place for the figures: add the lines {marks.begin} and {marks.end}")
    path.write_text(text)


def _document(results: list[Result], about: list[tuple[str, str]]) -> list[str]:
    lines = ["| measured | |", "|---|---|", *(f"| {name} | {value} |" for name, value in about)]
    for result in results:
        lines += ["", f"**{result.row.number}. {result.row.title}**", ""]
        if result.problem:
            lines.append(f"Not measured: {result.problem}")
            continue
        lines += ["| | ours | against | theirs | ratio | reach | |", "|---|---|---|---|---|---|---|"]
        lines += ["| " + " | ".join(_cells(line)) + " |" for line in result.lines]
    missed = [
        str(result.row.number) for result in results if any(line.good is False for line in result.lines)
    ]
    if missed:
        lines += ["", f"Not reached: {', '.join(missed)}; see the notes below."]
    return lines


def _cells(line: Line) -> tuple[str, str, str, str, str, str, str]:
    ratio = "" if line.ratio is None else f"{line.ratio:.2f}"
    mark = "" if line.good is None else "✔" if line.good else "✗ not reached"
    return line.what, line.ours, line.against, line.theirs, ratio, line.reach, mark


# -- facts -------------------------------------------------------------------------------------------


def _commit(root: Path) -> str:
    commit = _first_line("git", "-C", str(root), "rev-parse", "--short=12", "HEAD")
    changes = _first_line("git", "-C", str(root), "status", "--porcelain", "--", "overlaysync")
    return (commit or "unknown") + (" with uncommitted changes" if changes else "")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _memory_gib() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30))


def _file_system(path: Path) -> str:
    return _first_line("findmnt", "-n", "-o", "FSTYPE", "-T", str(path)) or "unknown file system"


def _first_line(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return (done.stdout.splitlines() or [""])[0].strip() if not done.returncode else ""
