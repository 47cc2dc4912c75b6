"""A fault at a system call of a command on the vault, and everything that has to be true afterwards."""

from __future__ import annotations

import shutil
from collections.abc import Iterable

from overlaysync.errors import OverlaysyncError
from tests.torture.points import WHATS, Tally, is_hit, wrong_end
from tests.torture.runner import Call, Fault, Outcome, Runner
from tests.torture.vault_scenes import (
    VaultScene,
    VaultStage,
    damaged,
    missing,
    numbers,
    temporaries,
    unlike,
    unlisted,
)


class VaultTorturer:
    """Runs one scene with faults.

    Args:
        runner: forks commands; with threads where the scene needs them.
        stage: where the scene is played.
        scene: what.
        tries: calls are numbered; where a number means another call this time, the run is tried again.
    """

    def __init__(self, runner: Runner, stage: VaultStage, scene: VaultScene, *, tries: int = 3) -> None:
        self._runner = runner
        self._stage = stage
        self._place = stage.place
        self._tries = tries
        self.scene = scene
        self.calls = self._undisturbed()

    def faults(self, whats: Iterable[str] = WHATS) -> list[Fault]:
        """One of each kind at every call that changes something; threads share their numbers."""
        kinds = list(whats)
        points = dict.fromkeys((call.name, call.nth) for call in self.calls)
        return [Fault(name, nth, what) for name, nth in points for what in kinds]

    def try_one(self, fault: Fault) -> Tally:
        """Run the command with the fault, look, repeat the command, look again, and restore."""
        tally = Tally()
        hit: list[Call] = []
        at_place = False
        for attempt in range(self._tries):
            tally.counts["tried again"] += attempt > 0
            self._place.become(self.scene.template)
            first = self._run(fault)
            hit = [call for call in first.calls if is_hit(call, fault)]
            at_place = any(call.changes(self._place.root) for call in hit)
            if at_place:
                break
        tally.counts["runs"] += 1
        tally.counts[fault.what if at_place else "elsewhere" if hit else "not fired"] += 1
        where = hit[0].text if hit else "nothing"
        wrong = [*wrong_end(first, fault, at_place), *self._wrong(done=first.code == 0)]
        tally.counts["half done"] += first.code != 0
        second = self._run(None)
        done = {0, self.scene.gone} if first.code in (0, self.scene.gone) or self._listed() else {0}
        if second.code not in done:
            wrong.append(f"repeated, it does not succeed: {second}")
        wrong += [f"repeated: {one}" for one in self._wrong(done=True, repeated=True)]
        wrong += self._wrong_back()
        tally.findings += [f"{self.scene.name}, {fault} ({where}): {one}\n  {first}" for one in wrong]
        return tally

    def _undisturbed(self) -> list[Call]:
        """Run without a fault: the calls that change something; and all must be well then."""
        self._place.become(self.scene.template)
        outcome = self._run(None, trace=True)
        assert outcome.code == 0, f"{self.scene.name}: {outcome}"
        wrong = [*self._wrong(done=True), *self._wrong_back()]
        assert not wrong, f"{self.scene.name}: {wrong}\n{outcome}"
        return [call for call in outcome.calls if call.changes(self._place.root)]

    def _listed(self) -> bool:
        return numbers(self._place.home) == self.scene.states

    def _wrong(self, *, done: bool, repeated: bool = False) -> list[str]:
        """What is wrong with the vault, and what was left behind."""
        home, scene = self._place.home, self.scene
        try:
            lacking = missing(home)
            found = [] if lacking and lacking <= scene.broken and not done else damaged(home)
            listed = numbers(home) if not lacking else scene.states
        except OverlaysyncError as error:
            return [f"the vault cannot be checked: {error}"]
        # Who is killed after the head was written saves once more.
        more = listed - {max(listed)} if repeated and scene.words[0] == "save" and listed else listed
        if done and scene.states not in (listed, more):
            found.append(f"states {sorted(listed)} are listed, and not {sorted(scene.states)}")
        if done and scene.removes and unlisted(home):
            found.append("what nobody needs is still there")
        if done and (left := temporaries(self._place)):
            found.append(f"left behind: {left}")
        return found

    def _wrong_back(self) -> list[str]:
        """Whether the newest state comes back from the vault alone, into an empty directory."""
        if self.scene.words[0] == "restore":
            return [f"not as it was: {name}" for name in unlike(self.scene.truth, self._place.images)]
        back = self._place.root / "back"
        shutil.rmtree(back, ignore_errors=True)
        back.mkdir()
        words = ("restore", self._stage.team, "--wait", "0", "--to", str(back), "--json", "--quiet")
        outcome = self._runner.run(words, directory=back, home=self._place.home)
        if outcome.code != 0:
            return [f"it cannot be restored: {outcome}"]
        return [f"restored, and not as it was: {name}" for name in unlike(self.scene.truth, back)]

    def _run(self, fault: Fault | None, *, trace: bool = False) -> Outcome:
        return self._runner.run(
            self.scene.words,
            directory=self._place.images,
            home=self._place.home,
            fault=fault,
            trace=trace,
        )
