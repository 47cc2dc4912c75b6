"""The overlays that are saved: real files in a file system, and the same with a part of it changed."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from benchmarks import images
from benchmarks.bench import Bench
from benchmarks.images import KIB, MIB
from benchmarks.measure import run

CLUSTER = 64 * KIB
TEAM = "red"


@dataclass(slots=False)
class Overlays:
    """What the rows of the vault save.

    Attributes:
        bench: makes and removes it.
        filled: what is in the overlay.
    """

    bench: Bench
    filled: str = ""

    @cached_property
    def data(self) -> Path:
        """A file system of real files, raw."""
        path = self.bench.directory("data") / "data.raw"
        self.filled = images.make_file_system(path, self.bench.size)
        return path

    @cached_property
    def overlay(self) -> Path:
        """The same as all that a guest has written: an overlay on a master with nearly nothing in it."""
        return self.on_master(self.data, self.bench.directory("kept") / "web.qcow2")

    def master(self, size: int) -> Path:
        """A master of that size with 1 MiB of data."""
        path = self.bench.directory("masters") / f"base{size >> 20}.raw"
        if not path.exists():
            with path.open("wb") as file:
                file.write(os.urandom(MIB))
                file.truncate(size)
        return path

    def on_master(self, data: Path, path: Path) -> Path:
        """An overlay that holds ``data``, at ``path``."""
        run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", data, path])
        run(["qemu-img", "rebase", "-u", "-F", "raw", "-b", self.master(data.stat().st_size), path])
        return path

    def fresh(self, directory: Path) -> Path:
        """A copy of the overlay as it was, in ``directory``, and in the page cache."""
        path = directory / self.overlay.name
        path.unlink(missing_ok=True)
        images.copy(self.overlay, path)
        images.warm(path)
        return path

    @cached_property
    def changes(self) -> tuple[str, int]:
        """What ``qemu-io`` does to change 1 %: clusters all over it; and how many bytes that are."""
        dice, commands, size = random.Random(3), [], self.data.stat().st_size
        runs = [run for run in images.data_runs(self.data) if run[1] >= 4 * CLUSTER]
        places = [at for start, length in runs for at in range(_up(start), start + length - CLUSTER, CLUSTER)]
        chosen = dice.sample(places, max(1, size // CLUSTER // 100))
        parts = self.bench.directory("parts")
        with self.data.open("rb", buffering=0) as source:
            for number, (offset, other) in enumerate(
                zip(chosen, dice.choices(places, k=len(chosen)), strict=True)
            ):
                part = parts / str(number)
                part.write_bytes(os.pread(source.fileno(), CLUSTER, other)[::-1])
                commands.append(f"write -q -s {part} {offset} {CLUSTER}\n")
        return "".join(commands) + "quit\n", len(chosen) * CLUSTER

    def change(self, path: Path) -> None:
        """Change 1 % of a copy of the overlay."""
        run(["qemu-io", "-t", "unsafe", "-f", "qcow2", path], stdin=self.changes[0])

    def larger(self, directory: Path, times: int) -> Path:
        """An overlay with so many times the data, no two parts of it alike."""
        path = directory / "large.raw"
        size = self.data.stat().st_size
        with self.data.open("rb", buffering=0) as source, path.open("wb", buffering=0) as target:
            target.truncate(size * times)
            for start, length in images.data_runs(self.data):
                for offset in range(start, start + length, 16 * MIB):
                    step = min(16 * MIB, start + length - offset)
                    part = bytearray(os.pread(source.fileno(), step, offset))
                    for turn in range(times):
                        for at in range(0, step, 4 * KIB):
                            part[at] = (part[at] + 1) % 256
                        os.pwrite(target.fileno(), part, turn * size + offset)
        overlay = self.on_master(path, directory / "web.qcow2")
        path.unlink()
        return overlay


def _up(offset: int) -> int:
    return -(-offset // CLUSTER) * CLUSTER


def tree_size(path: Path) -> int:
    """Bytes of the files below ``path``."""
    return sum(
        os.lstat(os.path.join(directory, name)).st_size
        for directory, _, names in os.walk(path)
        for name in names
    )
