"""Any order of what is done with a vault: hypothesis chooses, and every restore is compared with a model.

Ann saves VMs that change, forgets states, cleans her vault, and may be killed at any of it; Ben keeps copies;
bits of his vault rot; Ann's machine is lost, and set up anew with what Ben has. The model knows what guests
saw.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from overlaysync.ops.recovery.cleaning import listed
from overlaysync.trust.team_files import keep_team, load_teams
from overlaysync.units import CHUNK
from tests import images
from tests.e2e.nodes import DONE, NOT_FOUND, Lab, Node, Share
from tests.torture.orders import run_orders
from tests.torture.runner import KILLED, Fault, Outcome, Runner
from tests.torture.vault_scenes import damaged, missing, numbers, vault_of

BLOCKS = 8
NAMES = ("web", "db")
_T = TypeVar("_T", int, str)
Content = tuple[int, ...]
State = dict[str, Content]

PICKS = st.integers(0, (1 << 20) - 1)
"""Numbers to choose by, whatever there is to choose from: a killed command gets further at times."""

FAULTS = st.none() | st.builds(
    Fault,
    st.sampled_from(["write", "fsync", "rename", "unlink", "openat", "mkdir", "pwrite64", "fdatasync"]),
    st.integers(1, 40),
    st.just("kill"),
)


def picked(things: Collection[_T], pick: int) -> _T:
    return sorted(things)[pick % len(things)]


def try_terms(lab: Lab, runner: Runner, *, seed: int, examples: int, steps: int) -> Counter[str]:
    """Try so many orders of so many steps; returns what was done."""
    counts: Counter[str] = Counter()

    class Chosen(Vaults):
        def __init__(self) -> None:
            super().__init__(lab, runner, counts)

    run_orders(Chosen, seed=seed, examples=examples, steps=steps)
    return counts


@dataclass(slots=True)
class Known:
    """What one vault lists, as the model has it.

    Attributes:
        states: by number, what the VMs were.
    """

    states: dict[int, State] = field(default_factory=dict)

    def newest(self, number: int = 0) -> State:
        """Of each VM what it was last, up to the state of that number."""
        found: State = {}
        for at in sorted(self.states):
            if not number or at <= number:
                found |= self.states[at]
        return found


class Vaults(RuleBasedStateMachine):
    """Ann and Ben of one team, two VMs of Ann's, one master."""

    def __init__(self, lab: Lab, runner: Runner, counts: Counter[str]) -> None:
        super().__init__()
        self.lab, self.runner, self.counts = lab, runner, counts
        self.root = Path(tempfile.mkdtemp(dir=lab.root))
        self.byte = self.homes = self.back = 0
        self.ben = Node(self.root / "ben", lab.prefix, lab.forks)
        tag = self.root.name[-6:].replace("_", "x")
        self.team = lab.team(f"vault{tag}", self.ben)
        self.at_ben, self.at_ann = Known(), Known()
        self.own: set[int] = set()
        self.vms: State = {}
        self.serving: Share | None = None
        self.ann = self.new_ann()

    def new_ann(self) -> Node:
        """Ann's machine, as it is after it was set up."""
        self.homes += 1
        ann = Node(self.root / f"ann{self.homes}", self.lab.prefix, self.lab.forks)
        keep_team(ann.home / "teams", load_teams(self.ben.home / "teams")[self.team])
        return ann

    @initialize()
    def begin(self) -> None:
        master = images.create(self.ann.place / "base.qcow2", BLOCKS * CHUNK)
        images.draw(master, "A" * BLOCKS)
        master.chmod(0o444)
        for name in NAMES:
            images.create(self.ann.place / f"{name}.qcow2", backing=Path("base.qcow2"))
            self.vms[name] = (ord("A"),) * BLOCKS
        self.save(set(NAMES), None)

    def teardown(self) -> None:
        self.stop()
        self.ann.close()
        self.ben.close()
        self.counts["terms"] += 1
        shutil.rmtree(self.root)

    # -- doing ---------------------------------------------------------------------------------------

    def run(self, node: Node, *words: str, fault: Fault | None = None) -> Outcome:
        self.counts[words[0]] += 1
        outcome = self.runner.run(
            (*words, "--json", "--quiet"), directory=node.place, home=node.home, fault=fault
        )
        note(
            f"{node.base.name}: {' '.join(words)}, {fault}: "
            f"exit {outcome.code} {outcome.error.get('what', '')}"
        )
        assert "Traceback" not in outcome.stderr, outcome
        return outcome

    def do(self, node: Node, *words: str, fault: Fault | None = None) -> Outcome:
        """Run a command that must succeed; one that was killed leaves its vault whole, and is run again."""
        outcome = self.run(node, *words, fault=fault)
        if outcome.code == KILLED:
            self.counts["kills"] += 1
            self.look(node)
            outcome = self.run(node, *words)
        assert outcome.code == DONE, outcome
        return outcome

    def stop(self) -> None:
        if self.serving is not None:
            self.serving.stop()
        self.serving = None

    def peer(self, node: Node) -> list[str]:
        """Whom to name, so that a node serves what it has."""
        self.stop()
        self.serving = node.start_keep(self.team)
        return ["--peer", self.serving.peer]

    def look(self, node: Node) -> None:
        assert not missing(node.home) and not damaged(node.home), node.base.name

    # -- rules ---------------------------------------------------------------------------------------

    @rule(name=st.sampled_from(NAMES), block=st.integers(0, BLOCKS - 1))
    def write(self, name: str, block: int) -> None:
        """A VM runs."""
        self.byte = self.byte % 250 + 1
        path = self.ann.place / f"{name}.qcow2"
        images.apply(path, [images.Op("write", block * CHUNK, CHUNK, self.byte)])
        content = self.vms[name]
        self.vms[name] = (*content[:block], self.byte, *content[block + 1 :])
        note(f"{name}: {self.byte} in block {block}")

    @rule(names=st.sets(st.sampled_from(NAMES), min_size=1), fault=FAULTS)
    def save(self, names: set[str], fault: Fault | None) -> None:
        self.stop()
        words = [word for name in sorted(names) for word in ("--vm", name)]
        before = numbers(self.ann.home)
        assert before == set(self.at_ann.states), (before, self.at_ann.states)
        outcome = self.run(self.ann, "save", "--team", self.team, *words, ".", fault=fault)
        if outcome.code == KILLED:
            self.counts["kills"] += 1
            self.look(self.ann)
            self.note_saved(numbers(self.ann.home) - before, names)
            before = numbers(self.ann.home)
            outcome = self.run(self.ann, "save", "--team", self.team, *words, ".")
        assert outcome.code == DONE, outcome
        self.note_saved(numbers(self.ann.home) - before, names)
        assert outcome.document["state"] in self.at_ann.states

    def note_saved(self, made: set[int], names: set[str]) -> None:
        assert len(made) <= 1, made
        for number in made:
            self.at_ann.states[number] = {name: self.vms[name] for name in names}
            self.own.add(number)

    @precondition(lambda self: self.own)
    @rule(pick=PICKS, fault=FAULTS)
    def forget(self, pick: int, fault: Fault | None) -> None:
        """Forget a state: the newest of a VM stays, whatever is said."""
        self.stop()
        number = picked(self.own, pick)
        needed = {
            max(at for at, state in self.at_ann.states.items() if name in state)
            for name in {name for state in self.at_ann.states.values() for name in state}
        }
        outcome = self.run(self.ann, "forget", f"{self.team}:{number}", fault=fault)
        if outcome.code == KILLED:
            self.counts["kills"] += 1
            self.look(self.ann)
            outcome = self.run(self.ann, "forget", f"{self.team}:{number}")
            assert outcome.code in (DONE, NOT_FOUND), outcome
        assert outcome.code in (DONE, NOT_FOUND), outcome
        if number not in needed:
            del self.at_ann.states[number]
            self.own.remove(number)
        assert numbers(self.ann.home) == set(self.at_ann.states)

    @rule(names=st.sets(st.sampled_from(NAMES), min_size=1))
    def save_often(self, names: set[str]) -> None:
        """Three states of some VMs, and one between is forgotten: the newest is meant all the same."""
        for block in range(3):
            for name in sorted(names):
                self.write(name, block)
            self.save(names, None)
        self.forget(len(self.own) - 2, None)
        self.check_restore(self.ann, self.at_ann, [], None, None)

    @rule(fault=FAULTS, due=st.booleans())
    def clean(self, fault: Fault | None, due: bool) -> None:
        """Clean Ann's vault; two weeks may have gone by."""
        self.stop()
        notes = self.ann.home / "vault" / ".unneeded.json"
        if due:
            self.do(self.ann, "vault", "gc")
            notes.write_text(json.dumps(dict.fromkeys(json.loads(notes.read_text()), 0.0)))
        outcome = self.do(self.ann, "vault", "gc", fault=fault)
        self.counts["objects removed"] += len(outcome.document["removed"])
        self.look(self.ann)

    @precondition(lambda self: self.own)
    @rule(fault=FAULTS)
    def keep(self, fault: Fault | None) -> None:
        """Ben takes what Ann has saved."""
        self.do(self.ben, "keep", self.team, "--once", *self.peer(self.ann), fault=fault)
        self.at_ben.states = {
            number: state for number, state in self.at_ben.states.items() if number not in self.own
        } | self.at_ann.states
        self.look(self.ben)
        assert numbers(self.ben.home) >= set(self.at_ann.states)

    @rule(pick=PICKS, old=st.booleans(), fault=FAULTS)
    def restore(self, pick: int, old: bool, fault: Fault | None) -> None:
        """Ann restores from her own vault."""
        self.stop()
        self.check_restore(self.ann, self.at_ann, [], pick if old else None, fault)

    @precondition(lambda self: self.at_ben.states)
    @rule(pick=PICKS, old=st.booleans())
    def restore_from_ben(self, pick: int, old: bool) -> None:
        """Somebody new of the team restores what Ben has."""
        new = self.new_ann()
        self.check_restore(new, self.at_ben, self.peer(self.ben), pick if old else None, None)
        shutil.rmtree(new.base)

    def check_restore(
        self, node: Node, known: Known, more: list[str], pick: int | None, fault: Fault | None
    ) -> None:
        """Restore the newest state or, with ``pick``, one by its number; compare it with the model."""
        number = picked(known.states, pick) if pick is not None and known.states else 0
        self.back += 1
        to = node.base / f"back{self.back}"
        words = ["restore", f"{self.team}:{number}" if number else self.team, "--to", str(to), *more]
        words += [] if more else ["--wait", "0"]
        if not known.states:
            assert self.run(node, *words).code == NOT_FOUND
            return
        self.do(node, *words, fault=fault)
        for name, content in known.newest(number).items():
            seen = images.content(to / f"{name}.qcow2")
            assert tuple(seen[block * CHUNK] for block in range(BLOCKS)) == content, (name, number)
        self.counts["restores compared"] += 1
        shutil.rmtree(to)

    @precondition(lambda self: self.at_ben.states and self.at_ben.states == self.at_ann.states)
    @rule(really=st.sampled_from([True, False, False]))
    def lose_ann(self, really: bool) -> None:
        """Ann's machine is gone; the new one begins with what Ben has, as guests saw it when it was saved."""
        if not really:
            return
        self.stop()
        self.ann.close()
        shutil.rmtree(self.ann.base)
        self.ann = self.new_ann()
        peer = self.peer(self.ben)
        self.do(self.ann, "keep", self.team, "--once", *peer)
        self.do(self.ann, "restore", self.team, "--to", ".", *peer)
        self.own = set()
        for name, content in self.at_ben.newest().items():
            self.vms[name] = content
        for name in set(NAMES) - set(self.at_ben.newest()):
            images.create(self.ann.place / f"{name}.qcow2", backing=Path("base.qcow2"))
            self.vms[name] = (ord("A"),) * BLOCKS
        assert numbers(self.ann.home) == set(self.at_ann.states)
        self.counts["machines lost"] += 1

    @precondition(lambda self: self.at_ben.states and self.at_ben.states == self.at_ann.states)
    @rule(pick=PICKS, at=PICKS)
    def rot(self, pick: int, at: int) -> None:
        """A bit of Ben's vault turns over; it is found, and Ann's copy takes its place."""
        self.stop()
        objects = vault_of(self.ben.home)
        name = picked({one for one in listed(objects)[0] if "/heads/" not in one}, pick)
        path = objects.root / name
        rotten = bytearray(path.read_bytes())
        rotten[at % len(rotten)] ^= 1
        path.write_bytes(rotten)
        assert self.run(self.ben, "vault", "check", "--read").code != DONE
        self.do(self.ben, "keep", self.team, "--once", *self.peer(self.ann))
        assert self.run(self.ben, "vault", "check", "--read").code == DONE
        self.counts["bits"] += 1

    @invariant()
    def nothing_referred_to_is_missing(self) -> None:
        for node in (self.ann, self.ben):
            assert not missing(node.home), node.base.name
        self.counts["steps"] += 1
