"""Any order of what the members of a team do: write, publish, fetch, replace, discard, and lose a master.

The model keeps versions and what follows what. It says how each command must end; and after each of them
every file of every member must hold just what the model says: nothing that a guest wrote is lost unasked.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from overlaysync.units import CHUNK
from tests import images
from tests.e2e.nodes import DONE, NO_BASE, NOT_ALLOWED, NOT_FOUND, USAGE, WOULD_DESTROY, Lab, Node, Share
from tests.torture.orders import run_orders
from tests.torture.runner import Outcome, Runner

BLOCKS = 8
NAMES = ("web", "db")
Content = tuple[int, ...]
EMPTY: Content = (0,) * BLOCKS


@dataclass(frozen=True, eq=False, slots=True)
class Version:
    """A published version of a name.

    Attributes:
        number: what others call it.
        follows: the versions before it.
    """

    name: str
    number: int
    content: Content
    follows: frozenset[Version]

    @property
    def before(self) -> Iterator[Version]:
        """All that it follows, directly or through others."""
        for version in self.follows:
            yield version
            yield from version.before

    def is_after(self, other: Version) -> bool:
        return any(version is other for version in self.before)


@dataclass(slots=True)
class File:
    """A member's overlay.

    Attributes:
        content: the byte in each block that its guest sees.
        held: what it held when it was last fetched or published.
    """

    content: Content
    held: frozenset[Version] = frozenset()

    @property
    def current(self) -> list[Version]:
        """The versions it holds now."""
        return [version for version in self.held if version.content == self.content]


@dataclass(slots=True)
class Member:
    """One machine of the team.

    Attributes:
        files: by name.
        seen: versions whose headers were seen here.
        share: what it serves at present, and as which version.
    """

    node: Node
    files: dict[str, File] = field(default_factory=dict)
    seen: set[Version] = field(default_factory=set)
    share: Share | None = None
    serves: dict[str, Version] = field(default_factory=dict)

    def stop(self) -> None:
        if self.share is not None:
            self.share.stop()
        self.share, self.serves = None, {}

    def see(self, versions: list[Version]) -> None:
        for version in versions:
            self.seen |= {version, *version.before}


def try_weeks(lab: Lab, runner: Runner, *, seed: int, examples: int, steps: int) -> Counter[str]:
    """Try so many orders of so many steps; returns what was done."""
    counts: Counter[str] = Counter()

    class Chosen(Team):
        def __init__(self) -> None:
            super().__init__(lab, runner, counts)

    run_orders(Chosen, seed=seed, examples=examples, steps=steps)
    return counts


class Team(RuleBasedStateMachine):
    """Three members, two VMs, one master."""

    def __init__(self, lab: Lab, runner: Runner, counts: Counter[str]) -> None:
        super().__init__()
        self.lab, self.runner, self.counts = lab, runner, counts
        self.root = Path(tempfile.mkdtemp(dir=lab.root))
        self.byte = 0
        self.read: dict[bytes, bytes] = {}
        self.members = [
            Member(Node(self.root / word, lab.prefix, lab.forks)) for word in ("ana", "ben", "cid")
        ]
        tag = self.root.name[-6:].replace("_", "x")
        self.team = lab.team(f"team{tag}", *(member.node for member in self.members))

    @initialize()
    def begin(self) -> None:
        """Ana makes both VMs on a master, and all have the master."""
        for member in self.members:
            master = images.create(member.node.place / "base.qcow2", BLOCKS * CHUNK)
            images.draw(master, "A" * BLOCKS)
            master.chmod(0o444)
        ana = self.members[0]
        for name in NAMES:
            assert self.run(ana, "new", f"{name}.qcow2", "--master", "base.qcow2").code == DONE
            ana.files[name] = File((ord("A"),) * BLOCKS)

    def teardown(self) -> None:
        for member in self.members:
            member.stop()
            member.node.close()
        self.counts["weeks"] += 1
        shutil.rmtree(self.root)

    # -- doing ---------------------------------------------------------------------------------------

    def run(self, member: Member, *words: str) -> Outcome:
        self.counts[words[0]] += 1
        outcome = self.runner.run(
            (*words, "--json", "--quiet"), directory=member.node.place, home=member.node.home
        )
        who, what = member.node.base.name, outcome.error.get("what", "")
        note(f"{who}: {' '.join(words)}: exit {outcome.code} {what}")
        assert "Traceback" not in outcome.stderr, outcome
        return outcome

    def peers(self, asking: Member) -> list[str]:
        return [
            word
            for member in self.members
            if member.share is not None and member is not asking
            for word in ("--peer", member.share.peer)
        ]

    def offered(self, asking: Member, name: str) -> list[Version]:
        """What the others list of a name."""
        found = [m.serves[name] for m in self.members if m is not asking and name in m.serves]
        return list(dict.fromkeys(found))

    # -- rules ---------------------------------------------------------------------------------------

    def one_with_files(self, data: st.DataObject) -> Member:
        return data.draw(st.sampled_from([member for member in self.members if member.files]))

    @rule(data=st.data(), block=st.integers(0, BLOCKS - 1))
    def write(self, data: st.DataObject, block: int) -> None:
        """A VM runs: what it shares is stopped first, as its owner does."""
        member = self.one_with_files(data)
        name = data.draw(st.sampled_from(sorted(member.files)))
        member.stop()
        self.byte = self.byte % 250 + 1
        path = member.node.place / f"{name}.qcow2"
        images.apply(path, [images.Op("write", block * CHUNK, CHUNK, self.byte)])
        file = member.files[name]
        file.content = (*file.content[:block], self.byte, *file.content[block + 1 :])
        note(f"{member.node.base.name}: writes {self.byte} to block {block} of {name}")
        self.counts["writes"] += 1

    @rule(data=st.data())
    def publish(self, data: st.DataObject) -> None:
        member = self.one_with_files(data)
        member.stop()
        member.share = member.node.start_share("--team", self.team, member.node.place)
        shared = {item["name"]: item["version"] for item in member.share.document()["shared"]}
        for name, file in member.files.items():
            if not file.held or any(version.content != file.content for version in file.held):
                number = 1 + max((version.number for version in file.held), default=0)
                file.held = frozenset({Version(name, number, file.content, file.held)})
            member.serves[name] = max(file.held, key=lambda version: version.number)
            assert shared[name] == member.serves[name].number, (name, shared)
            member.see([member.serves[name]])
        note(f"{member.node.base.name}: publishes {shared}")
        self.counts["publications"] += 1

    @precondition(lambda self: any(m.share for m in self.members))
    @rule(
        data=st.data(),
        name=st.sampled_from(NAMES),
        option=st.sampled_from(["", "--replace", "--discard-changes"]),
        dry=st.booleans(),
    )
    def fetch(self, data: st.DataObject, name: str, option: str, dry: bool) -> None:
        member = data.draw(st.sampled_from([one for one in self.members if self.peers(one)]))
        offered = self.offered(member, name)
        member.stop()
        words = ["fetch", f"{self.team}/{name}", *self.peers(member), "--wait", "20", "--seed", "0"]
        words += [option] if option else []
        member.see([version for m in self.members if m is not member for version in m.serves.values()])
        expected, version = self.expected(member, name, offered, option)
        if dry:
            assert self.run(member, *words, "--dry-run").code == expected
        outcome = self.run(member, *words)
        assert outcome.code == expected, (outcome, expected)
        if expected == DONE and version is not None:
            self.take(member, name, version)

    def expected(
        self, member: Member, name: str, offered: list[Version], option: str
    ) -> tuple[int, Version | None]:
        """How a fetch must end, and which version it takes."""
        if not offered:
            return NOT_FOUND, None
        newest = [one for one in offered if not any(other.is_after(one) for other in offered)]
        if len({version.content for version in newest}) > 1:
            return USAGE, None
        fresh = [one for one in newest if not any(seen.is_after(one) for seen in member.seen)]
        version = (fresh or newest)[0]
        if name not in member.files:
            return (DONE, version) if fresh else (NOT_ALLOWED, None)
        current = self.current(member, name)
        if member.files[name].content == version.content:
            return DONE, version
        if any(one.is_after(version) for one in current):
            return DONE, None
        ahead = any(version.is_after(one) for one in current)
        allowed = option == "--discard-changes" or (ahead and option == "--replace")
        if not allowed:
            return WOULD_DESTROY, None
        return (DONE, version) if fresh else (NOT_ALLOWED, None)

    def current(self, member: Member, name: str) -> list[Version]:
        """The versions that a file holds, by its note or by its content."""
        file = member.files[name]
        return file.current or [one for one in member.seen if (one.name, one.content) == (name, file.content)]

    def take(self, member: Member, name: str, version: Version) -> None:
        """The model of a fetch that took a version."""
        file = member.files.get(name)
        if file is None:
            member.files[name] = File(version.content, frozenset({version}))
            return
        if file.content == version.content:
            if not file.held or any(version.is_after(one) for one in file.held):
                file.held = frozenset({version})
            return
        current = self.current(member, name)
        ahead = any(version.is_after(one) for one in current)
        over = frozenset() if ahead else frozenset(current or file.held)
        member.files[name] = File(version.content, frozenset({version}) | over)

    @rule(data=st.data())
    def lose_the_master(self, data: st.DataObject) -> None:
        """Another image is copied over the master: every command that reads through it says so."""
        member = self.one_with_files(data)
        member.stop()
        master = member.node.place / "base.qcow2"
        kept = member.node.base / "kept.qcow2"
        # What was not known before may not be told: every overlay has been looked at.
        for name in member.files:
            assert self.run(member, "id", f"{name}.qcow2").code == DONE
        shutil.copyfile(master, kept)
        other = images.create(member.node.base / "other.qcow2", BLOCKS * CHUNK)
        images.draw(other, "Z" * BLOCKS)
        shutil.copyfile(other, master)
        other.unlink()
        name = sorted(member.files)[0]
        for command, *more in (("verify",), ("promote", "--as", "p"), ("id",)):
            assert self.run(member, command, f"{name}.qcow2", *more).code == NO_BASE
        shutil.copyfile(kept, master)
        assert self.run(member, "id", f"{name}.qcow2").code == DONE
        self.counts["masters lost"] += 1

    def content(self, overlay: Path) -> bytes:
        """What QEMU reads from it; files that are the same to the last byte are read once."""
        files = overlay.read_bytes(), (overlay.parent / "base.qcow2").read_bytes()
        digest = hashlib.sha256(b"".join(files)).digest()
        if digest not in self.read:
            self.read[digest] = images.content(overlay)
        return self.read[digest]

    @invariant()
    def every_file_holds_what_its_guest_wrote(self) -> None:
        for member in self.members:
            present = {path.stem for path in member.node.place.glob("*.qcow2")} - {"base"}
            assert present == set(member.files), member.node.base.name
            for name, file in member.files.items():
                seen = self.content(member.node.place / f"{name}.qcow2")
                assert tuple(seen[block * CHUNK] for block in range(BLOCKS)) == file.content
                assert len(seen) == BLOCKS * CHUNK
        self.counts["steps"] += 1
