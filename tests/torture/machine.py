"""Any order of commands: hypothesis chooses them, and after each of them all images must be as they should.

A student fetches, makes, promotes, moves, discards, verifies and heals images in one directory, writes into
overlays as a guest would, and is killed; bits rot, files are deleted.
"""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from overlaysync.units import CHUNK, KIB
from tests import images
from tests.e2e.nodes import DONE, NO_BASE, NOT_VERIFIED, WOULD_DESTROY
from tests.torture.orders import run_orders
from tests.torture.pupil import ROTTEN, Pupil
from tests.torture.rot import flip, stored
from tests.torture.runner import Fault
from tests.torture.school import BELOW, MASTER, OVERLAY, SIZE, School, Truth, lineage

NAMES = st.sampled_from(["a", "b", "c", "d"])

FAULTS = st.none() | st.builds(
    Fault,
    st.sampled_from(
        ["pwrite64", "pwritev2", "fsync", "fdatasync", "renameat2", "rename", "unlink", "ftruncate", "write"]
    ),
    st.integers(1, 20),
    st.just("kill"),
)


def try_orders(made: School, *, seed: int, examples: int, steps: int) -> None:
    """Try so many orders of so many commands."""

    class Chosen(Student):
        school = made

    run_orders(Chosen, seed=seed, examples=examples, steps=steps)


class Student(Pupil):
    """One student, and what may happen to the images."""

    @initialize()
    def begin(self) -> None:
        self.fetch("exam", None, "", None)

    # -- rules ---------------------------------------------------------------------------------------

    @rule(
        lesson=st.sampled_from(list(BELOW)),
        name=st.none() | NAMES,
        option=st.sampled_from(["", "--replace", "--discard-changes"]),
        fault=FAULTS,
    )
    def fetch(self, lesson: str, name: str | None, option: str, fault: Fault | None) -> None:
        words = ["fetch", lesson, "--peer", self.school.peer, "--wait", "60"]
        words += ["--as", name] if name else []
        words += [option] if option else []
        discard, before = option == "--discard-changes", self.truth.get(f"{name or lesson}.qcow2")
        target, guests = f"{name or lesson}.qcow2", self.school.lessons
        makes = {f"{below}.qcow2": Truth(guests[below], lesson=below) for below in lineage(BELOW[lesson])}
        makes[target] = Truth(guests[lesson], lesson=lesson, mode=OVERLAY if BELOW[lesson] else MASTER)
        taken = target in self.truth
        stood_on = {guests[below] for below in lineage(BELOW[lesson])}
        free = not taken or (discard and not self._on(target) and self.truth[target].guest not in stood_on)
        outcome = self._do(words, fault, makes, replaces=target if option else "")
        if outcome.code == DONE:
            assert self.truth[target].guest == guests[lesson], outcome
            # The teacher has one version of each thing, so nothing is behind: only what is elsewhere goes.
            kept = [*guests.values(), *(one.guest for one in self.truth.values())]
            assert discard or before is None or before.guest in kept, outcome
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
        base = self.truth[name].base
        if base and self._rotten(base) and outcome.code == NO_BASE:
            # What stands between the two was healed: that the times of one file are old tells nothing then.
            assert "verify --repair" in outcome.error["hint"], outcome
        elif self._rotten(name):
            assert outcome.code == NOT_VERIFIED, outcome
        elif self.truth[name].used:
            # A guest may have written what was there already.
            assert outcome.code in (DONE, NOT_VERIFIED), outcome
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
        truth.used = truth.used or bool(truth.lesson)
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

    @invariant()
    def nothing_is_lost_or_changed(self) -> None:
        self.school.counts["steps"] += 1
        self._settle({})
