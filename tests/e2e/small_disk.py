"""A small file system in memory, in a mount namespace of its own that is kept by a process that waits."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.namespaces import namespace
from tests.e2e.nodes import Lab, Node


@dataclass(frozen=True, slots=True)
class SmallDisk:
    """A small file system that only a student's commands see.

    Attributes:
        student: a node whose commands see it.
        point: where they see it.
        outside: the same place for everybody else.
    """

    student: Node
    point: Path
    outside: Path

    def resize(self, size: int) -> None:
        options = ["--options-mode", "ignore", "-o", f"remount,size={size}"]
        command = [*self.student.prefix, "mount", *options, str(self.point)]
        subprocess.run(command, check=True, capture_output=True)


@contextmanager
def small_disk(lab: Lab, size: int) -> Iterator[SmallDisk]:
    """A tmpfs of ``size`` bytes."""
    point = lab.root / "small"
    point.mkdir(parents=True)
    script = f"mount -t tmpfs -o size={size},mode=700 tmpfs '{point}'"
    with namespace("mount", script=script, within=lab.prefix) as made:
        yield SmallDisk(lab.node("student", prefix=made.prefix), point, made.outside(point))
