"""Commands to be tortured, each in a directory with images and a home; and what may be there afterwards.

A scene is made once, run once without a fault, and copied for every run. Layouts are planned before the first
byte, so the file that a command makes is the same, byte for byte, every time: what a user may see is either
the state before or, file by file, the state after.
"""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from overlaysync.units import CHUNK, KIB, MIB
from tests.e2e import disks
from tests.e2e.nodes import Lab, Node, Share
from tests.images import check, create
from tests.torture.rot import flip, host_offset

State = dict[str, tuple[str, int]]
"""Name → (SHA-256 of the file's bytes, mode)."""

Words = tuple[tuple[str, ...], int]

_JOURNAL_HEAD, _JOURNAL_RECORD = struct.Struct("<4sH32sQ"), struct.Struct("<QQI")


@dataclass(slots=True)
class Place:
    """The directories of one run; always at the same path, as the catalog knows images by their paths."""

    root: Path

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def home(self) -> Path:
        return self.root / "home"

    def state(self) -> State:
        """What a user sees."""
        return {
            path.name: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mode & 0o777)
            for path in self.images.iterdir()
            if not path.name.startswith(".")
        }

    def leftovers(self) -> list[str]:
        """Part files, and whatever else is hidden."""
        return [path.name for path in self.images.glob(".*")]

    def journals(self) -> int:
        """How many journals there are: one without its part file is harmless, and small."""
        return len(list(self.home.glob("journals/*")))

    def ids(self) -> dict[str, tuple[bytes, bytes | None]]:
        """Path → (disk id, layer id), as the catalog says; and SQLite must find nothing wrong with it."""
        file = self.home / "catalog.sqlite"
        if not file.exists():
            return {}
        with closing(sqlite3.connect(file)) as connection:
            try:
                assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
                rows = connection.execute("SELECT path, disk, layer FROM images").fetchall()
            except sqlite3.OperationalError as error:
                if "no such table" in str(error):
                    return {}
                raise
        return {Path(path.decode()).name: (disk, layer) for path, disk, layer in rows}

    def claimed(self) -> int:
        """Slots that journals claim in part files that are there."""
        total = 0
        for journal in (self.home / "journals").glob("*.journal"):
            data = journal.read_bytes()
            if len(data) < _JOURNAL_HEAD.size:
                continue
            _, length, _, inode = _JOURNAL_HEAD.unpack_from(data)
            if inode not in {part.stat().st_ino for part in self.images.glob(".*.part")}:
                continue
            start = _JOURNAL_HEAD.size + length + 4
            for at in range(start, len(data) - _JOURNAL_RECORD.size + 1, _JOURNAL_RECORD.size):
                total += _JOURNAL_RECORD.unpack_from(data, at)[1]
        return total

    def become(self, template: Path) -> None:
        """Hold a fresh copy of ``template``."""
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(template, self.root, symlinks=True)


@dataclass(slots=True)
class Scene:
    """One command and what it is run on.

    Attributes:
        name: of the scene.
        words: the command, JSON and quiet.
        template: holds ``images`` and ``home`` as they are before.
        before, after: what a user sees without the command, and after it.
        sizes: bytes of the files after it.
        ids: what the catalog says after it.
        gone: exit code of the command when it has been done already; 0 for most.
        unit: bytes of a slot of what is transferred.
        spared: faults that are not tried: a full disk where the command then does something else, and well.
    """

    name: str
    words: tuple[str, ...]
    template: Path
    gone: int = 0
    unit: int = CHUNK
    spared: tuple[str, ...] = ()
    before: State = field(default_factory=dict)
    after: State = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    ids: dict[str, tuple[bytes, bytes | None]] = field(default_factory=dict)

    def wrong(self, state: State) -> list[str]:
        """What is wrong with what a user sees: lost, changed, torn, or removed too early."""
        found = []
        for name in sorted({*state, *self.before, *self.after}):
            seen = state.get(name)
            if seen not in (self.before.get(name), self.after.get(name)):
                found.append(f"{name} is {'torn' if seen else 'lost'}")
        removed = [name for name in self.before if name not in self.after and name not in state]
        made = {name for name in self.after if self.after[name] != self.before.get(name)}
        if removed and any(state.get(name) != self.after[name] for name in made):
            found.append(f"{', '.join(removed)} removed before {', '.join(made)} was whole")
        return found


class Stage:
    """Makes scenes: images, a home that has been used, and a teacher who shares.

    Args:
        root: a directory of its own.
        lab: for the teacher.
        size: guest bytes of a master.
    """

    def __init__(self, root: Path, lab: Lab, *, size: int = 2 * MIB) -> None:
        self.root = root
        self.place = Place(root / "place")
        self.size = size
        self._lab = lab
        self._templates = root / "templates"
        self._share: Share | None = None

    def scene(self, name: str) -> Scene:
        """The scene of that name, ready but for its ``after``."""
        shutil.rmtree(self.place.root, ignore_errors=True)
        for directory in (self.place.images, self.place.home):
            directory.mkdir(parents=True, mode=0o700)
        words, gone = SCENES[name](self)
        template = self._templates / name
        shutil.copytree(self.place.root, template, symlinks=True)
        scene = Scene(name, (*words, "--json", "--quiet"), template, gone, before=self.place.state())
        return replace(scene, spared=SPARED.get(name, ()))

    # -- what is there before ------------------------------------------------------------------------

    def local(self, *, used: bool = True) -> Path:
        """Three images: a master, an overlay on it, and another master that is much like the first.

        Args:
            used: whether the home knows them.
        """
        images = self.place.images
        master = disks.make_master(images / "master.qcow2", size=self.size, data=self.size // 2)
        other = images / "other.qcow2"
        shutil.copyfile(master, other)
        disks.write(other, CHUNK, disks.noise("other", 2 * CHUNK))
        # Named without its directory: the images are copied to other places.
        vm = create(images / "vm.qcow2", backing=master.name)
        for offset, length in ((CHUNK, 2 * CHUNK), (self.size // 2, 3 * CHUNK)):
            disks.write(vm, offset, disks.noise(offset, length))
        for path in (master, other):
            path.chmod(0o444)
        if used:
            for path in (vm, other):
                self._run("id", path)
        return images

    def share(self) -> Share:
        """Shares ``lesson``, an overlay, with its master ``base``, and ``disk``."""
        if self._share is None:
            node = self._lab.node("teacher")
            base = disks.make_master(node.place / "base.qcow2", size=self.size)
            disks.make_overlay(node.place / "lesson.qcow2", base, (CHUNK, self.size // 2))
            disks.make_master(node.place / "disk.qcow2", size=self.size)
            disks.make_packed(node.place / "packed.qcow2", size=self.size)
            self._share = node.share(node.place)
        return self._share

    def fetched(self, name: str) -> Path:
        """An image that was fetched."""
        self._run("fetch", name, "--peer", self.share().peer, "--to", self.place.images)
        return self.place.images / f"{name}.qcow2"

    def _run(self, *words: object) -> None:
        node = Node(self.root / "before", self._lab.prefix, self._lab.forks)
        node.json(*words, OVERLAYSYNC_HOME=str(self.place.home), OVERLAYSYNC_USER="torture")


# -- the scenes: their words, and the exit code when there is nothing left to do ----------------------


def _new(stage: Stage) -> Words:
    stage.local()
    return ("new", "fresh.qcow2", "--master", "master.qcow2"), 0


def _discard(stage: Stage) -> Words:
    stage.local()
    return ("discard", "vm.qcow2", "--yes"), 3


def _promote(stage: Stage) -> Words:
    stage.local()
    return ("promote", "vm.qcow2", "--as", "kept"), 0


def _promote_discard(stage: Stage) -> Words:
    stage.local()
    return ("promote", "vm.qcow2", "--as", "kept", "--discard"), 3


def _rebase(stage: Stage) -> Words:
    stage.local()
    return ("rebase", "vm.qcow2", "--onto", "other.qcow2", "--as", "moved"), 0


def _rebase_replace(stage: Stage) -> Words:
    stage.local()
    return ("rebase", "vm.qcow2", "--onto", "other.qcow2", "--replace"), 0


def _repair(stage: Stage) -> Words:
    path = stage.fetched("disk")
    for at in (stage.size // 4, stage.size // 2):
        flip(path, host_offset(path, at), 3)
    return ("verify", "disk.qcow2", "--repair", "--yes", "--peer", stage.share().peer), 0


def _fetch_master(stage: Stage) -> Words:
    stage.local(used=False)
    return ("fetch", "disk", "--peer", stage.share().peer), 0


def _fetch_overlay(stage: Stage) -> Words:
    stage.local()
    return ("fetch", "lesson", "--peer", stage.share().peer), 0


def _fetch_replace(stage: Stage) -> Words:
    images = stage.local()
    disks.make_master(images / "disk.qcow2", size=stage.size, data=stage.size // 2, seed="older")
    return ("fetch", "disk", "--discard-changes", "--peer", stage.share().peer), 0


def _fetch_packed(stage: Stage) -> Words:
    return ("fetch", "packed", "--peer", stage.share().peer), 0


SCENES: dict[str, Callable[[Stage], Words]] = {
    "new": _new,
    "discard": _discard,
    "promote": _promote,
    "promote-discard": _promote_discard,
    "rebase": _rebase,
    "rebase-replace": _rebase_replace,
    "verify-repair": _repair,
    "fetch-master": _fetch_master,
    "fetch-overlay": _fetch_overlay,
    "fetch-replace": _fetch_replace,
    "fetch-packed": _fetch_packed,
}
SPARED = {"fetch-packed": ("ENOSPC",)}
"""Without room to compress it, a master is kept as it came: see ``tests/e2e/test_space.py``."""


def is_whole(path: Path) -> bool:
    """Whether QEMU finds nothing wrong with the file's structure."""
    return path.suffix == ".raw" or check(path) == 0


CHECKPOINT = 512 * KIB
"""Small enough that a small fetch claims something on its way."""
