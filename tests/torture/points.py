"""A fault at a system call of a command, and everything that has to be true afterwards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tests.torture.runner import KILLED, Call, Fault, Outcome, Runner
from tests.torture.scenes import Scene, Stage, is_whole

WHATS = ("kill", "ENOSPC", "EIO")
_NO_SPACE, _NOT_ALLOWED, _INTERNAL = 10, 8, 1


@dataclass(slots=True)
class Tally:
    """What was tried, and what was found.

    Attributes:
        counts: by what happened.
        findings: everything that was not as promised; must stay empty.
    """

    counts: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.counts += other.counts
        self.findings += other.findings


class Torturer:
    """Runs one scene with faults.

    Args:
        runner: forks commands.
        stage: where the scene is played.
        scene: what.
        tries: calls are numbered; where a number means another call this time, the run is tried again.
    """

    def __init__(self, runner: Runner, stage: Stage, scene: Scene, *, tries: int = 3) -> None:
        self._runner = runner
        self._tries = tries
        self._place = stage.place
        self.scene = scene
        self.calls = self._undisturbed()

    def faults(self, whats: Iterable[str] = WHATS) -> list[Fault]:
        """One of each kind at every call that changes something, in the order of the calls."""
        chosen = [what for what in whats if what not in self.scene.spared]
        return [Fault(call.name, call.nth, what) for call in self.calls for what in chosen]

    def try_one(self, fault: Fault) -> Tally:
        """Run the command with the fault, look, repeat the command, and look again."""
        scene, tally = self.scene, Tally()
        hit: list[Call] = []

        def complain(what: str, outcome: Outcome) -> None:
            where = hit[0].text if hit else "nothing"
            tally.findings.append(f"{scene.name}, {fault} ({where}): {what}\n  {outcome}")

        at_place = False
        for attempt in range(self._tries):
            tally.counts["tried again"] += attempt > 0
            self._place.become(scene.template)
            first = self._run(fault)
            hit = [call for call in first.calls if is_hit(call, fault)]
            at_place = bool(hit) and hit[0].changes(self._place.root)
            if at_place:
                break
        tally.counts["runs"] += 1
        tally.counts[fault.what if at_place else "elsewhere" if hit else "not fired"] += 1
        state = self._place.state()
        for wrong in (*scene.wrong(state), *wrong_end(first, fault, at_place)):
            complain(wrong, first)
        if first.code == 0 and state != scene.after:
            complain("it says that it is done, and it is not", first)
        claimed = self._place.claimed() * scene.unit
        self._repeat(first, claimed, tally, complain_of=complain)
        return tally

    def _repeat(
        self, first: Outcome, claimed: int, tally: Tally, *, complain_of: Callable[[str, Outcome], None]
    ) -> None:
        """Run it again, without a fault."""
        scene = self.scene
        done = self._place.state() == scene.after
        second = self._run(None)
        if second.code != 0 and not (done and second.code == scene.gone):
            complain_of("repeated, it does not succeed", _joined(first, second))
        if self._place.state() != scene.after:
            complain_of("repeated, it does not come to its end", _joined(first, second))
        elif second.code == 0 and self._place.leftovers():
            complain_of(f"left behind: {self._place.leftovers()}", _joined(first, second))
        tally.counts["journals left"] += self._place.journals()
        ids = self._place.ids()
        if second.code == 0 and ids != scene.ids:
            complain_of(f"the catalog says {ids}, not {scene.ids}", _joined(first, second))
        if claimed and second.code == 0 and "fetched" in second.document:
            resumed = sum(item["resumed"] for item in second.document["fetched"])
            tally.counts["bytes claimed"] += claimed
            tally.counts["bytes reused"] += min(resumed, claimed)
            if resumed < claimed:
                complain_of(f"{claimed} bytes were claimed and {resumed} reused", _joined(first, second))

    def _undisturbed(self) -> list[Call]:
        """Run without a fault: the calls that change something, and what the state after is."""
        self._place.become(self.scene.template)
        outcome = self._run(None, trace=True)
        assert outcome.code == 0, f"{self.scene.name}: {outcome}"
        self.scene.after = self._place.state()
        self.scene.sizes = {path.name: path.stat().st_size for path in self._place.images.iterdir()}
        self.scene.ids = self._place.ids()
        assert self.scene.after != self.scene.before, outcome
        assert not self._place.leftovers(), self._place.leftovers()
        for path in self._place.images.iterdir():
            assert is_whole(path), path
        return [call for call in outcome.calls if call.changes(self._place.root)]

    def _run(self, fault: Fault | None, *, trace: bool = False) -> Outcome:
        return self._runner.run(
            self.scene.words,
            directory=self._place.images,
            home=self._place.home,
            fault=fault,
            trace=trace,
        )


def wrong_end(outcome: Outcome, fault: Fault, at_place: bool) -> list[str]:
    """What is wrong with how a command ended that met the fault."""
    if "Traceback" in outcome.stderr:
        return ["a traceback"]
    if fault.what == "kill":
        return [] if outcome.code in (KILLED, 0) else [f"exit {outcome.code}"]
    if outcome.code == 0 or not at_place:
        return []
    expected = {_NO_SPACE if fault.what == "ENOSPC" else _INTERNAL} | _excused(outcome)
    found = [] if outcome.code in expected else [f"exit {outcome.code} instead of {min(expected)}"]
    error = outcome.error
    if not error.get("what") or not (error.get("why") or error.get("hint")):
        found.append("it does not say what is wrong")
    return found


def is_hit(call: Call, fault: Fault) -> bool:
    """Whether it is this call that the fault met."""
    if fault.what == "kill":
        return (call.name, call.nth) == (fault.name, fault.nth)
    return call.injected


def _excused(outcome: Outcome) -> set[int]:
    """Exit codes that are wrong and cannot be right: SQLite says no more than that it could not.

    Where the disk is really full that is found out; here it is full for one kind of call only.
    """
    hit = [call for call in outcome.calls if call.injected and "catalog.sqlite" in call.text]
    if any(call.name == "openat" for call in hit):
        return {_NOT_ALLOWED}
    return {_INTERNAL} if any(call.name == "unlink" for call in hit) else set()


def _joined(first: Outcome, second: Outcome) -> Outcome:
    """Both outcomes in one, for words about them."""
    words = (*second.words, "after", str(first))
    return Outcome(words, second.code, second.stdout, second.stderr, first.calls)
