"""The rows of archives: what a push costs, beside a bare upload of the same bytes to the same store."""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks import images
from benchmarks.bench import Bench, Line, at_least, at_most
from benchmarks.images import GIB, MIB
from benchmarks.measure import CannotMeasureError, Done, Series, run, take_turns
from benchmarks.overlays import TEAM, Overlays
from benchmarks.rows import Row

_BUCKET = "bench"
_PUSHES = 3
"""Measurements of each side at most: every push stays in the store, three times."""


@dataclass(slots=False)
class ArchiveRows:
    """The rows.

    Attributes:
        bench: measures.
        overlays: gives a file system of real files.
    """

    bench: Bench
    overlays: Overlays
    _prefixes: int = 0
    _archive: str = ""

    def all(self) -> tuple[Row, ...]:
        size = f"{self.bench.size / GIB:g} GiB"
        return (Row(17, f"Push a master of {size} to an archive (Swift)", lambda _: self.push()),)

    def push(self) -> list[Line]:
        bench = self.bench
        with ExitStack() as stack:
            self._start_swift(stack)
            directory, home = bench.directory("pushed"), bench.home()
            master = directory / "base.raw"
            images.copy(self.overlays.data, master)
            bench.command("team", "create", TEAM, home=home)
            bench.command("save", "--team", TEAM, directory, home=home)
            stored = self._stored(home)
            sides = {"ours": lambda: self._push_anew(home).seconds, "obstore": lambda: self._upload(stored)}
            times = take_turns(min(bench.runs, _PUSHES), sides)
            changed, second = self._second(home, master)
            shutil.rmtree(home)
        size = stored.stat().st_size
        ours, theirs = (Series(tuple(size / seconds for seconds in times[side].values)) for side in sides)
        return [
            at_least(
                0.8,
                ours.median / theirs.median,
                what=f"`archive push`, whole command, {size / MIB:.0f} MiB stored",
                ours=ours.text("MiB/s", 1 / MIB),
                against="`obstore.put` in parts, whole process",
                theirs=theirs.text("MiB/s", 1 / MIB),
            ),
            at_most(
                1.1,
                second / changed,
                what="bytes that a push of the next version stores, 1 % changed",
                ours=f"{second / MIB:.2f} MiB",
                against="changed bytes",
                theirs=f"{changed / MIB:.2f} MiB",
            ),
        ]

    def _start_swift(self, stack: ExitStack) -> None:
        """Start the store of the tests, with an empty bucket, and have its keys in the environment."""
        from tests.archive.swift_cluster import PYTHON, running_swift

        if not PYTHON.exists():
            raise CannotMeasureError("OpenStack Swift is not installed; type: scripts/swift")
        swift = stack.enter_context(running_swift(self.bench.directory("swift")))
        os.environ.update(swift.environment())
        swift.make_bucket(_BUCKET)

    def _stored(self, home: Path) -> Path:
        """One file with all that the vault stores."""
        path = self.bench.scratch / "stored"
        with path.open("wb") as file:
            for one in sorted((home / "vault").rglob("*")):
                if one.is_file() and not one.name.startswith("."):
                    file.write(one.read_bytes())
        return path

    def _push_anew(self, home: Path) -> Done:
        """Push to an archive that has nothing yet."""
        self._prefixes += 1
        self._archive = f"archive{self._prefixes}"
        url = f"s3://{_BUCKET}/{self._archive}"
        self.bench.command("archive", "add", self._archive, url, home=home)
        return self.bench.command("archive", "push", TEAM, self._archive, home=home)

    def _upload(self, path: Path) -> float:
        self._prefixes += 1
        words = ("-m", "benchmarks.workers", "put_object", _BUCKET, f"bare{self._prefixes}", path)
        return run([sys.executable, *words]).seconds

    def _second(self, home: Path, master: Path) -> tuple[int, int]:
        """Bytes that are changed in the master, and that a push of it stores then."""
        commands, changed = self.overlays.changes
        run(["qemu-io", "-t", "unsafe", "-f", "raw", master], stdin=commands)
        self.bench.command("save", "--team", TEAM, master.parent, home=home)
        pushed = self.bench.command("archive", "push", TEAM, self._archive, home=home)
        return changed, int(pushed.json["stored"])
