"""A fault at a system call of a command, and everything that has to be true afterwards."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from tests.torture.runner import KILLED, Call, Fault, Outcome, Runner
from tests.torture.scenes import Place, Scene, is_whole

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


class Played(Protocol):
    """A command to be tortured, and the directories that it is run on."""

    @property
    def name(self) -> str: ...
    @property
    def words(self) -> tuple[str, ...]: ...
    @property
    def template(self) -> Path: ...
    @property
    def spared(self) -> tuple[str, ...]: ...
    @property
    def unit(self) -> int: ...


PlayedT = TypeVar("PlayedT", bound=Played)


class Torturer(ABC, Generic[PlayedT]):
    """Runs one scene with faults. What has to be true afterwards, its subclasses say.

    Args:
        runner: forks commands; with threads where the scene needs them.
        place: where the scene is played.
        scene: what.
        tries: calls are numbered; where a number means another call this time, the run is tried again.
    """

    def __init__(self, runner: Runner, place: Place, scene: PlayedT, *, tries: int = 3) -> None:
        self._runner = runner
        self._place = place
        self._tries = tries
        self.scene = scene
        self._place.become(scene.template)
        outcome = self._run(trace=True)
        assert outcome.code == 0, f"{scene.name}: {outcome}"
        self._undisturbed(outcome)
        self.calls = [call for call in outcome.calls if call.changes(place.root)]

    def faults(self, whats: Iterable[str] = WHATS) -> list[Fault]:
        """One of each kind at every call that changes something, in order; threads share numbers."""
        kinds = [what for what in whats if what not in self.scene.spared]
        points = dict.fromkeys((call.name, call.nth) for call in self.calls)
        return [Fault(name, nth, what) for name, nth in points for what in kinds]

    def try_one(self, fault: Fault) -> Tally:
        """Run the command with the fault, look, repeat the command, and look again."""
        tally = Tally()
        for attempt in range(self._tries):
            tally.counts["tried again"] += attempt > 0
            self._place.become(self.scene.template)
            first = self._run(fault)
            hit = [call for call in first.calls if is_hit(call, fault)]
            changing = [call.changes(self._place.root) for call in hit]
            at_place = any(changing)
            if at_place:
                break
        tally.counts["runs"] += 1
        tally.counts[fault.what if at_place else "elsewhere" if hit else "not fired"] += 1
        tally.counts["half done"] += first.code != 0
        wrong = [*wrong_end(first, fault, at_place and all(changing)), *self._wrong_after(first)]
        claimed = self._place.claimed() * self.scene.unit
        second = self._run()
        wrong += [f"repeated: {one}" for one in self._wrong_again(first, second)]
        tally.counts["journals left"] += self._place.journals()
        if claimed and second.code == 0:
            wrong += _wasted(claimed, second, tally)
        where = hit[0].text if hit else "nothing"
        told = f"{self.scene.name}, {fault} ({where})"
        tally.findings += [f"{told}: {one}\n  {first}\n  and then {second}" for one in wrong]
        return tally

    @abstractmethod
    def _undisturbed(self, outcome: Outcome) -> None:
        """Learn what is to be after the command, which has just ended well; raise if it is not whole."""

    @abstractmethod
    def _wrong_after(self, first: Outcome) -> list[str]:
        """What is wrong after the fault."""

    @abstractmethod
    def _wrong_again(self, first: Outcome, second: Outcome) -> list[str]:
        """What is wrong when the command has been repeated without one."""

    def _run(self, fault: Fault | None = None, *, trace: bool = False) -> Outcome:
        return self._runner.run(
            self.scene.words,
            directory=self._place.images,
            home=self._place.home,
            fault=fault,
            trace=trace,
        )


class ImageTorturer(Torturer[Scene]):
    """Tortures commands that make images.

    A user sees the state before or, file by file, the state after; and the repeated command comes to its end.
    """

    def _undisturbed(self, outcome: Outcome) -> None:
        self.scene.after = self._place.state()
        self.scene.sizes = {path.name: path.stat().st_size for path in self._place.images.iterdir()}
        self.scene.ids = self._place.ids()
        assert self.scene.after != self.scene.before, outcome
        assert not self._place.leftovers(), self._place.leftovers()
        for path in self._place.images.iterdir():
            assert is_whole(path), path

    def _wrong_after(self, first: Outcome) -> list[str]:
        state = self._place.state()
        self._done = state == self.scene.after
        early = first.code == 0 and not self._done
        return self.scene.wrong(state) + ["it says that it is done, and it is not"] * early

    def _wrong_again(self, first: Outcome, second: Outcome) -> list[str]:
        wrong = []
        if second.code != 0 and not (self._done and second.code == self.scene.gone):
            wrong.append("it does not succeed")
        if self._place.state() != self.scene.after:
            wrong.append("it does not come to its end")
        elif second.code == 0 and self._place.leftovers():
            wrong.append(f"left behind: {self._place.leftovers()}")
        ids = self._place.ids()
        if second.code == 0 and ids != self.scene.ids:
            wrong.append(f"the catalog says {ids}, not {self.scene.ids}")
        return wrong


def wrong_end(outcome: Outcome, fault: Fault, at_place: bool) -> list[str]:
    """What is wrong with how a command ended that met the fault.

    Args:
        outcome: how it ended.
        fault: what it met.
        at_place: whether the fault met only calls that change something: threads share numbers, and another
            one may have failed to open what it reads. No full disk does that.
    """
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


def _wasted(claimed: int, second: Outcome, tally: Tally) -> list[str]:
    """Whether the repeated command has written again what the first one had claimed (bytes)."""
    document = second.document
    if not {"fetched", "restored"} & set(document):
        return []
    resumed = sum(one["resumed"] for made in ("fetched", "restored") for one in document.get(made, ()))
    tally.counts["bytes claimed"] += claimed
    tally.counts["bytes reused"] += min(resumed, claimed)
    return [f"{claimed} bytes were claimed and {resumed} reused"] if resumed < claimed else []
