"""Runs the benchmarks: ``scripts/bench --help``."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from benchmarks import report, rows
from benchmarks.bench import Bench
from benchmarks.images import GIB, MIB
from benchmarks.measure import CannotMeasureError, say

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    options = parse()
    chosen = [row for row in rows.ALL if not options.rows or row.number in options.rows]
    size = 128 * MIB if options.quick else 4 * GIB
    bench = Bench(size=size, runs=options.runs or (2 if options.quick else 5), quick=options.quick, root=ROOT)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    place = Path(options.dir or ROOT)
    with contextlib.ExitStack() as stack:
        check_space(place, 6 * size + GIB)
        scratch = Path(tempfile.mkdtemp(prefix=".overlaysync-bench-", dir=place))
        stack.callback(shutil.rmtree, scratch, ignore_errors=True)
        bench.start(scratch, stack)
        bench.make_master()
        results = [measure(row, bench) for row in chosen]
        facts = report.facts(bench)
    report.show(results, facts)
    if options.quick:
        say("small images: the ratios say nothing, only that everything works")
    if options.quick or options.rows or options.no_write:
        say("docs/benchmarks.md is left as it is")
    else:
        report.write(ROOT / "docs" / "benchmarks.md", results, facts)
        say("docs/benchmarks.md written")
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small images, two runs: does it work at all?")
    parser.add_argument("--rows", type=numbers, metavar="N,N", help="only these rows (nothing is written)")
    parser.add_argument("--runs", type=int, metavar="N", help="measurements of each side (default: 5)")
    parser.add_argument("--no-write", action="store_true", help="leave docs/benchmarks.md as it is")
    parser.add_argument("--dir", metavar="DIR", help="where the images go (default: the repository)")
    return parser.parse_args()


def numbers(text: str) -> set[int]:
    return {int(part) for part in text.split(",")}


def check_space(place: Path, needed: int) -> None:
    free = shutil.disk_usage(place).free
    if free < needed:
        sys.exit(f"{place}: {needed >> 30} GiB are needed, {free >> 30} GiB are free; choose another --dir")


def measure(row: rows.Row, bench: Bench) -> report.Result:
    say(f"== {row.number}. {row.title}")
    try:
        return report.Result(row, row.measure(bench))
    except CannotMeasureError as error:
        reason = str(error).replace(str(bench.scratch), "...")
        say(f"   not measured: {reason}")
        return report.Result(row, [], reason)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CannotMeasureError as error:
        sys.exit(f"scripts/bench: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
