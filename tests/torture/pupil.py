"""A student whose every command is a real process, and the model of what every image must then be.

The model keeps the guest's bytes of each image, and nothing else of what overlaysync does. After any command,
killed or not, no file has changed but those it was told to make, and these are whole.
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
from hypothesis.stateful import RuleBasedStateMachine

from tests import images, reference
from tests.e2e.nodes import BAD_IMAGE, DONE, NO_BASE, NOT_FOUND, NOT_VERIFIED, USAGE, WOULD_DESTROY
from tests.torture.rot import flip
from tests.torture.runner import KILLED, Fault, Outcome
from tests.torture.school import MASTER, OVERLAY, School, Truth

ROTTEN = (NOT_VERIFIED, NO_BASE, BAD_IMAGE)
"""How a command may end when what it reads has rotted."""


class Pupil(RuleBasedStateMachine):
    """One student's images, and what must be true of them. It has no rules yet.

    Attributes:
        school: set before.
        truth: what each image is, by the name of its file.
    """

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

    # -- what must be true ---------------------------------------------------------------------------

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
