"""Options that ``scripts/bench`` and ``scripts/bench swarm`` have in common."""

from __future__ import annotations

import argparse


def add_common(parser: argparse.ArgumentParser, runs: str) -> None:
    """Add them; ``runs`` is what the help says of the usual number."""
    parser.add_argument("--quick", action="store_true", help="small images, few runs: does it work at all?")
    parser.add_argument("--rows", type=numbers, metavar="N,N", help="only these rows (nothing is written)")
    parser.add_argument("--runs", type=int, metavar="N", help=f"measurements of each side (default: {runs})")
    parser.add_argument("--no-write", action="store_true", help="leave docs/benchmarks.md as it is")
    parser.add_argument("--dir", metavar="DIR", help="where the images go (default: the repository)")


def numbers(text: str) -> frozenset[int]:
    """``1,2,8``."""
    return frozenset(int(part) for part in text.split(","))
