"""A row of the table, and what the measuring of several rows needs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench import Bench, Line
from benchmarks.measure import run


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table: its number, what it is called, and how it is measured."""

    number: int
    title: str
    measure: Callable[[Bench], list[Line]]


def clean(directory: Path, *homes: Path) -> None:
    """Empty ``directory``, and remove homes."""
    for path in directory.iterdir():
        path.unlink()
    for home in homes:
        shutil.rmtree(home)


def check_equal(left: Path, right: Path) -> None:
    """What was measured must also be right: ask qemu-img."""
    run(["qemu-img", "compare", "-q", left, right])
