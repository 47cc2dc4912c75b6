"""What any order of commands is checked against: a teacher who shares, and what each image must hold."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from overlaysync.units import CHUNK, MIB
from tests import images
from tests.e2e import disks
from tests.e2e.nodes import Lab
from tests.torture.rot import memory_or
from tests.torture.runner import Runner

SIZE = MIB

MASTER, OVERLAY = 0o444, 0o644

BELOW = {"base": "", "lesson": "base", "exam": "lesson", "disk": ""}
"""What the teacher shares, and what each stands on."""


@dataclass(slots=True)
class Truth:
    """What an image is.

    Attributes:
        guest: what its guest must see.
        base: name of the file below; "" for a master.
        lesson: what it was fetched as; "" when it was made here.
        mode: of the file; what may not be written may be stood on.
        file: the bytes of the file, which only a command told to may change.
        rot: (offset, bit) of the bits that have turned over.
        used: it was fetched, and written to since, so it need not be what was published.
        unread: nobody has hashed it since it was last written to, so rot in it would be taken for a change.
    """

    guest: bytes
    base: str = ""
    lesson: str = ""
    mode: int = MASTER
    file: bytes = b""
    rot: set[tuple[int, int]] = field(default_factory=set)
    used: bool = False
    unread: bool = False

    @property
    def state(self) -> tuple[bytes, int]:
        """What the file system says of it."""
        return self.file, self.mode


@dataclass(slots=True)
class School:
    """What all examples share: the process that forks commands, and the teacher.

    Attributes:
        peer: the teacher's address.
        lessons: what the guest of each thing that the teacher shares must see.
        root: where students work; where that can be had, bits rot there unseen.
        counts: what was done.
    """

    runner: Runner
    peer: str
    lessons: dict[str, bytes]
    root: Path
    counts: Counter[str] = field(default_factory=Counter)


@contextmanager
def school(lab: Lab, runner: Runner) -> Iterator[School]:
    """A teacher who shares."""
    place = (teacher := lab.node("teacher")).place
    base = disks.make_master(place / "base.qcow2", size=SIZE, data=SIZE * 3 // 4)
    lesson = disks.make_overlay(
        place / "lesson.qcow2", base, (CHUNK, CHUNK), (SIZE // 2 + 512, 9000), cluster_size=4096
    )
    lesson.chmod(MASTER)
    exam = disks.make_overlay(place / "exam.qcow2", lesson, (CHUNK // 2, CHUNK), (SIZE // 4, 512))
    disk = disks.make_master(place / "disk.qcow2", size=SIZE)
    share = teacher.share(place)
    contents = {path.stem: images.content(path) for path in (base, lesson, exam, disk)}
    root = Path(tempfile.mkdtemp(prefix="overlaysync-machine-", dir=memory_or(lab.root)))
    try:
        yield School(runner, share.peer, contents, root)
    finally:
        shutil.rmtree(root)


def lineage(lesson: str) -> Iterator[str]:
    """The lesson and all that it stands on."""
    while lesson:
        yield lesson
        lesson = BELOW[lesson]
