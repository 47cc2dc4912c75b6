"""Any order of commands: hypothesis chooses them, a simple model says what every image must hold.

A teacher shares a master ``base``, an overlay ``lesson`` on it, an overlay ``exam`` on that, and a master
``disk``. A student fetches, makes, promotes, moves, discards, verifies and heals images in one directory,
writes into overlays as a guest would, and is killed; bits rot, files are deleted. The model keeps the guest's
bytes of each image, and nothing else of what overlaysync does. Everything the student runs is a real process.
After each of them, killed or not, no file has changed but those it was told to make.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace as changed
from pathlib import Path

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from overlaysync.units import CHUNK, KIB
from tests import images, reference
from tests.e2e.nodes import BAD_IMAGE, DONE, NO_BASE, NOT_FOUND, NOT_VERIFIED, USAGE, WOULD_DESTROY
from tests.torture.rot import flip, stored
from tests.torture.runner import KILLED, Fault, Outcome
from tests.torture.school import BELOW, MASTER, OVERLAY, SIZE, School, Truth, lineage

NAMES = st.sampled_from(["a", "b", "c", "d"])

ROTTEN = (NOT_VERIFIED, NO_BASE, BAD_IMAGE)
"""How a command may end when what it reads has rotted."""

FAULTS = st.none() | st.builds(
    Fault,
    st.sampled_from(
        ["pwrite64", "pwritev2", "fsync", "fdatasync", "renameat2", "rename", "unlink", "ftruncate", "write"]
    ),
    st.integers(1, 20),
    st.just("kill"),
)


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

    @rule(lesson=st.sampled_from(list(BELOW)), name=st.none() | NAMES, replace=st.booleans(), fault=FAULTS)
    def fetch(self, lesson: str, name: str | None, replace: bool, fault: Fault | None) -> None:
        words = ["fetch", lesson, "--peer", self.school.peer, "--wait", "60"]
        words += ["--as", name] if name else []
        words += ["--replace"] if replace else []
        target, guests = f"{name or lesson}.qcow2", self.school.lessons
        makes = {f"{below}.qcow2": Truth(guests[below], lesson=below) for below in lineage(BELOW[lesson])}
        makes[target] = Truth(guests[lesson], lesson=lesson, mode=OVERLAY if BELOW[lesson] else MASTER)
        taken = target in self.truth
        stood_on = {guests[below] for below in lineage(BELOW[lesson])}
        free = not taken or (replace and not self._on(target) and self.truth[target].guest not in stood_on)
        outcome = self._do(words, fault, makes, replaces=target if replace else "")
        if outcome.code == DONE:
            assert self.truth[target].guest == guests[lesson], outcome
        else:
            allowed = (() if free else (WOULD_DESTROY,)) + (ROTTEN if self._with_rot() else ())
            assert outcome.code in allowed, outcome

    @precondition(lambda self: self._bases())
    @rule(data=st.data(), name=NAMES, fault=FAULTS)
    def new(self, data: st.DataObject, name: str, fault: Fault | None) -> None:
        base = data.draw(self._one_of(self._bases()))
        truth, target = Truth(self.truth[base].guest, base, mode=OVERLAY), f"{name}.qcow2"
        taken, rotten = target in self.truth, self._rotten(base)
        outcome = self._do(["new", target, "--master", base], fault, {target: truth})
        self._judge(outcome, truth, target, taken=taken, rotten=rotten)

    @precondition(lambda self: self._overlays())
    @rule(data=st.data(), name=NAMES, discard=st.booleans(), fault=FAULTS)
    def promote(self, data: st.DataObject, name: str, discard: bool, fault: Fault | None) -> None:
        overlay = data.draw(self._one_of(self._overlays()))
        truth, target = Truth(self.truth[overlay].guest), f"{name}.qcow2"
        refused, rotten = discard and bool(self._on(overlay)), self._rotten(overlay)
        taken = target in self.truth
        words = ["promote", overlay, "--as", name, *(["--discard"] if discard else [])]
        outcome = self._do(words, fault, {target: truth}, gone=overlay if discard and not refused else "")
        self._judge(outcome, truth, target, taken=taken, refused=refused, rotten=rotten)
        assert outcome.code != DONE or not discard or overlay not in self.truth

    @precondition(lambda self: self._overlays() and self._bases())
    @rule(data=st.data(), name=st.none() | NAMES, fault=FAULTS)
    def rebase(self, data: st.DataObject, name: str | None, fault: Fault | None) -> None:
        overlay, base = data.draw(self._one_of(self._overlays())), data.draw(self._one_of(self._bases()))
        truth = Truth(self.truth[overlay].guest, base, mode=OVERLAY)
        target, more = (f"{name}.qcow2", ["--as", name]) if name else (overlay, ["--replace"])
        refused = overlay in self._lineage(base) or (not name and bool(self._on(overlay)))
        rotten = self._rotten(overlay) or self._rotten(base)
        taken = bool(name) and target in self.truth
        words = ["rebase", overlay, "--onto", base, *more]
        outcome = self._do(words, fault, {target: truth}, replaces="" if name or refused else overlay)
        self._judge(outcome, truth, target, taken=taken, refused=refused, rotten=rotten)

    @precondition(lambda self: self.truth)
    @rule(data=st.data(), fault=FAULTS)
    def discard(self, data: st.DataObject, fault: Fault | None) -> None:
        name = data.draw(self._one_of(list(self.truth)))
        refused = not self.truth[name].base or bool(self._on(name))
        outcome = self._do(["discard", name, "--yes"], fault, gone="" if refused else name)
        assert outcome.code == (WOULD_DESTROY if refused else DONE), outcome
        assert refused or name not in self.truth, outcome

    @precondition(lambda self: self.truth)
    @rule(data=st.data())
    def verify(self, data: st.DataObject) -> None:
        name = data.draw(self._one_of(list(self.truth)))
        outcome = self._do(["verify", name])
        if self._rotten(name):
            assert outcome.code == NOT_VERIFIED, outcome
        elif not any(self.truth[below].unread for below in self._lineage(name)):
            assert outcome.code == DONE, outcome

    @precondition(lambda self: self._sound())
    @rule(data=st.data())
    def identify(self, data: st.DataObject) -> None:
        self._id(data.draw(self._one_of(self._sound())))

    @precondition(lambda self: self._writable())
    @rule(
        data=st.data(),
        offset=st.integers(0, SIZE // 512 - 1).map(lambda sector: sector * 512),
        length=st.sampled_from([512, 4 * KIB, 9 * KIB, CHUNK, 3 * CHUNK]),
        byte=st.integers(0, 3),
    )
    def write(self, data: st.DataObject, offset: int, length: int, byte: int) -> None:
        name = data.draw(self._one_of(self._writable()))
        truth, length = self.truth[name], min(length, SIZE - offset)
        images.apply(self.place / name, [images.Op("write", offset, length, byte)])
        truth.guest = truth.guest[:offset] + bytes([byte]) * length + truth.guest[offset + length :]
        truth.file, truth.unread, truth.lesson = (self.place / name).read_bytes(), True, ""
        self.school.counts["writes"] += 1

    @precondition(lambda self: self._writable())
    @rule(data=st.data())
    def freeze(self, data: st.DataObject) -> None:
        """An overlay that nobody may write to: others may stand on it."""
        name = data.draw(self._one_of(self._writable()))
        (self.place / name).chmod(MASTER)
        self.truth[name].mode = MASTER
        self._id(name)

    @precondition(lambda self: self._sound())
    @rule(data=st.data(), bit=st.integers(0, 7))
    def rot(self, data: st.DataObject, bit: int) -> None:
        name = data.draw(self._one_of(self._sound()))
        path, truth = self.place / name, self.truth[name]
        places = stored(path)
        if not places or truth.unread:
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
    @rule(data=st.data(), fault=FAULTS)
    def heal(self, data: st.DataObject, fault: Fault | None) -> None:
        self._heal(data.draw(self._one_of(self._with_rot())), fault)

    @precondition(lambda self: self._unneeded())
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        name = data.draw(self._one_of(self._unneeded()))
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
        self._settle({})

    def _settle(self, makes: Mapping[str, Truth], *, replaces: str = "", gone: str = "") -> None:
        """However a command ended: all is as it was, but what it was to make, or to remove after that."""
        files = {path.name: self._file(path) for path in self.place.iterdir() if path.name[0] != "."}
        made = [name for name in files if name not in self.truth or self.truth[name].state != files[name]]
        for name in made:
            assert name not in self.truth or name == replaces, f"{name} is changed"
            # What is brought along gets another name where that of the lesson is taken.
            wanted = makes.get(name) or makes.get(re.sub(r"-[0-9a-f]+(?=\.)", "", name))
            assert wanted is not None, f"{name} was not asked for"
            self.truth[name] = self._told(name, wanted)
        for name in made:
            self._look(name)
        for name in set(self.truth) - set(files):
            assert name == gone, f"{name} is lost"
            assert set(makes) <= set(files), f"{name} was removed too early"
            del self.truth[name]

    @staticmethod
    def _file(path: Path) -> tuple[bytes, int]:
        return path.read_bytes(), path.stat().st_mode & 0o777

    def _told(self, name: str, wanted: Truth) -> Truth:
        """What is known of a new image before its content is looked at."""
        info = json.loads(images.run("qemu-img", "info", "-U", "--output=json", self.place / name))
        base = Path(info.get("full-backing-filename", "")).name
        assert base == wanted.base or wanted.lesson, f"{name} stands on {base}"
        # A run that ended before it had looked at its image leaves it unread.
        file = (self.place / name).read_bytes()
        return changed(wanted, base=base, file=file, rot=set(), unread=True)

    def _look(self, name: str) -> None:
        """The image is whole, and QEMU sees in it what the model says."""
        path, truth = self.place / name, self.truth[name]
        assert images.check(path) == 0, name
        assert self._rotten(name) or images.content(path) == truth.guest, f"{name} is not what it should be"
        assert path.stat().st_mode & 0o777 == truth.mode, f"{name} has mode {path.stat().st_mode:o}"

    def _look_closely(self) -> None:
        """Heal what is rotten; then QEMU sees in every image what the model says, and ids say the same."""
        for name in self._with_rot():
            self._heal(name)
        for name in self.truth:
            self._look(name)
            self._id(name)
        self.school.counts["images looked at"] += len(self.truth)

    # -- doing ---------------------------------------------------------------------------------------

    def _do(
        self,
        words: list[str],
        fault: Fault | None = None,
        makes: Mapping[str, Truth] | None = None,
        *,
        replaces: str = "",
        gone: str = "",
    ) -> Outcome:
        """Run a command; one that was killed is looked after, and run again.

        Args:
            makes: what it may make, by name of the file.
            replaces: what of that may be there already, as something else.
            gone: what it may remove, after all that it makes is there.
        """
        self.school.counts[words[0]] += 1
        before = set(self.truth)
        outcome = self._run(words, fault)
        killed = outcome.code == KILLED
        if killed:
            self.school.counts["kills"] += 1
            self._settle(makes or {}, replaces=replaces, gone=gone)
            outcome = self._run(words, None)
            if outcome.code == NOT_FOUND and gone and gone not in self.truth:
                outcome = changed(outcome, code=DONE)
        assert outcome.code != KILLED and "Traceback" not in outcome.stderr, outcome
        self._settle(makes or {}, replaces=replaces, gone=gone)
        # Only what has rotted may be found late.
        assert killed or outcome.code in (DONE, *ROTTEN) or set(self.truth) == before, outcome
        if outcome.code == DONE:
            for name in set(self.truth) & set(makes or {}):
                self.truth[name].unread = False
        return outcome

    def _run(self, words: list[str], fault: Fault | None) -> Outcome:
        outcome = self.school.runner.run(
            (*words, "--json", "--quiet"), directory=self.place, home=self.home, fault=fault
        )
        note(f"{' '.join(words)}: exit {outcome.code} {outcome.error.get('what', '')}")
        return outcome

    def _judge(
        self,
        outcome: Outcome,
        wanted: Truth,
        target: str,
        *,
        taken: bool,
        refused: bool = False,
        rotten: bool = False,
    ) -> None:
        """How a command may end that makes an image of images; the files have been looked at."""
        if outcome.code == DONE:
            made = self.truth[target]
            assert (made.guest, made.base) == (wanted.guest, wanted.base) and not refused, outcome
            return
        allowed = {WOULD_DESTROY, USAGE} if refused else set()
        # What a killed run has made is known again, unless what it stands on has rotted.
        allowed |= {WOULD_DESTROY} if taken or (rotten and target in self.truth) else set()
        assert outcome.code in allowed | (set(ROTTEN) if rotten else set()), outcome

    def _id(self, name: str) -> None:
        """Read an image that is sound: its id is that of what its guest sees."""
        outcome = self._do(["id", name])
        disk = reference.disk(self.truth[name].guest).id.hex()
        assert outcome.document["disk"] == f"b3:{disk}", outcome
        for below in self._lineage(name):
            self.truth[below].unread = False

    def _heal(self, name: str, fault: Fault | None = None) -> None:
        """Heal from the teacher what came from there, else turn the bits back."""
        truth, path = self.truth[name], self.place / name
        if truth.lesson and not self._rotten(truth.base):
            whole = changed(truth, rot=set())
            words = ["verify", name, "--repair", "--yes", "--peer", self.school.peer]
            outcome = self._do(words, fault, {name: whole}, replaces=name)
            assert outcome.code == DONE and not self.truth[name].rot, outcome
            self.school.counts["healed by a peer"] += 1
        else:
            for spot in truth.rot:
                flip(path, *spot)
            truth.rot, truth.file = set(), path.read_bytes()

    # -- asking the model ----------------------------------------------------------------------------

    @staticmethod
    def _one_of(names: list[str]) -> st.SearchStrategy[str]:
        return st.sampled_from(sorted(names))

    def _lineage(self, name: str) -> Iterator[str]:
        while name:
            yield name
            name = self.truth[name].base

    def _rotten(self, name: str) -> bool:
        return any(self.truth[below].rot for below in self._lineage(name))

    def _on(self, name: str) -> list[str]:
        return [other for other, truth in self.truth.items() if truth.base == name]

    def _bases(self) -> list[str]:
        """What others may stand on: what may not be written to."""
        return [name for name, truth in self.truth.items() if truth.mode == MASTER]

    def _overlays(self) -> list[str]:
        return [name for name, truth in self.truth.items() if truth.base]

    def _writable(self) -> list[str]:
        """A guest that writes less than a cluster copies the rest of it: not from what is rotten."""
        return [name for name in self._sound() if self.truth[name].mode == OVERLAY]

    def _sound(self) -> list[str]:
        return [name for name in self.truth if not self._rotten(name)]

    def _with_rot(self) -> list[str]:
        """What stands lowest first: it is healed first."""
        rotten = [name for name, truth in self.truth.items() if truth.rot]
        return sorted(rotten, key=lambda name: len(list(self._lineage(name))))

    def _unneeded(self) -> list[str]:
        return [name for name in self.truth if not self._on(name)]
