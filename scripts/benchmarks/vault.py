"""The vault beside restic: save, restore, memory, many states, archives. ``scripts/bench vault`` runs it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks import report
from benchmarks.archive_rows import ArchiveRows
from benchmarks.bench import Bench
from benchmarks.images import GIB, MIB
from benchmarks.measure import say
from benchmarks.options import add_common
from benchmarks.overlays import Overlays
from benchmarks.vault_rows import LARGER, VaultRows, restic_version

MARKS = report.Marks(
    "<!-- the vault, measured: scripts/bench vault replaces everything from here ... -->",
    "<!-- ... to here: the vault -->",
)
_RUNS = 5


def main(root: Path, words: Sequence[str]) -> int:
    """Measure, show, and write the figures into docs/benchmarks.md when everything was measured."""
    parser = argparse.ArgumentParser(prog="scripts/bench vault", description=__doc__)
    add_common(parser, runs=str(_RUNS))
    options = parser.parse_args(words)
    size = 64 * MIB if options.quick else GIB
    bench = Bench(
        size=size, runs=options.runs or (1 if options.quick else _RUNS), quick=options.quick, root=root
    )
    with ExitStack() as stack:
        bench.start(Path(options.dir or root), (3 * LARGER + 4) * size, stack)
        overlays = Overlays(bench)
        rows = VaultRows(bench, overlays).all() + ArchiveRows(bench, overlays).all()
        results = [
            report.measure(row, bench) for row in rows if not options.rows or row.number in options.rows
        ]
        about = facts(bench, overlays)
    report.show(results, about)
    written = not (options.quick or options.rows or options.no_write)
    if written:
        report.write(root / "docs" / "benchmarks.md", results, about, MARKS)
    say(f"docs/benchmarks.md {'written' if written else 'is left as it is'}")
    return 0


def facts(bench: Bench, overlays: Overlays) -> list[tuple[str, str]]:
    """When, where and with what was measured."""
    return [
        *report.machine_facts(bench),
        ("others", restic_version() or "restic is not installed"),
        ("overlay", overlays.filled or "none"),
        ("runs", f"{bench.runs} of each side, in turns; memory once; of the last row 5 at least"),
    ]
