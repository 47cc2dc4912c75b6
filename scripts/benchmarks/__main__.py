"""Runs the benchmarks: ``scripts/bench --help``; a room of hosts: ``scripts/bench swarm --help``;
the vault: ``scripts/bench vault --help``.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from pathlib import Path

from benchmarks import report, rows
from benchmarks.bench import Bench
from benchmarks.images import GIB, MIB
from benchmarks.measure import CannotMeasureError, say
from benchmarks.options import add_common

ROOT = Path(__file__).resolve().parents[2]


def main(words: list[str]) -> int:
    # In the background a shell has SIGINT ignored, and what is started here would inherit that.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    if words[:1] == ["swarm"]:
        from benchmarks import swarm

        return swarm.main(ROOT, words[1:])
    if words[:1] == ["vault"]:
        from benchmarks import vault

        return vault.main(ROOT, words[1:])
    options = parse(words)
    chosen = [row for row in rows.ALL if not options.rows or row.number in options.rows]
    size = 128 * MIB if options.quick else 4 * GIB
    bench = Bench(size=size, runs=options.runs or (2 if options.quick else 5), quick=options.quick, root=ROOT)
    with contextlib.ExitStack() as stack:
        bench.start(Path(options.dir or ROOT), 6 * size + GIB, stack)
        bench.make_master()
        results = [report.measure(row, bench) for row in chosen]
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


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    add_common(parser, runs="5")
    return parser.parse_args(words)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except CannotMeasureError as error:
        sys.exit(f"scripts/bench: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
