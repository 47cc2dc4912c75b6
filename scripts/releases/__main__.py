"""The options of scripts/release, and the order of its work."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from releases import debian, packages, parts, single_file, sums
from releases.source import ReleaseError, Source, check_clean, export, is_version_said_once

ROOT = Path(__file__).resolve().parents[2]
DEBIAN = "deb"
KINDS: dict[str, Callable[[Source, Path], list[Path]]] = {
    "wheel": packages.build,
    "single-file": single_file.build,
    DEBIAN: debian.build,
    "sbom": parts.build,
}


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        prog="scripts/release",
        description="Build a release of the commit that is checked out, into dist/.",
    )
    parser.add_argument(
        "--only",
        metavar="KIND",
        action="append",
        choices=sorted(KINDS),
        help=f"build only this: {', '.join(KINDS)}; may be repeated",
    )
    parser.add_argument("--key", metavar="FILE", help="sign the checksums with this SSH key")
    parser.add_argument(
        "--twice", action="store_true", help="build everything a second time, and compare each file"
    )
    parser.add_argument(
        "--try", dest="tried", action="store_true", help="install the .deb in a new Debian, and use it there"
    )
    parser.add_argument(
        "--dirty", action="store_true", help="build what is in the working tree, committed or not"
    )
    parser.add_argument("--to", metavar="DIR", default="dist", help="put the files here (default: dist)")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Build what the options ask for, and say what was built."""
    options = parsed(words)
    try:
        release(options)
    except ReleaseError as error:
        print(f"release: FAILED: {error}", file=sys.stderr)
        return 1
    return 0


def release(options: argparse.Namespace) -> None:
    """Build, compare, sign and try."""
    if not options.dirty:
        check_clean(ROOT)
    is_version_said_once(ROOT)
    target = Path(options.to).resolve()
    target.mkdir(parents=True, exist_ok=True)
    kinds = options.only or list(KINDS)
    with tempfile.TemporaryDirectory(prefix="overlaysync-release-") as scratch:
        built = build_all(kinds, Path(scratch, "1"), dirty=options.dirty)
        if options.twice:
            again = build_all(kinds, Path(scratch, "2"), dirty=options.dirty)
            compare(built, again)
        files = [place(file, target) for file in built]
    listed = sums.write(files, target, options.key)
    for file in (*files, *listed):
        print(f"{file.stat().st_size:>12,}  {file}")
    if not options.key:
        print("release: NOT SIGNED. To sign the checksums: scripts/release --key FILE, an SSH key")
    if options.tried:
        debian.try_out([file for file in files if file.suffix == ".deb"])


def build_all(kinds: Sequence[str], scratch: Path, *, dirty: bool) -> list[Path]:
    """Return the files, built from an export of the tree of its own."""
    target = scratch / "out"
    target.mkdir(parents=True)
    source = export(ROOT, scratch / "tree", dirty=dirty)
    built = []
    for kind in kinds:
        print(f"release: building {kind} ...", file=sys.stderr, flush=True)
        built += KINDS[kind](source, target)
    return built


def compare(first: Sequence[Path], second: Sequence[Path]) -> None:
    """Say of each file whether it came out the same twice.

    Raises:
        ReleaseError: one did not.
    """
    other = {file.name: file for file in second}
    differing = [file.name for file in first if sums.digest(file) != sums.digest(other[file.name])]
    for file in first:
        print(f"release: {'DIFFERS' if file.name in differing else 'same twice'}  {file.name}")
    if differing:
        raise ReleaseError(f"built twice, and not the same: {', '.join(differing)}")


def place(file: Path, target: Path) -> Path:
    """Move a file to where the release is kept."""
    done = target / file.name
    done.write_bytes(file.read_bytes())
    done.chmod(file.stat().st_mode)
    return done


if __name__ == "__main__":
    sys.exit(main())
