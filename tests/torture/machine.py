"""Any order of commands: hypothesis chooses them, a simple model says what every image must hold.

A teacher shares a master ``base``, an overlay ``lesson`` on it and a master ``disk``. A student fetches,
makes, promotes, moves, discards, verifies and heals images in one directory, writes into overlays as a guest
would, and is killed; bits rot, files are deleted. The model keeps the guest's bytes of each image, and
nothing else of what overlaysync does. Everything the student runs is a real process.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from overlaysync.units import CHUNK, KIB, MIB
from tests import images, reference
from tests.e2e import disks
from tests.e2e.nodes import BAD_IMAGE, DONE, NO_BASE, NOT_FOUND, NOT_VERIFIED, WOULD_DESTROY, Lab
from tests.torture.rot import flip, memory_or, stored
from tests.torture.runner import KILLED, Fault, Outcome, Runner

SIZE = MIB
NAMES = st.sampled_from(["a", "b", "c", "d"])
LESSONS = ("base", "lesson", "disk")

FAULTS = st.none() | st.builds(
    Fault,
    st.sampled_from(
        ["pwrite64", "pwritev2", "fsync", "fdatasync", "renameat2", "unlink", "ftruncate", "write"]
    ),
    st.integers(1, 20),
    st.just("kill"),
)


@dataclass(slots=True)
class Truth:
    """What an image is.

    Attributes:
        guest: what its guest must see.
        base: name of the file below; "" for a master.
        lesson: what it was fetched as; "" when it was made here.
        file: the bytes of the file, when nothing may change them any more; else None.
        rot: (offset, bit) of the bits that have turned over.
        written: a guest has written to it since it was made.
    """

    guest: bytes
    base: str = ""
    lesson: str = ""
    file: bytes | None = None
    rot: set[tuple[int, int]] = field(default_factory=set)
    written: bool = False


@dataclass(slots=True)
class School:
    """What all examples share: the process that forks commands, and the teacher."""

    runner: Runner
    peer: str
    lessons: dict[str, bytes]
    root: Path
    counts: Counter[str] = field(default_factory=Counter)


@contextmanager
def school(lab: Lab, runner: Runner) -> Iterator[School]:
    """A teacher who shares."""
    teacher = lab.node("teacher")
    base = disks.make_master(teacher.place / "base.qcow2", size=SIZE, data=SIZE * 3 // 4)
    lesson = disks.make_overlay(
        teacher.place / "lesson.qcow2", base, (CHUNK, CHUNK), (SIZE // 2 + 512, 9000), cluster_size=4096
    )
    disk = disks.make_master(teacher.place / "disk.qcow2", size=SIZE)
    share = teacher.share(teacher.place)
    contents = {path.stem: images.content(path) for path in (base, lesson, disk)}
    root = Path(tempfile.mkdtemp(prefix="overlaysync-machine-", dir=memory_or(lab.root)))
    try:
        yield School(runner, share.peer, contents, root)
    finally:
        shutil.rmtree(root)


class Student(RuleBasedStateMachine):
    """One student. Set ``school`` before."""

    school: School

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(dir=self.school.root))
        self.place, self.home = self.root / "images", self.root / "home"
        for directory in (self.place, self.home):
            directory.mkdir(mode=0o700)
        self.truth: dict[str, Truth] = {}

    def teardown(self) -> None:
        try:
            self._look_closely()
            self.school.counts["examples"] += 1
        finally:
            shutil.rmtree(self.root)

    @initialize()
    def begin(self) -> None:
        self.fetch("base", None, False, None)

    # -- rules ---------------------------------------------------------------------------------------

    @rule(lesson=st.sampled_from(LESSONS), name=st.none() | NAMES, replace=st.booleans(), fault=FAULTS)
    def fetch(self, lesson: str, name: str | None, replace: bool, fault: Fault | None) -> None:
        words = ["fetch", lesson, "--peer", self.school.peer]
        words += ["--as", name] if name else []
        words += ["--replace"] if replace else []
        target = f"{name or lesson}.qcow2"
        taken = target in self.truth
        outcome = self._do(words, fault)
        if outcome.code == DONE:
            for item in outcome.document["fetched"]:
                file = Path(item["path"]).name
                if not item["already_here"] or file not in self.truth:
                    self._made(file, self.school.lessons[item["name"]], lesson=item["name"])
                assert self.truth[file].guest == self.school.lessons[item["name"]], outcome
            assert self.truth[target].guest == self.school.lessons[lesson], outcome
        elif taken:
            assert outcome.code in (WOULD_DESTROY, *self._if_rotten(NOT_VERIFIED, NO_BASE)), outcome
        else:
            assert outcome.code in self._if_rotten(NOT_VERIFIED, NO_BASE), outcome

    @precondition(lambda self: self._masters())
    @rule(data=st.data(), name=NAMES, fault=FAULTS)
    def new(self, data: st.DataObject, name: str, fault: Fault | None) -> None:
        master = data.draw(st.sampled_from(self._masters()))
        target = f"{name}.qcow2"
        outcome = self._do(["new", target, "--master", master], fault)
        if self._may_make(target, outcome):
            self._made(target, self.truth[master].guest)
            assert self.truth[target].base == master

    @precondition(lambda self: self._writable())
    @rule(
        data=st.data(),
        offset=st.integers(0, SIZE // 512 - 1).map(lambda sector: sector * 512),
        length=st.sampled_from([512, 4 * KIB, 9 * KIB, CHUNK, 3 * CHUNK]),
        byte=st.integers(0, 3),
    )
    def write(self, data: st.DataObject, offset: int, length: int, byte: int) -> None:
        name = data.draw(st.sampled_from(self._writable()))
        truth, length = self.truth[name], min(length, SIZE - offset)
        images.apply(self.place / name, [images.Op("write", offset, length, byte)])
        truth.guest = truth.guest[:offset] + bytes([byte]) * length + truth.guest[offset + length :]
        truth.file, truth.written = (self.place / name).read_bytes(), True
        self.school.counts["writes"] += 1

    @precondition(lambda self: self._overlays())
    @rule(data=st.data(), name=NAMES, discard=st.booleans(), fault=FAULTS)
    def promote(self, data: st.DataObject, name: str, discard: bool, fault: Fault | None) -> None:
        overlay = data.draw(st.sampled_from(self._overlays()))
        target = f"{name}.qcow2"
        words = ["promote", overlay, "--as", name, *(["--discard"] if discard else [])]
        guest = self.truth[overlay].guest
        outcome = self._do(words, fault, gone=discard and overlay)
        if self._may_make(target, outcome, rotten=self._rotten(overlay)):
            self._made(target, guest)
            if discard:
                self.truth.pop(overlay, None)

    @precondition(lambda self: self._overlays() and self._masters())
    @rule(data=st.data(), name=st.none() | NAMES, fault=FAULTS)
    def rebase(self, data: st.DataObject, name: str | None, fault: Fault | None) -> None:
        overlay = data.draw(st.sampled_from(self._overlays()))
        master = data.draw(st.sampled_from(self._masters()))
        more = ["--as", name] if name else ["--replace"]
        target = f"{name}.qcow2" if name else overlay
        guest = self.truth[overlay].guest
        outcome = self._do(["rebase", overlay, "--onto", master, *more], fault)
        rotten = self._rotten(overlay) or self._rotten(master)
        if self._may_make(target, outcome, rotten=rotten, replace=name is None):
            self._made(target, guest)
            assert self.truth[target].base == master

    @precondition(lambda self: self._overlays())
    @rule(data=st.data(), fault=FAULTS)
    def discard(self, data: st.DataObject, fault: Fault | None) -> None:
        overlay = data.draw(st.sampled_from(self._overlays()))
        outcome = self._do(["discard", overlay, "--yes"], fault, gone=overlay)
        assert outcome.code == DONE, outcome
        self.truth.pop(overlay, None)

    @precondition(lambda self: self.truth)
    @rule(data=st.data())
    def verify(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.truth)))
        outcome = self._do(["verify", name])
        if self._rotten(name):
            assert outcome.code == NOT_VERIFIED, outcome
        elif not any(self.truth[below].written for below in self._lineage(name)):
            assert outcome.code == DONE, outcome

    @precondition(lambda self: self._sound())
    @rule(data=st.data(), bit=st.integers(0, 7))
    def rot(self, data: st.DataObject, bit: int) -> None:
        name = data.draw(st.sampled_from(self._sound()))
        path, truth = self.place / name, self.truth[name]
        places = stored(path)
        if not places or truth.written:
            return
        _, length, host = data.draw(st.sampled_from(places))
        spot = (host + data.draw(st.integers(0, length - 1)), bit)
        silent = flip(path, *spot)
        truth.rot ^= {spot}
        truth.file = path.read_bytes()
        self.school.counts["bits"] += 1
        if not silent:
            # What was written is taken for a change by whoever is told to use it; so it is found at once.
            assert self._do(["verify", name]).code == NOT_VERIFIED
            self._heal(name)

    @precondition(lambda self: self._with_rot())
    @rule(data=st.data())
    def heal(self, data: st.DataObject) -> None:
        self._heal(data.draw(st.sampled_from(self._with_rot())))

    @precondition(lambda self: self._unneeded())
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self._unneeded()))
        (self.place / name).unlink()
        del self.truth[name]

    @precondition(lambda self: any(self.place.glob(".*")))
    @rule()
    def sweep(self) -> None:
        for part in self.place.glob(".*"):
            part.unlink()

    # -- what must be true ---------------------------------------------------------------------------

    @invariant()
    def nothing_is_lost_or_changed(self) -> None:
        self.school.counts["steps"] += 1
        files = {path.name for path in self.place.iterdir() if not path.name.startswith(".")}
        assert files == set(self.truth)
        for name, truth in self.truth.items():
            assert (self.place / name).read_bytes() == truth.file, name

    def _look_closely(self) -> None:
        """Heal what is rotten; then QEMU sees in every image what the model says, and ids say the same."""
        for name in self._with_rot():
            self._heal(name)
        for name, truth in self.truth.items():
            path = self.place / name
            assert images.check(path) == 0, name
            assert images.content(path) == truth.guest, name
            outcome = self._do(["id", name])
            assert outcome.document["disk"] == f"b3:{reference.disk(truth.guest).id.hex()}", outcome
            mode = path.stat().st_mode & 0o777
            assert truth.base or mode == 0o444, f"{name} has mode {mode:o}"
        self.school.counts["images looked at"] += len(self.truth)

    # -- doing ---------------------------------------------------------------------------------------

    def _do(self, words: list[str], fault: Fault | None = None, gone: str | bool = "") -> Outcome:
        """Run a command; one that was killed is looked after, and run again."""
        counts = self.school.counts
        counts[words[0]] += 1
        outcome = self._run(words, fault)
        if outcome.code == KILLED:
            counts["kills"] += 1
            for name, truth in self.truth.items():
                file = self.place / name
                assert file.exists() or name == gone, f"{words} killed: {name} is lost"
                if file.exists() and name not in ("".join(words[1:2]),) and "--replace" not in words:
                    assert file.read_bytes() == truth.file, f"{words} killed: {name} is changed"
            outcome = self._run(words, None)
            if gone and outcome.code == NOT_FOUND and not (self.place / str(gone)).exists():
                outcome = Outcome(outcome.words, DONE, outcome.stdout, outcome.stderr)
        assert outcome.code != KILLED and "Traceback" not in outcome.stderr, outcome
        return outcome

    def _run(self, words: list[str], fault: Fault | None) -> Outcome:
        return self.school.runner.run(
            (*words, "--json", "--quiet"), directory=self.place, home=self.home, fault=fault
        )

    def _may_make(
        self, target: str, outcome: Outcome, *, rotten: bool = False, replace: bool = False
    ) -> bool:
        """Whether the command has made the target, or found that it had; it says why if not."""
        taken = target in self.truth and not replace
        allowed = {WOULD_DESTROY, DONE} if taken else {DONE}
        if rotten:
            allowed |= {NOT_VERIFIED, NO_BASE, BAD_IMAGE}
        assert outcome.code in allowed, outcome
        return outcome.code == DONE

    def _made(self, name: str, guest: bytes, *, lesson: str = "") -> None:
        """The image is there now, with that content; or was, if it is the same."""
        path = self.place / name
        info = json.loads(images.run("qemu-img", "info", "-U", "--output=json", path))
        base = Path(info.get("full-backing-filename", "")).name
        before = self.truth.get(name)
        same = before is not None and before.file == path.read_bytes()
        if same and before is not None:
            assert before.guest == guest, f"{name} was something else"
            return
        self.truth[name] = Truth(guest, base, lesson, path.read_bytes())

    def _heal(self, name: str) -> None:
        """Heal from the teacher what came from there, else turn the bits back."""
        truth, path = self.truth[name], self.place / name
        from_teacher = truth.lesson and not self._rotten(truth.base)
        if from_teacher:
            outcome = self._do(["verify", name, "--repair", "--peer", self.school.peer])
            assert outcome.code == DONE, outcome
            self.school.counts["healed by a peer"] += 1
        else:
            for spot in truth.rot:
                flip(path, *spot)
        truth.rot, truth.file = set(), path.read_bytes()

    # -- asking the model ----------------------------------------------------------------------------

    def _lineage(self, name: str) -> Iterator[str]:
        while name:
            yield name
            name = self.truth[name].base

    def _rotten(self, name: str) -> bool:
        return any(self.truth[below].rot for below in self._lineage(name))

    def _if_rotten(self, *codes: int) -> tuple[int, ...]:
        return codes if self._with_rot() else ()

    def _masters(self) -> list[str]:
        return sorted(name for name, truth in self.truth.items() if not truth.base)

    def _overlays(self) -> list[str]:
        return sorted(name for name, truth in self.truth.items() if truth.base)

    def _writable(self) -> list[str]:
        """A guest that writes less than a cluster copies the rest of it: not from what is rotten."""
        return [name for name in self._overlays() if not self._rotten(name)]

    def _sound(self) -> list[str]:
        return sorted(name for name in self.truth if not self._rotten(name))

    def _with_rot(self) -> list[str]:
        """What stands lowest first: it is healed first."""
        return sorted(
            (name for name, truth in self.truth.items() if truth.rot),
            key=lambda name: bool(self.truth[name].base),
        )

    def _unneeded(self) -> list[str]:
        needed: set[Any] = {truth.base for truth in self.truth.values()}
        return sorted(set(self.truth) - needed)
