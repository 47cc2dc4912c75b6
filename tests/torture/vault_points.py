"""Commands on the vault with a fault at a system call, and everything that has to be true afterwards."""

from __future__ import annotations

import shutil
from pathlib import Path

from overlaysync.errors import OverlaysyncError
from tests.torture.points import Torturer
from tests.torture.runner import Outcome, Runner
from tests.torture.vault_scenes import (
    DISKS,
    UEFI,
    VaultScene,
    VaultStage,
    damaged,
    missing,
    numbers,
    temporaries,
    unlike,
    unlisted,
)


class VaultTorturer(Torturer[VaultScene]):
    """Tortures commands on a vault, and pushes to an archive.

    Both lack nothing that their heads list, and the newest state comes back as it was saved.
    """

    def __init__(self, runner: Runner, stage: VaultStage, scene: VaultScene, *, tries: int = 3) -> None:
        self._stage = stage
        super().__init__(runner, stage.place, scene, tries=tries)

    def _undisturbed(self, outcome: Outcome) -> None:
        wrong = [*self._wrong(done=True), *self._wrong_back()]
        assert not wrong, f"{self.scene.name}: {wrong}\n{outcome}"

    def _wrong_after(self, first: Outcome) -> list[str]:
        # What the fault itself kept from being removed, and nothing else, is left for the next run.
        stuck = [
            call.text for call in first.calls if call.name.startswith("unlink") and "INJECTED" in call.text
        ]
        return self._wrong(done=first.code == 0, stuck="\n".join(stuck))

    def _wrong_again(self, first: Outcome, second: Outcome) -> list[str]:
        gone = self.scene.gone
        done = {0, gone} if first.code in (0, gone) or self._listed() == self.scene.states else {0}
        wrong = [] if second.code in done else ["it does not succeed"]
        return wrong + self._wrong(done=True, repeated=True) + self._wrong_back()

    @property
    def _into(self) -> Path:
        """The vault that the command writes to."""
        return self._place.root / self.scene.into

    def _listed(self) -> set[int]:
        return numbers(self._place.home, self._into)

    def _wrong(self, *, done: bool, repeated: bool = False, stuck: str = "") -> list[str]:
        """What is wrong with the vault and the archive, and what was left behind."""
        home, scene = self._place.home, self.scene
        try:
            lacking = missing(self._into)
            known = lacking and lacking <= scene.broken and not done
            found = [] if known else [*damaged(home), *damaged(home, self._into)]
            listed = self._listed() if not lacking else scene.states
        except OverlaysyncError as error:
            return [f"the vault cannot be checked: {error}"]
        # Who is killed after the head was written saves once more.
        more = listed - {max(listed)} if repeated and scene.words[0] == "save" and listed else listed
        if done and scene.states not in (listed, more):
            found.append(f"states {sorted(listed)} are listed, and not {sorted(scene.states)}")
        if done and scene.removes and unlisted(self._into):
            found.append("what nobody needs is still there")
        if done and (left := [name for name in temporaries(self._place) if name not in stuck]):
            found.append(f"left behind: {left}")
        return found

    def _wrong_back(self) -> list[str]:
        """Whether the newest state comes back from what was written alone, into an empty directory."""
        if self.scene.words[0] == "restore":
            return [f"not as it was: {name}" for name in unlike(self.scene.truth, self._place.images)]
        back, home = self._place.root / "back", self._place.home
        shutil.rmtree(back, ignore_errors=True)
        back.mkdir()
        if self.scene.into != "home/vault":  # another machine, that knows the archive
            home = self._place.root / "other-home"
            shutil.rmtree(home, ignore_errors=True)
            shutil.copytree(self._place.home, home, ignore=shutil.ignore_patterns("vault", "catalog.*"))
        image = self.scene.image
        what = ("fetch", f"{self._stage.team}/{Path(image).stem}") if image else ("restore", self._stage.team)
        words = (*what, "--wait", "0", "--peer", "127.0.0.1:1", "--to", str(back), "--json", "--quiet")
        outcome = self._runner.run(words, directory=back, home=home)
        if outcome.code != 0:
            return [f"it cannot be brought back: {outcome}"]
        files = [image] if image else [*DISKS, UEFI]
        return [f"back, and not as it was: {name}" for name in unlike(self.scene.truth, back, files)]
